/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose mask is what: from control group, executable and user to the subjects of a policy, and the label of a
 * socket. The tables are filled by subject.bpf.c. */
#ifndef AEGIS_KERN_SUBJECT_BPF_H
#define AEGIS_KERN_SUBJECT_BPF_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct cgroup_subsys_state {
    struct cgroup *cgroup;
    struct cgroup_subsys_state *parent;
};

struct cgroup___subject {
    struct cgroup_subsys_state self;
    struct kernfs_node *kn;
    int level;
};

struct kernfs_node___subject {
    const char *name;
};

struct task_struct___subject {
    __u64 self_exec_id;
};

#pragma clang attribute pop

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct aegis_subject_control);
} aegis_subject_control SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, AEGIS_SUBJECT_CGROUPS);
    __type(key, __u64);
    __type(value, struct aegis_subject_cgroup);
} aegis_subject_cgroups SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, AEGIS_SUBJECT_EXES);
    __type(key, __u32);
    __type(value, struct aegis_subject_exe);
} aegis_subject_exes SEC(".maps");

/* Masks of users whom a selector of a slot matches. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, AEGIS_SUBJECT_USERS);
    __type(key, struct aegis_subject_user);
    __type(value, __u64);
} aegis_subject_users SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
    __type(key, int);
    __type(value, struct aegis_subject_label);
} aegis_sk_subject SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, AEGIS_SUBJECT_COUNTS);
    __type(key, __u32);
    __type(value, __u64);
} aegis_subject_counts SEC(".maps");

/* A mask is 0 or odd, so this is none: no process's socket. */
#define AEGIS_SUBJECT_NOBODY 2ull

enum {
    AEGIS_KERNELS_SOCKET = 3 /* SOCK_RAW: the type of those from which the kernel itself answers */
};

static __always_inline void aegis_subject_counted(__u32 what)
{
    __u64 *count = bpf_map_lookup_elem(&aegis_subject_counts, &what);

    if (count)
        __sync_fetch_and_add(count, 1);
}

static __always_inline struct aegis_subject_control *aegis_subject_controls(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&aegis_subject_control, &zero);
}

static __always_inline __u64 aegis_exec_of(struct task_struct *task)
{
    return ((struct task_struct___subject *)task)->self_exec_id;
}

struct aegis_ancestor {
    __u64 found;
    __u64 cgroup;
};

static long aegis_ancestor_step(__u32 index, struct aegis_ancestor *ancestor)
{
    struct cgroup___subject *below = (struct cgroup___subject *)ancestor->cgroup;
    struct cgroup_subsys_state *parent = BPF_CORE_READ(below, self.parent);
    struct cgroup *cgroup;
    __u64 id;

    if (!parent)
        return 1;
    cgroup = BPF_CORE_READ(parent, cgroup);
    ancestor->cgroup = (__u64)cgroup;
    id = BPF_CORE_READ(cgroup, kn, id);
    if (!bpf_map_lookup_elem(&aegis_subject_cgroups, &id))
        return 0;
    ancestor->found = id;
    return 1;
}

/* The nearest known control group above a task's, which is not known itself: `id`. It stays itself where none
 * is (it is outside of what is watched), and until the agent has taken in what there is. */
static __always_inline __u64 aegis_nearest_cgroup(struct task_struct *task, __u64 id)
{
    struct aegis_ancestor ancestor = {.cgroup = (__u64)BPF_CORE_READ(task, cgroups, dfl_cgrp)};
    struct aegis_subject_control *control = aegis_subject_controls();

    if (!control || !control->taken_in)
        return id;
    bpf_loop(AEGIS_SUBJECT_DEPTH, aegis_ancestor_step, &ancestor, 0);
    if (!ancestor.found)
        return id;
    aegis_subject_counted(AEGIS_SUBJECT_BY_ANCESTOR);
    return ancestor.found;
}

/* What the mask of the current task, which is `task`, is made of. Helpers and reads, not typed pointers: each
 * of those costs the verifier a millisecond. */
static __always_inline void aegis_subject_of_current(struct task_struct *task, struct aegis_subject_key *key)
{
    key->cgroup = bpf_get_current_cgroup_id();
    key->exec = BPF_CORE_READ((struct task_struct___subject *)task, self_exec_id);
    key->tgid = bpf_get_current_pid_tgid() >> 32;
    key->uid = bpf_get_current_uid_gid();
    if (unlikely(!bpf_map_lookup_elem(&aegis_subject_cgroups, &key->cgroup)))
        key->cgroup = aegis_nearest_cgroup(task, key->cgroup);
}

/* The same of another task. */
static __always_inline void aegis_subject_of_task(struct task_struct *task, struct aegis_subject_key *key)
{
    key->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
    key->exec = BPF_CORE_READ((struct task_struct___subject *)task, self_exec_id);
    key->tgid = BPF_CORE_READ(task, tgid);
    key->uid = BPF_CORE_READ(task, cred, uid.val);
    if (unlikely(!bpf_map_lookup_elem(&aegis_subject_cgroups, &key->cgroup)))
        key->cgroup = aegis_nearest_cgroup(task, key->cgroup);
}

/* Mask of subjects of a key under the policy that `state` names. Bit 0 is everybody and always set, but for
 * an owner who cannot be classified where such are denied: 0. */
