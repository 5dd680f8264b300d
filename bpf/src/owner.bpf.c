/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who owns a socket: the process that made it, and once it connects, listens or sends (sender.bpf.c), the
 * process that did that. Included by core.bpf.c. */

enum {
    AEGIS_TCP_SYN_SENT = 2,
    AEGIS_TCP_LISTEN = 10
};
enum {
    AEGIS_AF_INET = 2,
    AEGIS_AF_INET6 = 10,
    AEGIS_SOCK_STREAM = 1,
    AEGIS_SOCK_RAW = 3
};
enum {
    AEGIS_PF_KTHREAD = 0x00200000
};

#define AEGIS_OWNER_OF_LABEL(label) ((__u64)(label) << 22)
#define AEGIS_OWNER_TGID            0x3fffff /* of an owner id; 0: a label */

static __always_inline __u64 aegis_owner_id(struct task_struct *task)
{
    return task->group_leader->start_boottime >> 10 << 22 | (task->tgid & AEGIS_OWNER_TGID);
}

/* Owner id of a task's process, with its entry in aegis_owners made or, after an exec, renewed. */
static __always_inline __u64 aegis_owner_of_task(struct task_struct *task)
{
    struct task_struct *leader = task->group_leader;
    struct aegis_owner owner = {};
    struct aegis_owner *known;
    __u64 id;

    owner.start_ns = leader->start_boottime;
    owner.tgid = task->tgid;
    id = aegis_owner_id(task);
    bpf_probe_read_kernel(owner.comm, sizeof(owner.comm), leader->comm);
    known = bpf_map_lookup_elem(&aegis_owners, &id);
    if (known && ((__u64 *)known->comm)[0] == ((__u64 *)owner.comm)[0] &&
        ((__u64 *)known->comm)[1] == ((__u64 *)owner.comm)[1])
        return id;
    /* By reads: to follow a pointer by its type costs the verifier a millisecond. */
    owner.uid = BPF_CORE_READ(task, cred, uid.val);
    owner.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
    if (bpf_map_update_elem(&aegis_owners, &id, &owner, BPF_ANY))
        aegis_count_loss(AEGIS_LOSS_OWNER_FULL);
    return id;
}

SEC("cgroup/sock_create")
int cgroup_sock_create_owner(struct bpf_sock *sk)
{
    struct task_struct *task = bpf_get_current_task_btf();
    __u64 id = aegis_owner_of_task(task);

    if (!bpf_sk_storage_get(&aegis_sk_owner, sk, &id, BPF_SK_STORAGE_GET_F_CREATE))
        aegis_count_loss(AEGIS_LOSS_OWNER_STORAGE);
    aegis_subject_made(sk, task);
    return 1;
}

/* A descriptor may have been inherited or passed since the socket was made: connecting and listening name the
 * process that does it. Kernel threads (a worker of MPTCP or NFS) leave a process's label as it is. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tp_sock_relabel, struct sock *sk, int old_state, int new_state)
{
    struct task_struct *task;
    __u64 *label;
    __u64 id;

    if (new_state != AEGIS_TCP_SYN_SENT && new_state != AEGIS_TCP_LISTEN)
        return 0;
    task = bpf_get_current_task_btf();
    label = bpf_sk_storage_get(&aegis_sk_owner, sk, NULL, 0);
    if (task->flags & AEGIS_PF_KTHREAD || BPF_CORE_READ_BITFIELD(sk, sk_kern_sock)) {
        if (label)
            return 0;
        id = AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_KERNEL);
    } else {
        id = aegis_owner_of_task(task);
        if (new_state == AEGIS_TCP_LISTEN)
            aegis_subject_used(sk, task);
    }
    if (label)
        *label = id;
    else if (!bpf_sk_storage_get(&aegis_sk_owner, sk, &id, BPF_SK_STORAGE_GET_F_CREATE))
        aegis_count_loss(AEGIS_LOSS_OWNER_STORAGE);
    return 0;
}

/* Labels sockets older than the agent by the first process found that has them open. */
SEC("iter/task_file")
int iter_task_file_owner(struct bpf_iter__task_file *ctx)
{
    struct task_struct *task = ctx->task;
    struct file *file = ctx->file;
    struct socket *socket;
    struct sock *sk;
    __u16 family;
    __u64 id;

    if (!task || !file)
        return 0;
    socket = bpf_sock_from_file(file);
    if (!socket)
        return 0;
    sk = socket->sk;
    if (!sk)
        return 0;
    family = sk->__sk_common.skc_family;
    if (family != AEGIS_AF_INET && family != AEGIS_AF_INET6)
        return 0;
    aegis_subject_found(sk, task);
    if (bpf_sk_storage_get(&aegis_sk_owner, sk, NULL, 0))
        return 0;
    id = aegis_owner_of_task(task);
    if (!bpf_sk_storage_get(&aegis_sk_owner, sk, &id, BPF_SK_STORAGE_GET_F_CREATE))
        aegis_count_loss(AEGIS_LOSS_OWNER_STORAGE);
    return 0;
}

/* Sockets for the kernel's own answers (RST, ICMP, neighbour discovery) are raw and pass no sock_create. */
static __always_inline __u64 aegis_owner_without_label(struct bpf_sock *sk)
{
    return AEGIS_OWNER_OF_LABEL(sk->type == AEGIS_SOCK_RAW ? AEGIS_OWNER_KERNEL : AEGIS_OWNER_UNKNOWN);
}

/* The label of a full socket. */
static __always_inline __u64 aegis_owner_of_socket(struct bpf_sock *sk)
{
    __u64 *label = bpf_sk_storage_get(&aegis_sk_owner, sk, NULL, 0);

    return label ? *label : aegis_owner_without_label(sk);
}

/* Owner of a packet on its way in, by the socket that will get it; a SYN finds its listener. skb->sk is never
 * used here: between namespaces it is the sender's socket. */
__noinline __u64 aegis_owner_of_received(struct __sk_buff *skb, const struct aegis_flow_key *key)
{
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *sk, *full;
    __u32 size = sizeof(tuple.ipv6);
    __u64 id = 0;

    if (!key || key->fragment)
        return 0;
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
        return 0;
    if (!sk)
        return 0;
    full = bpf_sk_fullsock(sk);
    id = full ? aegis_owner_of_socket(full) : AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_REQUEST);
    bpf_sk_release(sk);
    return id;
}
