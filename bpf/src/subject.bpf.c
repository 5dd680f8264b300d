/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Classifies control groups and executables before their first instruction. Included by core.bpf.c. */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct user_namespace {
    int level;
};

struct mnt_namespace {
    struct user_namespace *user_ns;
};

struct mount___subject {
    struct mnt_namespace *mnt_ns;
};

struct fs_struct___subject {
    struct path root;
};

struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
};

#pragma clang attribute pop

enum {
    AEGIS_EEXIST = 17
};

/* A new control group before it is in the table. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct aegis_subject_cgroup);
} aegis_cgroup_draft SEC(".maps");

/* Where a control group stands in a slot: from where its parent stands by its own name, which `user` has
 * taken. */
static __always_inline void aegis_cgroup_side(struct aegis_subject_side *side,
                                              const struct aegis_subject_cgroup *parent,
                                              const struct aegis_subject_slot *slot, const __u32 number,
                                              __u32 user)
{
    __u32 generation = *(volatile __u32 *)&slot->generation;
    struct aegis_automaton_state *row;
    __u32 state;

    if (!generation || !(slot->flags & AEGIS_SUBJECT_BY_CGROUP))
        return;
    if (!parent)
        state = slot->cgroup_start;
    else if (parent->sides[number].generation != generation)
        return; /* the agent is about to fill it in, and this one then */
    else
        state = aegis_automaton_step(user, parent->sides[number].state);
    if (!(state % AEGIS_AUTOMATON_STATES))
        state = number * AEGIS_AUTOMATON_STATES;
    row = bpf_map_lookup_elem(&aegis_automaton_states, &state);
    if (!row)
        return;
    side->state = state;
    side->mask = row->accepts;
    barrier_var(generation);
    *(volatile __u32 *)&side->generation = generation;
}

/* Runs before the directory can be seen, so before any task can enter. The path argument is a buffer that all
 * control group events share: only the new one's own name is looked at. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(tp_subject_mkdir, struct cgroup *cgroup, const char *path)
{
    struct cgroup___subject *made = (struct cgroup___subject *)cgroup;
    struct aegis_subject_control *control = aegis_subject_controls();
    __u32 zero = 0, user = AEGIS_COMPONENT_CGROUP;
    struct aegis_subject_cgroup *parent, *entry;
    struct aegis_component *component;
    __u64 id, above;
    long length;

    if (cgroup->root->hierarchy_id != aegis_constants.cgroup_hierarchy_v2) /* ids of version 1 collide */
        return 0;
    above = made->self.parent->cgroup->kn->id;
    parent = bpf_map_lookup_elem(&aegis_subject_cgroups, &above);
    if (!parent) /* outside of what is watched, or itself judged by one above */
        return 0;
    component = bpf_map_lookup_elem(&aegis_components, &user);
    entry = bpf_map_lookup_elem(&aegis_cgroup_draft, &zero);
    if (!control || !component || !entry)
        return 0;
    id = cgroup->kn->id;
    length = bpf_probe_read_kernel_str(entry->text, sizeof(entry->text),
                                       ((struct kernfs_node___subject *)cgroup->kn)->name);
    if (length < 1)
        length = 1;
    length = (length - 1) & (AEGIS_SUBJECT_NAME_BYTES - 1);
    __builtin_memset(entry->sides, 0, sizeof(entry->sides));
    entry->name_bytes = length;
    entry->parent = above;
    if ((control->slots[0].flags | control->slots[1].flags | control->slots[2].flags |
         control->slots[3].flags) &
        AEGIS_SUBJECT_BY_CGROUP) {
        aegis_component_take(component, entry->text, length);
        aegis_cgroup_side(&entry->sides[0], parent, &control->slots[0], 0, user);
        aegis_cgroup_side(&entry->sides[1], parent, &control->slots[1], 1, user);
        aegis_cgroup_side(&entry->sides[2], parent, &control->slots[2], 2, user);
        aegis_cgroup_side(&entry->sides[3], parent, &control->slots[3], 3, user);
    }
    length = bpf_map_update_elem(&aegis_subject_cgroups, &id, entry, BPF_NOEXIST);
    if (length != -AEGIS_EEXIST) /* another of these, while an agent takes over from the one before */
        aegis_subject_counted(length ? AEGIS_SUBJECT_CGROUPS_FULL : AEGIS_SUBJECT_MADE);
    return 0;
}

