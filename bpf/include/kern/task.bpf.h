/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who a task is, and the path of a file by its dentries and mounts: bpf_d_path is not allowed in these
 * programs. */
#ifndef AEGIS_KERN_TASK_H
#define AEGIS_KERN_TASK_H

/* Kernels before 5.5. */
struct task_struct___before_boottime {
    __u64 real_start_time;
} __attribute__((preserve_access_index));

static __always_inline __u64 aegis_start_of(struct task_struct *task)
{
    struct task_struct *leader = task->group_leader;
    if (bpf_core_field_exists(leader->start_boottime))
        return leader->start_boottime;
    return BPF_CORE_READ((struct task_struct___before_boottime *)leader, real_start_time);
}

static __always_inline void aegis_process_of(struct task_struct *task, struct aegis_process *process)
{
    process->start_ns = aegis_start_of(task);
    process->pid = task->tgid;
    process->uid = task->cred->uid.val;
}

static __always_inline __u64 aegis_cgroup_of(struct task_struct *task)
{
    return task->cgroups->dfl_cgrp->kn->id;
}

enum aegis_walk_limits {
    AEGIS_WALK_BYTES = 8192, /* a power of two above AEGIS_PATH_BYTES, so that a mask bounds every offset */
    AEGIS_NAME_MASK = 255,   /* NAME_MAX */
    AEGIS_WALK_STEPS = 2300  /* names of one character in AEGIS_PATH_BYTES, and mounts between them */
};

/* A path grows from its end, at AEGIS_WALK_BYTES, towards the front. The state of the walk lies in a map
 * value and not on the stack: the verifier then sees unknown numbers in it and converges at once. */
struct aegis_walk {
    __u64 dentry;
    __u64 mnt;
    __u32 start; /* offset of the path's first byte in text */
    __u32 truncated;
    __u8 text[AEGIS_WALK_BYTES + AEGIS_NAME_MASK + 1];
};

/* One name, or one mount upwards. Ends the loop with 1. */
static long aegis_walk_step(__u32 index, struct aegis_walk **argument)
{
    struct aegis_walk *walk = *argument;
    struct dentry *dentry = (struct dentry *)walk->dentry;
    struct vfsmount *mnt = (struct vfsmount *)walk->mnt;
    struct dentry *parent = BPF_CORE_READ(dentry, d_parent);

    if (dentry == BPF_CORE_READ(mnt, mnt_root)) {
        struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
        struct mount *above = BPF_CORE_READ(mount, mnt_parent);
        if (above == mount)
            return 1;
        walk->dentry = (__u64)BPF_CORE_READ(mount, mnt_mountpoint);
        walk->mnt = (__u64)above + bpf_core_field_offset(struct mount, mnt);
        return 0;
    }

    __u32 length = BPF_CORE_READ(dentry, d_name.len) & AEGIS_NAME_MASK;
    __u32 start = walk->start;
    if (start < length + 1 + AEGIS_WALK_BYTES - AEGIS_PATH_BYTES) {
        walk->truncated = 1;
        return 1;
    }
    start -= length;
    bpf_probe_read_kernel(&walk->text[start & (AEGIS_WALK_BYTES - 1)], length,
                          BPF_CORE_READ(dentry, d_name.name));
    start -= 1;
    walk->text[start & (AEGIS_WALK_BYTES - 1)] = '/';
    walk->start = start;
    walk->dentry = (__u64)parent;
    return parent == dentry; /* no directory above: a memfd, or a file system of the kernel's own */
}

/* Copies the path of a file or directory to `to`, which has AEGIS_PATH_BYTES, and gives its length. A path
 * that is too long keeps its end. */
static __always_inline __u32 aegis_path_of(struct aegis_walk *walk, struct path *path, void *to)
{
    walk->dentry = (__u64)path->dentry;
    walk->mnt = (__u64)path->mnt;
    walk->start = AEGIS_WALK_BYTES;
    walk->truncated = 0;
    bpf_loop(AEGIS_WALK_STEPS, aegis_walk_step, &walk, 0);
    __u32 start = walk->start;
    if (start == AEGIS_WALK_BYTES) { /* the root itself */
        start = AEGIS_WALK_BYTES - 1;
        walk->text[start] = '/';
    }
    __u32 length = AEGIS_WALK_BYTES - start;
    if (length > AEGIS_PATH_BYTES)
        return 0;
    bpf_probe_read_kernel(to, length, &walk->text[start & (AEGIS_WALK_BYTES - 1)]);
    return length;
}

#endif
