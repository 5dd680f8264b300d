/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Refuses what a subject may not reach before there is a packet, so that the program is told at once, and
 * labels the socket with who uses it. Included by core.bpf.c.
 *
 * Both who connects and who made the socket must be allowed: otherwise a descriptor handed from one to the
 * other would carry what neither may do. Only what policies say of subjects is decided here; everybody's
 * packets are judged by the packet hooks, as are those of subjects. */

#ifdef AEGIS_KERN_NAMES_BPF_H
#define AEGIS_NAMES_UNDER(state, hi, lo) aegis_names_under(state, hi, lo)
#else
#define AEGIS_NAMES_UNDER(state, hi, lo) 0
#endif

static __always_inline bool aegis_same_subject(const struct aegis_subject_key *one,
                                               const struct aegis_subject_key *other)
{
    return one->cgroup == other->cgroup && one->exec == other->exec && one->tgid == other->tgid &&
           one->uid == other->uid;
}

/* The host itself, in host order halves: no interface that policies are about. */
static __always_inline bool aegis_is_loopback(__u64 hi, __u64 lo)
{
    if (hi)
        return false;
    return lo <= 1 || lo >> 24 == 0xffff7f || lo == 0xffffull << 32;
}

/* What the policy says to a mask; the deciding rule (rank + 1) in bits 0-23, the verdict above it. */
__noinline __u64 aegis_connect_verdict(__u64 hi, __u64 lo, __u64 service, __u64 state, __u64 mask)
{
    __u64 slot = state & (AEGIS_POLICY_SLOTS - 1), where, decision;
    __u32 rule = 0;
    __u8 verdict;

    if (mask == 1 ||
        aegis_managed(hi, lo, aegis_where(0, AEGIS_EGRESS, service >> 16, 0, service), AEGIS_PORT_UNKNOWN))
        return AEGIS_VERDICT_ALLOW;
    if (!mask)
        return (__u64)(aegis_policy_enforces(slot) ? AEGIS_VERDICT_DENY : AEGIS_VERDICT_AUDIT) << 24;
    where = aegis_where(slot, AEGIS_EGRESS, service >> 16, 0, service) | aegis_policy_expired(slot)
                                                                             << AEGIS_WHERE_EXPIRED;
    decision = aegis_policy_lookup(hi, lo, where, mask, AEGIS_NAMES_UNDER(state, hi, lo));
    verdict = aegis_decide(decision, &rule);
    return (__u64)verdict << 24 | rule;
}

/* As aegis_owner_of_task, by reads and helpers: typed pointers cost the verifier a millisecond each. */
__noinline __u64 aegis_owner_of_current(void)
{
    struct task_struct *leader = BPF_CORE_READ(bpf_get_current_task_btf(), group_leader);
    struct aegis_owner owner = {};
    __u64 id;

    owner.start_ns = BPF_CORE_READ(leader, start_boottime);
    owner.tgid = bpf_get_current_pid_tgid() >> 32;
    id = owner.start_ns >> 10 << 22 | (owner.tgid & 0x3fffff);
    if (bpf_map_lookup_elem(&aegis_owners, &id))
        return id;
    BPF_CORE_READ_INTO(&owner.comm, leader, comm);
    owner.uid = bpf_get_current_uid_gid();
    owner.cgroup_id = bpf_get_current_cgroup_id();
    if (bpf_map_update_elem(&aegis_owners, &id, &owner, BPF_ANY))
        aegis_count_loss(AEGIS_LOSS_OWNER_FULL);
    return id;
}

static __noinline int aegis_connect_report(__u64 hi, __u64 lo, __u64 service, __u64 state, __u64 verdict)
{
    __u64 rule = verdict & AEGIS_JUDGED_RULE_MASK;
    struct aegis_flow_key key = {};

    *(__u64 *)key.remote = bpf_cpu_to_be64(hi);
    *(__u64 *)(key.remote + 8) = bpf_cpu_to_be64(lo);
    key.remote_port = service;
    key.protocol = service >> 16;
    aegis_count_rule(state, rule, 0);
    return aegis_emit_verdict(
        &key, (rule | AEGIS_VERDICT_DENY << AEGIS_JUDGED_VERDICT_SHIFT) << 32 | (__u32)(state >> 8),
        aegis_owner_of_current(), 0);
}