SEC("tp_btf/cgroup_release")
int BPF_PROG(tp_subject_release, struct cgroup *cgroup, const char *path)
{
    __u64 id;

    if (cgroup->root->hierarchy_id != aegis_constants.cgroup_hierarchy_v2)
        return 0;
    id = cgroup->kn->id;
    if (!bpf_map_delete_elem(&aegis_subject_cgroups, &id))
        aegis_subject_counted(AEGIS_SUBJECT_RELEASED);
    return 0;
}

static long aegis_fill_entry(void *map, __u64 *id, struct aegis_subject_cgroup *entry,
                             struct aegis_subject_fill *fill)
{
    __u32 user = AEGIS_COMPONENT_FILL, number = fill->slot & (AEGIS_POLICY_SLOTS - 1);
    struct aegis_component *component = bpf_map_lookup_elem(&aegis_components, &user);
    struct aegis_subject_control *control = aegis_subject_controls();
    struct aegis_subject_cgroup *parent = NULL;
    struct aegis_subject_side *side;
    struct aegis_subject_slot *slot;
    __u64 above = entry->parent;
    __u32 length;

    fill->walked++;
    if (!control || !component)
        return 1;
    slot = &control->slots[number];
    side = &entry->sides[number];
    if (side->generation == slot->generation)
        return 0;
    fill->missing++;
    if (above) {
        parent = bpf_map_lookup_elem(&aegis_subject_cgroups, &above);
        if (!parent)
            return 0;
    }
    length = entry->name_bytes;
    aegis_component_take(component, entry->text, length & 255);
    aegis_cgroup_side(side, parent, slot, number, user);
    if (side->generation == slot->generation)
        fill->filled++;
    return 0;
}

/* Classifies for a slot what is known and has something above it that is classified. */
SEC("syscall")
int syscall_subject_fill(struct aegis_subject_fill *context)
{
    struct aegis_subject_fill fill = {.slot = context->slot};

    bpf_for_each_map_elem(&aegis_subject_cgroups, aegis_fill_entry, &fill, 0);
    *context = fill;
    return 0;
}

/* The walk up an executable's path. The automaton reads it from the file's own name on, so that most end
 * after one step. */
struct aegis_exe_walk {
    __u64 dentry;
    __u64 mnt;
    __u64 root;
    __u32 state;
    __u32 user;
    __u32 arrived; /* at the root of the host */
    __u32 pad0;
    struct aegis_subject_exe entry;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, AEGIS_COMPONENT_USERS);
    __type(key, __u32);
    __type(value, struct aegis_exe_walk);
} aegis_exe_walks SEC(".maps");

static long aegis_exe_step(__u32 index, struct aegis_exe_walk **argument)
{
    struct aegis_exe_walk *walk = *argument;
    struct dentry *dentry = (struct dentry *)walk->dentry;
    struct vfsmount *mnt = (struct vfsmount *)walk->mnt;
    struct aegis_component *component;
    __u32 user = walk->user;
    struct dentry *parent;

    if (walk->dentry == walk->root) {
        walk->arrived = 1;
        return 1;
    }
    if (dentry == BPF_CORE_READ(mnt, mnt_root)) {
        struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
        struct mount *above = BPF_CORE_READ(mount, mnt_parent);

        walk->dentry = (__u64)BPF_CORE_READ(mount, mnt_mountpoint);
        walk->mnt = (__u64)above + bpf_core_field_offset(struct mount, mnt);
        return above == mount;
    }
    parent = BPF_CORE_READ(dentry, d_parent);
    component = bpf_map_lookup_elem(&aegis_components, &user);
    if (parent == dentry || !component) /* no directory above: a memfd */
        return 1;
    aegis_component_take(component, BPF_CORE_READ(dentry, d_name.name),
                         BPF_CORE_READ(dentry, d_name.len) & 255);
    walk->state = aegis_automaton_step(user, walk->state);
    walk->dentry = (__u64)parent;
    return !(walk->state % AEGIS_AUTOMATON_STATES);
}

