/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Processes: exec, fork, exit; and control groups as they are made. Part of the object `observe`. */

enum {
    AEGIS_SIGNAL_GROUP_EXIT = 4
}; /* include/linux/sched/signal.h */

/* The longest record: built here, because it is of no fixed size, then copied into the ring. */
struct aegis_exec_scratch {
    struct aegis_exec record;
    __u8 text[AEGIS_PATH_BYTES + AEGIS_ARGS_BYTES + AEGIS_PATH_BYTES];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct aegis_exec_scratch);
} aegis_exec_scratch SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct aegis_walk);
} aegis_exec_walk SEC(".maps");

static __always_inline bool aegis_is_agent(__u32 tgid)
{
    return tgid == aegis_constants.agent_tgid;
}

/* Fills `ancestors`, the parent first, up to the first process of the host; returns how many. */
static __always_inline __u32 aegis_ancestors_of(struct task_struct *task, struct aegis_process *ancestors)
{
    __u32 count = 0;
    for (; count < AEGIS_ANCESTORS; count++) {
        task = task->real_parent;
        if (!task || !task->tgid)
            break;
        aegis_process_of(task, &ancestors[count]);
    }
    return count;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(tp_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
    __u32 zero = 0;
    struct aegis_exec_scratch *scratch = bpf_map_lookup_elem(&aegis_exec_scratch, &zero);
    struct aegis_walk *walk = bpf_map_lookup_elem(&aegis_exec_walk, &zero);
    struct mm_struct *mm = task->mm;
    if (!scratch || !walk || !mm) /* never: what executes has memory */
        return 0;
    struct aegis_exec *record = &scratch->record;

    aegis_process_of(task, &record->process);
    if (aegis_is_agent(record->process.pid)) {
        aegis_count_filtered(AEGIS_KIND_EXEC);
        return 0;
    }
    record->cgroup_id = aegis_cgroup_of(task);
    record->gid = task->cred->gid.val;
    record->ancestor_count = aegis_ancestors_of(task, record->ancestors);
    record->parent_pid = record->ancestor_count ? record->ancestors[0].pid : 0;
    bpf_get_current_comm(record->comm, sizeof(record->comm));

    struct file *file = mm->exe_file;
    record->flags = 0;
    record->inode = 0;
    record->device = 0;
    __u32 path_bytes = 0;
    if (file) {
        struct inode *inode = file->f_inode;
        record->inode = inode->i_ino;
        record->device = inode->i_sb->s_dev;
        if (!inode->i_nlink)
            record->flags |= AEGIS_EXE_DELETED;
        path_bytes = aegis_path_of(walk, &file->f_path, scratch->text);
        if (walk->truncated)
            record->flags |= AEGIS_PATH_TRUNCATED;
    }
    record->path_bytes = path_bytes;

    /* One copy: the block was written a moment ago, so its pages are there. */
    __u64 start = mm->arg_start;
    __u64 total = mm->arg_end - start;
    __u32 args_bytes = total > AEGIS_ARGS_BYTES ? AEGIS_ARGS_BYTES : total;
    if (path_bytes > AEGIS_PATH_BYTES) /* never; the verifier has forgotten */
        return 0;
    if (bpf_probe_read_user(&scratch->text[path_bytes], args_bytes, (void *)start))
        args_bytes = 0;
    record->args_bytes = args_bytes;
    record->args_total = total;

    struct fs_struct *fs = task->fs;
    __u32 cwd_bytes = 0;
    if (fs) {
        cwd_bytes = aegis_path_of(walk, &fs->pwd, &scratch->text[path_bytes + args_bytes]);
        if (walk->truncated)
            record->flags |= AEGIS_CWD_TRUNCATED;
    }
    record->cwd_bytes = cwd_bytes;

    __u32 size = sizeof(*record) + path_bytes + args_bytes + cwd_bytes;
    if (size > sizeof(*record) + sizeof(scratch->text)) /* never, likewise */
        return 0;
    aegis_emit(record, size, AEGIS_KIND_EXEC, false);
    return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(tp_fork, struct task_struct *parent, struct task_struct *child)
{
    if (child->pid != child->tgid) /* a thread */
        return 0;
    if (aegis_is_agent(parent->tgid)) {
        aegis_count_filtered(AEGIS_KIND_FORK);
        return 0;
    }
    struct aegis_fork record = {};
    aegis_process_of(child, &record.process);
    /* The child of CLONE_PARENT is a sibling of the caller: what is reported is the parent it will have. */
    aegis_process_of(child->real_parent, &record.parent);
    record.cgroup_id = aegis_cgroup_of(child);
    bpf_probe_read_kernel(record.comm, sizeof(record.comm), child->comm);
    aegis_emit(&record, sizeof(record), AEGIS_KIND_FORK, false);
    return 0;
}

/* Called once a process: when the last of its threads ends. */
static __always_inline int aegis_process_exit(struct task_struct *task)
{
    if (aegis_is_agent(task->tgid)) {
        aegis_count_filtered(AEGIS_KIND_EXIT);
        return 0;
    }
    struct task_struct *leader = task->group_leader;
    struct signal_struct *signal = task->signal;
    /* As wait(2) finds it: the group's where one was set (exit_group, a deadly signal), else the leader's
     * own. */
    __u32 status = signal->flags & AEGIS_SIGNAL_GROUP_EXIT ? signal->group_exit_code : leader->exit_code;
    struct aegis_exit record = {};
    aegis_process_of(task, &record.process);
    record.cgroup_id = aegis_cgroup_of(task);
    record.parent_pid = leader->real_parent->tgid;
    record.code = status >> 8 & 0xff;
    record.signal = status & 0x7f;
    bpf_probe_read_kernel(record.comm, sizeof(record.comm), leader->comm);
    aegis_emit(&record, sizeof(record), AEGIS_KIND_EXIT, false);
    return 0;
}

/* Set on the leader by the first thread that finds no other alive. */
struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, __u64);
} aegis_exited SEC(".maps");