/* 1, or 0 to refuse. `hi` and `lo`: the destination in host order halves, IPv4 mapped. */
static __always_inline int aegis_connect(struct bpf_sock_addr *context, __u64 hi, __u64 lo)
{
    struct aegis_subject_control *control = aegis_subject_controls();
    struct task_struct *task = bpf_get_current_task_btf();
    __u64 service, state, verdict = 0, by_maker = 0, mask;
    struct aegis_subject_label *label;
    struct aegis_subject_key key = {};
    struct aegis_control *word;
    struct bpf_sock *sk = context->sk;
    __u32 zero = 0, flags, at;

    word = bpf_map_lookup_elem(&aegis_control, &zero);
    if (!sk || !word || !control || BPF_CORE_READ(task, flags) & AEGIS_PF_KTHREAD)
        return 1;
    state = aegis_in_force(word);
    aegis_subject_of_current(task, &key);
    label = bpf_sk_storage_get(&aegis_sk_subject, sk, NULL, 0);
    if (unlikely(!label)) { /* older than the agent, and found in no process */
        aegis_subject_made(sk, task);
        label = bpf_sk_storage_get(&aegis_sk_subject, sk, NULL, 0);
        if (!label)
            return 1;
    }
    at = aegis_label_renew(label, state);
    mask = aegis_subject_mask(&key, state);
    flags = control->slots[state & (AEGIS_POLICY_SLOTS - 1)].flags;
    if (state && (mask != 1 || label->maker_mask[at] != 1) &&
        (context->protocol == AEGIS_PROTO_TCP || context->protocol == AEGIS_PROTO_UDP) &&
        (flags & AEGIS_SUBJECT_LOOPBACK || !aegis_is_loopback(hi, lo))) {
        service = (__u64)context->protocol << 16 | bpf_ntohs(context->user_port);
        verdict = aegis_connect_verdict(hi, lo, service, state, mask);
        if (label->maker_mask[at] != mask) {
            by_maker = aegis_connect_verdict(hi, lo, service, state, label->maker_mask[at]);
            if (by_maker >> 24 > verdict >> 24) {
                verdict = by_maker;
                aegis_subject_counted(AEGIS_SUBJECT_REFUSED_MAKER);
            }
        }
        if (verdict >> 24 == AEGIS_VERDICT_DENY) {
            aegis_subject_counted(AEGIS_SUBJECT_REFUSED);
            aegis_connect_report(hi, lo, service, state, verdict);
            return 0;
        }
        if (verdict >> 24 == AEGIS_VERDICT_AUDIT) /* told by the packet hooks */
            aegis_subject_counted(AEGIS_SUBJECT_AUDITED);
    }
    if (!aegis_same_subject(&key, &label->last)) {
        aegis_label_void(label);
        label->last = key;
    }
    if (label->last_mask[at] != mask)
        label->last_mask[at] = mask;
    return 1;
}

static __always_inline int aegis_connect_v4(struct bpf_sock_addr *context)
{
    return aegis_connect(context, 0, 0xffffull << 32 | bpf_ntohl(context->user_ip4));
}

static __always_inline int aegis_connect_v6(struct bpf_sock_addr *context)
{
    return aegis_connect(context,
                         (__u64)bpf_ntohl(context->user_ip6[0]) << 32 | bpf_ntohl(context->user_ip6[1]),
                         (__u64)bpf_ntohl(context->user_ip6[2]) << 32 | bpf_ntohl(context->user_ip6[3]));
}

SEC("cgroup/connect4")
int cgroup_connect4_subject(struct bpf_sock_addr *context)
{
    return aegis_connect_v4(context);
}

SEC("cgroup/connect6")
int cgroup_connect6_subject(struct bpf_sock_addr *context)
{
    return aegis_connect_v6(context);
}

SEC("cgroup/sendmsg4")
int cgroup_sendmsg4_subject(struct bpf_sock_addr *context)
{
    return aegis_connect_v4(context);
}

SEC("cgroup/sendmsg6")
int cgroup_sendmsg6_subject(struct bpf_sock_addr *context)
{
    return aegis_connect_v6(context);
}