/* Whether a mount is the host's and not one that a user made for himself in a namespace of his own, where he
 * may put any file under any name. */
static __always_inline bool aegis_mount_of_host(struct vfsmount *mnt)
{
    struct mount___subject *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
    struct user_namespace *owner = BPF_CORE_READ(mount, mnt_ns, user_ns);

    return owner && !BPF_CORE_READ(owner, level);
}

/* Mask of the executable in walk `user`'s draft for a slot; 0 where the slot does not ask. */
__noinline __u64 aegis_exe_mask(__u32 user, __u32 number, __u64 dentry, __u64 mnt)
{
    struct aegis_subject_control *control = aegis_subject_controls();
    struct aegis_exe_walk *walk = bpf_map_lookup_elem(&aegis_exe_walks, &user);
    struct aegis_automaton_state *row;
    struct aegis_subject_slot *slot;
    __u32 state;

    if (!control || !walk)
        return 0;
    slot = &control->slots[number & (AEGIS_POLICY_SLOTS - 1)];
    if (!slot->generation || !(slot->flags & AEGIS_SUBJECT_BY_EXE))
        return 0;
    walk->dentry = dentry;
    walk->mnt = mnt;
    walk->root = control->root;
    walk->state = slot->exe_start;
    walk->user = user;
    walk->arrived = 0;
    bpf_loop(AEGIS_EXE_STEPS, aegis_exe_step, &walk, 0);
    state = walk->state;
    if (!(state % AEGIS_AUTOMATON_STATES))
        return slot->exe_base;
    row = bpf_map_lookup_elem(&aegis_automaton_states, &state);
    if (!row || row->accepts == slot->exe_base)
        return slot->exe_base;
    if (!walk->arrived || !aegis_mount_of_host((struct vfsmount *)mnt)) {
        aegis_subject_counted(AEGIS_SUBJECT_FOREIGN);
        return slot->exe_base;
    }
    return row->accepts;
}

/* Keeps what a process executes, where a policy names it. Returns 1 where one does. */
static __always_inline int aegis_exe_classify(struct task_struct *task, const __u32 user)
{
    struct aegis_subject_control *control = aegis_subject_controls();
    __u32 number = user, tgid = task->tgid, named = 0;
    struct aegis_exe_walk *walk = bpf_map_lookup_elem(&aegis_exe_walks, &number);
    struct mm_struct *mm = task->mm;
    __u64 exec = aegis_exec_of(task), dentry, mnt, mask;
    struct file *file;

    if (!control || !walk || !mm)
        return 0;
    file = BPF_CORE_READ(mm, exe_file);
    if (!file)
        return 0;
    dentry = (__u64)BPF_CORE_READ(file, f_path.dentry);
    mnt = (__u64)BPF_CORE_READ(file, f_path.mnt);
    __builtin_memset(&walk->entry, 0, sizeof(walk->entry));
    walk->entry.exec = exec;
    for (int at = 0; at < AEGIS_POLICY_SLOTS; at++) {
        struct aegis_subject_slot *slot = &control->slots[at];

        if (!slot->generation || !(slot->flags & AEGIS_SUBJECT_BY_EXE))
            continue;
        walk->entry.sides[at].generation = slot->generation;
        mask = aegis_exe_mask(user, at, dentry, mnt);
        walk->entry.sides[at].mask = mask;
        named |= mask != slot->exe_base;
    }
    if (!named) {
        if (bpf_map_lookup_elem(&aegis_subject_exes, &tgid))
            bpf_map_delete_elem(&aegis_subject_exes, &tgid);
        return 0;
    }
    aegis_subject_counted(bpf_map_update_elem(&aegis_subject_exes, &tgid, &walk->entry, BPF_ANY)
                              ? AEGIS_SUBJECT_EXES_FULL
                              : AEGIS_SUBJECT_EXECS);
    return 1;
}