/* Whether this is the process's end, on kernels whose event does not say: threads that are killed together
 * have all gone from `live` before the first of them gets here. */
static __always_inline bool aegis_first_to_find_none(struct task_struct *task)
{
    __u64 *exited;

    if (task->signal->live.counter)
        return false;
    exited = bpf_task_storage_get(&aegis_exited, task->group_leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    return !exited || !__sync_lock_test_and_set(exited, 1);
}

SEC("tp_btf/sched_process_exit")
int tp_exit(__u64 *context)
{
    struct task_struct *task = (struct task_struct *)context[0];
    bool dead;

    if (bpf_core_field_exists(struct trace_event_raw_sched_process_exit, group_dead))
        dead = context[1];
    else
        dead = aegis_first_to_find_none(task);
    return dead ? aegis_process_exit(task) : 0;
}

struct aegis_cgroup_scratch {
    struct aegis_cgroup record;
    __u8 path[AEGIS_CGROUP_PATH_BYTES];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct aegis_cgroup_scratch);
} aegis_cgroup_scratch SEC(".maps");

/* Runs before the directory can be seen, so before any task can enter it. The path lies in a buffer of the
 * kernel that all cgroup events share, under a lock held here: it is read now or never. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(tp_cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
    struct aegis_cgroup_scratch *scratch;
    __u32 zero = 0;
    long length;

    if (cgroup->root->hierarchy_id !=
        aegis_constants.cgroup_hierarchy_v2) /* version 1 ids collide with these */
        return 0;
    scratch = bpf_map_lookup_elem(&aegis_cgroup_scratch, &zero);
    if (!scratch)
        return 0;
    length = bpf_probe_read_kernel_str(scratch->path, sizeof(scratch->path), path);
    if (length < 1)
        length = 1;
    length = (length - 1) & (AEGIS_CGROUP_PATH_BYTES - 1); /* for the verifier: it is less already */
    scratch->record.cgroup_id = cgroup->kn->id;
    scratch->record.path_bytes = length;
    aegis_emit(scratch, sizeof(scratch->record) + length, AEGIS_KIND_CGROUP, false);
    return 0;
}
