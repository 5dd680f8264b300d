/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP sockets: connect, accept, listen. Part of the object `observe`.
 *
 * A connection this host begins is reported once, when its opening ends: established, refused, timed out or
 * given up. Then its source port is known (the kernel picks it after SYN_SENT is set), and so is the outcome.
 * Who connects is noted when it begins, in the caller's own context; the end comes from the network, in
 * anybody's. */

enum {
    AEGIS_AF_INET = 2,
    AEGIS_AF_INET6 = 10,
    AEGIS_OWNER_PID_BITS = 22,
    AEGIS_OWNER_PID_MASK = (1 << AEGIS_OWNER_PID_BITS) - 1
};

struct aegis_connecting {
    struct aegis_process process;
    __u64 cgroup_id;
    __u8 comm[16];
    __u64 told;
};

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct aegis_connecting);
} aegis_connecting SEC(".maps");

/* The accepted socket that this CPU told last, until the second program has seen it too. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} aegis_told SEC(".maps");

static __always_inline void aegis_note_current(struct aegis_connecting *who)
{
    struct task_struct *task = bpf_get_current_task_btf();

    aegis_process_of(task, &who->process);
    who->cgroup_id = aegis_cgroup_of(task);
    bpf_get_current_comm(who->comm, sizeof(who->comm));
}

static __always_inline void aegis_name_owner(struct aegis_socket *record, const struct aegis_connecting *who)
{
    record->process = who->process;
    record->cgroup_id = who->cgroup_id;
    __builtin_memcpy(record->comm, who->comm, sizeof(record->comm));
    record->owner_label = AEGIS_OWNER_PROCESS;
}

/* The owner the socket has carried since it was made, or has from its listener. The object `core` keeps it.
 */
static __always_inline void aegis_name_stored_owner(struct aegis_socket *record, struct sock *sk)
{
    __u64 *id = bpf_sk_storage_get(&aegis_sk_owner, sk, 0, 0);
    struct aegis_owner *owner;

    if (!id)
        return;
    if (!(*id & AEGIS_OWNER_PID_MASK)) {
        record->owner_label = *id >> AEGIS_OWNER_PID_BITS;
        return;
    }
    owner = bpf_map_lookup_elem(&aegis_owners, id);
    if (!owner)
        return;
    record->process.start_ns = owner->start_ns;
    record->process.pid = owner->tgid;
    record->process.uid = owner->uid;
    record->cgroup_id = owner->cgroup_id;
    __builtin_memcpy(record->comm, owner->comm, sizeof(record->comm));
    record->owner_label = AEGIS_OWNER_PROCESS;
}

static __always_inline void aegis_map_address(__u8 *to, __u32 address)
{
    __u32 *words = (__u32 *)to;

    words[2] = bpf_htonl(0xffff);
    words[3] = address;
}

/* Writes addresses and ports; false for a family that is neither IPv4 nor IPv6. */
static __always_inline bool aegis_name_ends(struct aegis_socket *record, struct sock *sk, bool accepted)
{
    __u8 *here = accepted ? record->destination : record->source;
    __u8 *peer = accepted ? record->source : record->destination;
    /* skc_num is taken away before CLOSE is set; inet_sport is set after LISTEN. */
    __u16 here_port = sk->__sk_common.skc_num ? sk->__sk_common.skc_num
                                              : bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
    __u16 peer_port = bpf_ntohs(sk->__sk_common.skc_dport);

    if (sk->__sk_common.skc_family == AEGIS_AF_INET) {
        aegis_map_address(here, sk->__sk_common.skc_rcv_saddr);
        aegis_map_address(peer, sk->__sk_common.skc_daddr);
    } else if (sk->__sk_common.skc_family == AEGIS_AF_INET6) {
        bpf_probe_read_kernel(here, 16, &sk->__sk_common.skc_v6_rcv_saddr);
        bpf_probe_read_kernel(peer, 16, &sk->__sk_common.skc_v6_daddr);
    } else {
        return false;
    }
    record->source_port = accepted ? peer_port : here_port;
    record->destination_port = accepted ? here_port : peer_port;
    return true;
}

static __always_inline long aegis_send(struct aegis_socket *record, struct sock *sk, __u32 kind)
{
    record->cookie = bpf_get_socket_cookie(sk);
    record->protocol = sk->sk_protocol;
    return aegis_emit(record, sizeof(*record), kind, false);
}

/* What a process does on its own: it is the current task. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tp_sock_begin, struct sock *sk, int before, int after)
{
    struct aegis_connecting current = {};
    struct aegis_connecting *who;
    struct aegis_socket record = {};

    if (after == BPF_TCP_SYN_SENT) {
        who = bpf_sk_storage_get(&aegis_connecting, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
        if (who) {
            aegis_note_current(who);
            who->told = 0;
        }
    } else if (after == BPF_TCP_LISTEN && aegis_name_ends(&record, sk, false)) {
        aegis_note_current(&current);
        aegis_name_owner(&record, &current);
        aegis_send(&record, sk, AEGIS_KIND_LISTEN);
    }
    return 0;
}

/* Whether the other of the two programs below has told this end of an opening; if not, this one is to. */
static __always_inline bool aegis_told_already(struct sock *sk, struct aegis_connecting *who)
{
    __u32 zero = 0;
    __u64 *last;

    if (who)
        return __sync_lock_test_and_set(&who->told, 1);
    last = bpf_map_lookup_elem(&aegis_told, &zero);
    if (!last)
        return false;
    if (*last == (__u64)sk) {
        *last = 0;
        return true;
    }
    *last = (__u64)sk;
    return false;
}

/* What packets, timers and close(2) cause: the end of an opening. */
static __always_inline int aegis_opening_ends(struct sock *sk, int before, int after)
{
    struct aegis_connecting *who;
    struct aegis_socket record = {};
    bool accepted;

    if (before != BPF_TCP_SYN_SENT && before != BPF_TCP_SYN_RECV)
        return 0;
    if (after == BPF_TCP_SYN_RECV) /* both ends open at once: not ended yet */
        return 0;
    who = bpf_sk_storage_get(&aegis_connecting, sk, 0, 0);
    accepted = !who && before == BPF_TCP_SYN_RECV;
    if (accepted && after != BPF_TCP_ESTABLISHED)
        return 0;
    if (aegis_told_already(sk, who)) {
        if (who)
            bpf_sk_storage_delete(&aegis_connecting, sk);
        return 0;
    }
    if (!aegis_name_ends(&record, sk, accepted))
        return 0;
    if (who)
        aegis_name_owner(&record, who);
    else
        aegis_name_stored_owner(&record, sk);
    if (!accepted && after == BPF_TCP_CLOSE)
        record.error = sk->sk_err ? sk->sk_err : ECANCELED;
    aegis_send(&record, sk, accepted ? AEGIS_KIND_ACCEPT : AEGIS_KIND_CONNECT);
    return 0;
}

/* Twice the same: the kernel skips a program that would interrupt itself on its CPU, as a softirq does that
 * comes while a process passes through it (a few times in 100,000 changes of state). It never skips both. The
 * first one that runs tells, the second one sees that it was told. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tp_sock_state, struct sock *sk, int before, int after)
{
    return aegis_opening_ends(sk, before, after);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tp_sock_state_again, struct sock *sk, int before, int after)
{
    return aegis_opening_ends(sk, before, after);
}