/* Before the first instruction of what is executed. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(tp_subject_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
    struct aegis_subject_control *control = aegis_subject_controls();

    if (control && control->exes)
        aegis_exe_classify(task, AEGIS_COMPONENT_EXE);
    return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(tp_subject_fork, struct task_struct *parent, struct task_struct *child)
{
    struct aegis_subject_control *control = aegis_subject_controls();
    struct aegis_subject_exe *known;
    __u32 tgid = parent->tgid, made = child->tgid;

    if (!control || !control->exes || tgid == made) /* a thread */
        return 0;
    known = bpf_map_lookup_elem(&aegis_subject_exes, &tgid);
    if (known && known->exec == aegis_exec_of(parent) &&
        bpf_map_update_elem(&aegis_subject_exes, &made, known, BPF_ANY))
        aegis_subject_counted(AEGIS_SUBJECT_EXES_FULL);
    return 0;
}

/* Twice is harmless: of threads that end together each may find no other alive. */
SEC("tp_btf/sched_process_exit")
int tp_subject_exit(__u64 *context)
{
    struct task_struct *task = (struct task_struct *)context[0];
    struct aegis_subject_control *control = aegis_subject_controls();
    __u32 tgid = task->tgid;

    if (control && control->exes && !task->signal->live.counter)
        bpf_map_delete_elem(&aegis_subject_exes, &tgid);
    return 0;
}

/* Classifies what runs already. A process may execute something else meanwhile: then once more. */
SEC("iter/task")
int iter_task_subject(struct bpf_iter__task *context)
{
    struct task_struct *task = context->task;
    __u64 exec;

    if (!task || task->pid != task->tgid || task->flags & AEGIS_PF_KTHREAD)
        return 0;
    for (int attempt = 0; attempt < 3; attempt++) {
        exec = aegis_exec_of(task);
        aegis_exe_classify(task, AEGIS_COMPONENT_FILL);
        if (exec == aegis_exec_of(task))
            break;
    }
    return 0;
}

/* Tells the other programs which directory is the root of the host: the caller's. */
SEC("syscall")
int syscall_subject_root(void *context)
{
    struct aegis_subject_control *control = aegis_subject_controls();
    struct task_struct *task = bpf_get_current_task_btf();
    struct fs_struct___subject *fs = (struct fs_struct___subject *)task->fs;

    if (control && fs)
        control->root = (__u64)BPF_CORE_READ(fs, root.dentry);
    return 0;
}