__noinline __u64 aegis_subject_mask(const struct aegis_subject_key *key, __u64 state)
{
    struct aegis_subject_control *control = aegis_subject_controls();
    __u32 number = state & (AEGIS_POLICY_SLOTS - 1);
    __u32 generation = state >> 8;
    struct aegis_subject_cgroup *cgroup;
    struct aegis_subject_slot *slot;
    struct aegis_subject_user who;
    struct aegis_subject_exe *exe;
    __u64 mask, *user;

    if (!control || !key)
        return 1;
    slot = &control->slots[number];
    mask = slot->subjects;
    if (!mask || slot->generation != generation)
        return 1;
    if (slot->flags & AEGIS_SUBJECT_BY_CGROUP) {
        cgroup = bpf_map_lookup_elem(&aegis_subject_cgroups, &key->cgroup);
        if (unlikely(!cgroup || cgroup->sides[number].generation != generation)) {
            aegis_subject_counted(AEGIS_SUBJECT_UNKNOWN);
            return slot->flags & AEGIS_SUBJECT_UNKNOWN_DENIED ? 0 : 1;
        }
        mask &= cgroup->sides[number].mask;
    }
    if (slot->flags & AEGIS_SUBJECT_BY_EXE) {
        exe = bpf_map_lookup_elem(&aegis_subject_exes, &key->tgid);
        if (exe && exe->exec == key->exec && exe->sides[number].generation == generation)
            mask &= exe->sides[number].mask;
        else
            mask &= slot->exe_base;
    }
    if (slot->flags & AEGIS_SUBJECT_BY_USER) {
        who.slot = number;
        who.uid = key->uid;
        user = bpf_map_lookup_elem(&aegis_subject_users, &who);
        mask &= user ? *user : slot->user_base;
    }
    return mask | 1;
}

/* Makes the masks anew where they are not of the generation that `state` names; returns where those are. */
static __always_inline __u32 aegis_label_renew(struct aegis_subject_label *label, __u64 state)
{
    __u32 generation = state >> 8, at = generation & 1;

    if (likely(generation && label->generation[at] == generation))
        return at;
    label->maker_mask[at] = aegis_subject_mask(&label->maker, state);
    label->last_mask[at] = aegis_subject_mask(&label->last, state);
    barrier();
    *(volatile __u32 *)&label->generation[at] = generation;
    return at;
}

/* The masks were of somebody else. */
static __always_inline void aegis_label_void(struct aegis_subject_label *label)
{
    *(volatile __u32 *)&label->generation[0] = 0;
    *(volatile __u32 *)&label->generation[1] = 0;
}

static __always_inline __u64 aegis_state_word(void)
{
    __u32 zero = 0;
    struct aegis_control *control = bpf_map_lookup_elem(&aegis_control, &zero);

    return control ? aegis_in_force(control) : 0;
}

/* An empty label for a socket; filled in place, for there is little room on the stack. */
static __always_inline struct aegis_subject_label *aegis_subject_label(void *sk)
{
    struct aegis_subject_label *label =
        bpf_sk_storage_get(&aegis_sk_subject, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

    if (!label)
        aegis_subject_counted(AEGIS_SUBJECT_LABELS_FULL);
    return label;
}

/* Labels a new socket with its maker, the current task. */
static __always_inline void aegis_subject_made(struct bpf_sock *sk, struct task_struct *task)
{
    struct aegis_subject_label *label = aegis_subject_label(sk);

    if (!label)
        return;
    aegis_subject_of_current(task, &label->maker);
    label->last = label->maker;
    aegis_label_renew(label, aegis_state_word());
}

/* Labels a socket older than the agent with one who has it open. */
static __always_inline void aegis_subject_found(struct sock *sk, struct task_struct *task)
{
    struct aegis_subject_label *label = bpf_sk_storage_get(&aegis_sk_subject, sk, NULL, 0);

    if (label)
        return;
    label = aegis_subject_label(sk);
    if (!label)
        return;
    aegis_subject_of_task(task, &label->maker);
    label->last = label->maker;
    aegis_label_renew(label, aegis_state_word());
}

/* Labels a socket with a task that uses it: listens at it (what it accepts inherits that), or sends by it. */
static __always_inline void aegis_subject_used(void *sk, struct task_struct *task)
{
    struct aegis_subject_label *label = bpf_sk_storage_get(&aegis_sk_subject, sk, NULL, 0);

    if (!label)
        return;
    aegis_subject_of_task(task, &label->last);
    aegis_label_void(label);
    aegis_label_renew(label, aegis_state_word());
}

/* Mask of a full socket's last user. Sockets of the kernel's own have no label and belong to nobody. */
static __always_inline __u64 aegis_subject_of_socket(struct bpf_sock *sk, __u64 state)
{
    struct aegis_subject_control *control;
    struct aegis_subject_label *label;
    struct aegis_subject_slot *slot;

    control = aegis_subject_controls();
    if (!control)
        return 1;
    slot = &control->slots[state & (AEGIS_POLICY_SLOTS - 1)];
    if (!slot->subjects)
        return 1;
    label = bpf_sk_storage_get(&aegis_sk_subject, sk, NULL, 0);
    if (unlikely(!label)) {
        if (sk->type == AEGIS_KERNELS_SOCKET)
            return AEGIS_SUBJECT_NOBODY;
        aegis_subject_counted(AEGIS_SUBJECT_UNKNOWN);
        return slot->flags & AEGIS_SUBJECT_UNKNOWN_DENIED ? 0 : 1;
    }
    return label->last_mask[aegis_label_renew(label, state)];
}

#endif