/* Mask of the socket that will get a packet, found by its addresses; a SYN finds its listener. */
__noinline __u64 aegis_subject_received(struct __sk_buff *skb, const struct aegis_flow_key *key, __u64 state)
{
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *sk, *full;
    __u32 size = sizeof(tuple.ipv6);
    __u64 mask;

    if (!key || key->fragment)
        return AEGIS_SUBJECT_NOBODY;
    if (*(__u64 *)key->local == 0 && *(__u32 *)(key->local + 8) == bpf_htonl(0xffff)) {
        size = sizeof(tuple.ipv4);
        tuple.ipv4.saddr = *(__u32 *)(key->remote + 12);
        tuple.ipv4.daddr = *(__u32 *)(key->local + 12);
        tuple.ipv4.sport = bpf_htons(key->remote_port);
        tuple.ipv4.dport = bpf_htons(key->local_port);
    } else {
        __builtin_memcpy(tuple.ipv6.saddr, key->remote, 16);
        __builtin_memcpy(tuple.ipv6.daddr, key->local, 16);
        tuple.ipv6.sport = bpf_htons(key->remote_port);
        tuple.ipv6.dport = bpf_htons(key->local_port);
    }
    if (key->protocol == AEGIS_PROTO_TCP)
        sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
    else if (key->protocol == AEGIS_PROTO_UDP)
        sk = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
    else
        return AEGIS_SUBJECT_NOBODY;
    if (!sk)
        return AEGIS_SUBJECT_NOBODY;
    full = bpf_sk_fullsock(sk);
    if (!full)
        full = bpf_get_listener_sock(sk); /* of a connection that is being opened */
    mask = full ? aegis_subject_of_socket(full, state) : AEGIS_SUBJECT_NOBODY;
    bpf_sk_release(sk);
    return mask;
}

/* Mask of this host's side of a packet; AEGIS_SUBJECT_NOBODY where no process's socket has to do with it. */
__noinline __u64 aegis_subject_of_packet(struct __sk_buff *skb, const struct aegis_packet *packet,
                                         __u64 state)
{
    struct aegis_subject_control *control = aegis_subject_controls();
    struct bpf_sock *sk;

    if (!packet || !control || !control->slots[state & (AEGIS_POLICY_SLOTS - 1)].subjects)
        return 1;
    if (packet->direction == AEGIS_INGRESS)
        return aegis_subject_received(skb, &packet->key, state);
    aegis_owner_of_sent(skb); /* the label is of who sends */
    sk = skb->sk;
    if (!sk)
        return AEGIS_SUBJECT_NOBODY;
    sk = bpf_sk_fullsock(sk);
    if (sk)
        return aegis_subject_of_socket(sk, state);
    sk = skb->sk;
    sk = sk ? bpf_get_listener_sock(sk) : NULL; /* SYN-ACK */
    return sk ? aegis_subject_of_socket(sk, state) : AEGIS_SUBJECT_NOBODY;
}

/* Whether a packet leaves by another socket than the flow's last: a port passed on, or used by two. A TCP
 * connection says so by its SYN. */
static __always_inline bool aegis_subject_moved(struct __sk_buff *skb, const struct aegis_packet *packet,
                                                const struct aegis_flow_value *value)
{
    if (packet->direction != AEGIS_EGRESS || packet->key.protocol == AEGIS_PROTO_TCP || !value->cookie)
        return false;
    return bpf_get_socket_cookie(skb) != value->cookie;
}

/* Whether a datagram from outside may be another subject's than the last of its flow: nothing says that a
 * port has passed to another socket. */
static __always_inline bool aegis_subject_receives(const struct aegis_packet *packet, __u64 state)
{
    struct aegis_subject_control *control = aegis_subject_controls();

    return control && packet->key.protocol == AEGIS_PROTO_UDP &&
           control->slots[state & (AEGIS_POLICY_SLOTS - 1)].flags & AEGIS_SUBJECT_RECEIVES;
}

/* Whether a judgement of this generation has to be made again, because it may be another subject's. Denied is
 * never taken for granted: who is allowed may send after who is not. */
static __always_inline bool aegis_subject_again(struct __sk_buff *skb, const struct aegis_packet *packet,
                                                const struct aegis_flow_value *value, __u64 state,
                                                bool denied)
{
    struct aegis_subject_control *control = aegis_subject_controls();

    if (!control || !control->slots[state & (AEGIS_POLICY_SLOTS - 1)].subjects)
        return false;
    if (packet->error)
        return false;
    if (packet->direction == AEGIS_INGRESS)
        return aegis_subject_receives(packet, state);
    return denied || packet->handed || aegis_subject_moved(skb, packet, value);
}
