/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One pass over each packet: flow accounting, owner, cached verdict. Included by core.bpf.c.
 *
 * Who is judged: the initiator of the flow, in its direction; answers follow. The judgement is cached and
 * made again when the policy's generation changes.
 *
 * A TCP SYN or an ICMP query from the side that is not the initiator starts something of its own and is
 * judged by itself, whatever the entry says: otherwise a forged ACK, sent first, could make an entry under
 * which a later SYN passes as an answer. What may not pass goes alone: otherwise a forged SYN could cut an
 * open connection.
 *
 * Only what this host sends makes another side the initiator of a TCP flow: its own SYN, denied or not, and
 * the SYN-ACK of a listener. A SYN from outside may pass, but were it believed, a peer could take over a
 * connection that a policy cut (the host answers with a challenge ACK) or that may not be opened (both sides
 * at once: the host answers with a SYN-ACK, yet not by a request socket).
 *
 * Other protocols have no mark of a start. There a packet towards a denied initiator is judged by itself, so
 * that a denied datagram from outside cannot close a port of this host's own queries.
 *
 * A broadcast of this host, or a multicast to a group it is in itself, is handed back to it as a copy by way
 * of the interface's ingress. The interface received nothing, and what leaves is counted and judged on its
 * way out: the copy passes, counted apart. Nobody outside can make one: the type is the kernel's own mark,
 * not in the packet. */

#define AEGIS_PACKET_LOOPBACK 5 /* PACKET_LOOPBACK in linux/if_packet.h */

union aegis_marks {
    struct {
        __u8 tcp_flags[2];
        __u8 state;
        __u8 marks;
    };
    __u32 word;
};

union aegis_judgement {
    struct {
        __u32 generation;
        __u32 rule : 20, verdict : 2, initiator : 1, management : 1, timing : 8; /* enum aegis_judged */
    };
    __u64 word;
};

#define AEGIS_JUDGEMENT(value) (*(volatile __u64 *)&(value)->generation)
#define AEGIS_MARKS(value)     (*(volatile __u32 *)(value)->tcp_flags)

_Static_assert(offsetof(struct aegis_flow_value, generation) % 8 == 0, "the judgement is one word");
_Static_assert(offsetof(struct aegis_flow_value, tcp_flags) % 4 == 0, "the marks are one word");

/* Plain additions: the packet hooks run with softirqs off, so nothing on this CPU comes between. */
static __always_inline void aegis_total(__u32 index, const __u32 direction, __u32 length)
{
    struct aegis_packet_counter *total = bpf_map_lookup_elem(&aegis_packet_totals, &index);

    if (!total)
        return;
    if (direction == AEGIS_EGRESS) {
        total->packets[AEGIS_EGRESS]++;
        total->bytes[AEGIS_EGRESS] += length;
    } else {
        total->packets[AEGIS_INGRESS]++;
        total->bytes[AEGIS_INGRESS] += length;
    }
}

/* The judgement of a flow under the policy that `state` names. `mask`: the subjects of this host's side; 0 is
 * who cannot be classified and is denied for it. */
__noinline __u64 aegis_judge(const struct aegis_flow_key *key, __u64 state, __u32 initiator, __u64 mask)
{
    union aegis_judgement judgement = {};
    __u64 decision, expired;
    __u32 port, rule;

    if (!key)
        return 0;
    judgement.initiator = initiator & 1;
    judgement.management = aegis_management_version() & 1;
    judgement.generation = state >> 8;
    if (!state || aegis_managed_flow(key, initiator & 1))
        return judgement.word;
    port = initiator == AEGIS_EGRESS ? key->remote_port : key->local_port;
    expired = aegis_policy_expired(state & 0x7f);
    decision = aegis_policy_lookup(bpf_be64_to_cpu(*(__u64 *)key->remote),
                                   bpf_be64_to_cpu(*(__u64 *)(key->remote + 8)),
                                   aegis_where(state & 0x7f, initiator, key->protocol, key->fragment, port) |
                                       expired << AEGIS_WHERE_EXPIRED,
                                   mask == AEGIS_SUBJECT_NOBODY ? 1 : mask,
                                   aegis_names_under(state, bpf_be64_to_cpu(*(__u64 *)key->remote),
                                                     bpf_be64_to_cpu(*(__u64 *)(key->remote + 8))));
    if (!mask)
        decision = 1ull << AEGIS_DECISION_ANY_DENIES | aegis_policy_enforces(state & 0x7f)
                                                           << AEGIS_DECISION_ENFORCED_DENIES;
    judgement.verdict = aegis_decide(decision, &rule);
    judgement.rule = rule;
    if (decision >> AEGIS_DECISION_TIMED & 1)
        judgement.timing = expired + 1;
    return judgement.word;
}

/* Sends the record of a deny or audit; global, so that the verifier follows it once. */
__noinline int aegis_report(const struct aegis_packet *packet, __u64 word, __u64 owner, __u64 cookie)
{
    return packet ? aegis_emit_verdict(&packet->key, word, owner, cookie) : 0;
}

/* What a judgement means for one packet; counts what is denied or would have been. */
__noinline int aegis_apply(__u64 word, __u64 state, __u32 direction, __u32 length)
{
    union aegis_judgement judgement = {.word = word};

    if (judgement.verdict == AEGIS_VERDICT_ALLOW)
        return TC_ACT_UNSPEC;
    aegis_count_rule(state, judgement.rule, length);
    if (judgement.verdict == AEGIS_VERDICT_AUDIT) {
        aegis_total(AEGIS_TOTAL_AUDITED, direction, length);
        return TC_ACT_UNSPEC;
    }
    aegis_total(AEGIS_TOTAL_DENIED, direction, length);
    return TC_ACT_SHOT;
}

/* What holds for an ICMP error: the stricter of the judgement of the flow it is about, `word`, and its own.
 */
static __always_inline __u64 aegis_with_outer(const struct aegis_packet *packet, __u64 word)
{
    union aegis_judgement judgement = {.word = word};

    if (packet->outer_verdict > judgement.verdict) {
        judgement.verdict = packet->outer_verdict;
        judgement.rule = packet->outer_rule;
    }
    return judgement.word;
}

/* Reads a packet that is not plain. Returns 0 or the AEGIS_TOTAL_* under which it is refused.
 *
 * An ICMP error is counted in the flow it is about; without one it is a flow of its own. Anybody can quote a
 * flow, so an error between others than the flow's own sides (a router's) is judged by its addresses too. */
__noinline int aegis_flow_parse(struct __sk_buff *skb, struct aegis_packet *packet, __u64 state)
{
    struct aegis_packet quoted = {};
    union aegis_judgement outer;
    int refusal;

    if (!packet)
        return AEGIS_TOTAL_BAD_HEADER;
    refusal = aegis_parse_slow(skb, packet);
    if (refusal || !packet->quoted)
        return refusal;
    if (aegis_parse_quoted(skb, packet, &quoted) || !bpf_map_lookup_elem(&aegis_flows, &quoted.key))
        return 0;
    if (!aegis_same_address(packet->key.remote, quoted.key.remote)) {
        outer.word = aegis_judge(&packet->key, state, packet->direction, 1);
        if (outer.verdict != AEGIS_VERDICT_ALLOW) {
            aegis_report(packet, outer.word, 0, 0);
            packet->outer_verdict = outer.verdict;
            packet->outer_rule = outer.rule;
            packet->starts = 1;
        }
    }
    packet->key = quoted.key;
    packet->initiator = quoted.initiator;
    packet->error = 1;
    return 0;
}

/* A packet that met a retired entry: in none, judged by itself. `initiator` is the entry's. */
__noinline int aegis_flow_retired(struct __sk_buff *skb, const struct aegis_packet *packet, __u64 state,
                                  __u32 initiator)
{
    __u64 mask = aegis_subject_of_packet(skb, packet, state);
    union aegis_judgement judgement;
    __u32 direction;

    if (!packet)
        return TC_ACT_UNSPEC;
    direction = packet->direction;
    aegis_total(AEGIS_TOTAL_RETIRED, direction, packet->length);
    if (aegis_opens(packet))
        initiator = direction;
    judgement.word = aegis_judge(&packet->key, state, initiator, mask);
    if (judgement.verdict == AEGIS_VERDICT_DENY && initiator != direction && !packet->error &&
        packet->key.protocol != AEGIS_PROTO_TCP)
        judgement.word = aegis_judge(&packet->key, state, direction, mask);
    if (judgement.verdict != AEGIS_VERDICT_ALLOW)
        aegis_report(packet, judgement.word, 0, 0);
    return aegis_apply(aegis_with_outer(packet, judgement.word), state, direction, packet->length);
}

/* A packet whose header made no sense. */
__noinline int aegis_flow_refuse(__u64 state, __u32 refusal, __u32 direction, __u32 length)
{
    aegis_total(refusal, direction, length);
    if (refusal == AEGIS_TOTAL_NOT_IP || !state || !aegis_policy_enforces(state & 0x7f))
        return TC_ACT_UNSPEC;
    aegis_total(AEGIS_TOTAL_REFUSED_DROPPED, direction, length);
    return TC_ACT_SHOT;
}

/* Counts a packet in an entry. Last of all steps: a harvest that sees the counts sees what the packet
 * changed. */
static __always_inline void aegis_flow_count(struct aegis_flow_value *value, const __u32 direction,
                                             __u32 length)
{
    if (direction == AEGIS_EGRESS) {
        __sync_fetch_and_add(&value->bytes[AEGIS_EGRESS], length);
        __sync_fetch_and_add(&value->packets[AEGIS_EGRESS], 1);
    } else {
        __sync_fetch_and_add(&value->bytes[AEGIS_INGRESS], length);
        __sync_fetch_and_add(&value->packets[AEGIS_INGRESS], 1);
    }
}

/* Counts a first packet whose entry could not be made: by another CPU meanwhile, or no room, or a busy
 * bucket. */
__noinline int aegis_flow_join(const struct aegis_packet *packet, const struct aegis_flow_value *value)
{
    struct aegis_flow_value *other;

    if (!packet || !value)
        return 0;
    other = bpf_map_lookup_elem(&aegis_flows, &packet->key);
    if (!other || other->marks & AEGIS_MARK_RETIRED) {
        aegis_total(other ? AEGIS_TOTAL_RETIRED : AEGIS_TOTAL_TABLE_FULL, packet->direction, packet->length);
        return 0;
    }
    if (value->dropped_packets)
        __sync_fetch_and_add(&other->dropped_packets, value->dropped_packets);
    if (value->extra_segments)
        __sync_fetch_and_add(&other->extra_segments, value->extra_segments);
    __sync_fetch_and_or((__u32 *)other->tcp_flags, AEGIS_MARKS(value));
    aegis_flow_count(other, packet->direction, packet->length);
    return 0;
}

/* First packet of a flow. */
__noinline int aegis_flow_first(struct __sk_buff *skb, const struct aegis_packet *packet, __u64 state,
                                __u32 epoch)
{
    struct aegis_flow_value value = {};
    union aegis_judgement judgement;
    __u32 direction, segments;

    if (!packet)
        return TC_ACT_UNSPEC;
    direction = packet->direction;
    judgement.word =
        aegis_judge(&packet->key, state, packet->initiator, aegis_subject_of_packet(skb, packet, state));
    if (direction == AEGIS_EGRESS) {
        value.packets[AEGIS_EGRESS] = 1;
        value.bytes[AEGIS_EGRESS] = packet->length;
        value.tcp_flags[AEGIS_EGRESS] = packet->tcp_flags;
        value.marks = packet->error ? 0 : AEGIS_MARK_EGRESS;
        value.owner = aegis_owner_of_sent(skb);
        if (value.owner != AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_REQUEST))
            value.cookie = bpf_get_socket_cookie(skb);
    } else {
        value.packets[AEGIS_INGRESS] = 1;
        value.bytes[AEGIS_INGRESS] = packet->length;
        value.tcp_flags[AEGIS_INGRESS] = packet->tcp_flags;
        value.marks = packet->error ? 0 : AEGIS_MARK_INGRESS;
        value.owner = aegis_owner_of_received(skb, &packet->key);
    }
    if (packet->tcp_flags & AEGIS_TCP_RST)
        value.state = AEGIS_FLOW_CLOSED;
    else if (packet->tcp_flags & AEGIS_TCP_FIN)
        value.state = AEGIS_FLOW_CLOSING;
    segments = skb->gso_segs;
    if (segments > 1)
        value.extra_segments = segments - 1;
    AEGIS_JUDGEMENT(&value) = judgement.word;
    value.dropped_packets = judgement.verdict == AEGIS_VERDICT_DENY;
    value.epoch = epoch;
    value.first_ns = bpf_ktime_get_boot_ns();
    if (judgement.verdict != AEGIS_VERDICT_ALLOW)
        aegis_report(packet, judgement.word, value.owner, value.cookie);
    if (bpf_map_update_elem(&aegis_flows, &packet->key, &value, BPF_NOEXIST))
        aegis_flow_join(packet, &value);
    return aegis_apply(aegis_with_outer(packet, judgement.word), state, direction, packet->length);
}

/* Another connection on the entry of an earlier one with the same ports; `kept` is what stays of its marks.
 */
static __always_inline void aegis_flow_renew(struct aegis_flow_value *value, __u32 kept, __u64 owner)
{
    __sync_fetch_and_and((__u32 *)value->tcp_flags, kept);
    value->cookie = 0;
    value->owner = owner;
}

/* Whether a SYN-ACK of this host is a listener's. A request socket's is: where a connection is open or being
 * opened by this host, the kernel finds that one first. Without a request socket (SYN cookies, forwarded,
 * fast open) it is, unless this host already sent what a connection of its own sends. */
static __always_inline bool aegis_flow_listens(struct __sk_buff *skb, const struct aegis_flow_value *value)
{
    if (aegis_owner_of_sent(skb) == AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_REQUEST))
        return true;
    return !(value->tcp_flags[AEGIS_EGRESS] & (AEGIS_TCP_SYN | AEGIS_TCP_ACK));
}

/* The judgement of a flow that holds for a packet of it: the cached one, or made again. */
__noinline __u64 aegis_flow_current(struct __sk_buff *skb, const struct aegis_packet *packet,
                                    struct aegis_flow_value *value, __u64 state)
{
    union aegis_judgement cached, judgement;
    bool stale, holds;
    __u32 direction;
    __u64 mask;

    if (!packet || !value)
        return 0;
    direction = packet->direction & 1;
    cached.word = AEGIS_JUDGEMENT(value);
    stale = cached.generation != (__u32)(state >> 8) ||
            cached.management != (aegis_management_version() & 1) ||
            (cached.timing && cached.timing != aegis_policy_expired(state & 0x7f) + 1);
    /* It may be another subject's; an answer may have bound the peer to a name, or the management path taken
     * it in, since. */
    if (stale ||
        ((direction == AEGIS_EGRESS || cached.initiator == AEGIS_INGRESS) &&
         aegis_subject_again(skb, packet, value, state, cached.verdict == AEGIS_VERDICT_DENY)) ||
        (cached.verdict == AEGIS_VERDICT_DENY && cached.initiator == AEGIS_EGRESS &&
         direction == AEGIS_EGRESS &&
         (aegis_names_roots(state) || aegis_managed_flow(&packet->key, AEGIS_EGRESS)))) {
        mask = aegis_subject_of_packet(skb, packet, state);
        judgement.word = aegis_judge(&packet->key, state, cached.initiator, mask);
        /* What the kernel sends by itself, or gets for a socket that is gone, speaks for no process. */
        holds = mask != AEGIS_SUBJECT_NOBODY || (stale && !(value->owner & AEGIS_OWNER_TGID));
        if (holds)
            AEGIS_JUDGEMENT(value) = judgement.word;
        if ((holds || stale) && judgement.verdict != AEGIS_VERDICT_ALLOW && judgement.word != cached.word)
            aegis_report(packet, judgement.word, value->owner, value->cookie);
        cached.word = judgement.word;
    }
    return cached.word;
}

/* Judges a packet for which the cached judgement does not do, and keeps the result where it is the flow's. */
__noinline __u64 aegis_flow_judge(struct __sk_buff *skb, const struct aegis_packet *packet,
                                  struct aegis_flow_value *value, __u64 state)
{
    union aegis_marks kept = {.marks = AEGIS_MARK_RETIRED};
    union aegis_judgement cached, judgement;
    __u32 direction, initiator;
    bool opens, tcp, answers;

    if (!packet || !value)
        return 0;
    direction = initiator = packet->direction & 1;
    opens = aegis_opens(packet);
    tcp = packet->key.protocol == AEGIS_PROTO_TCP;
    answers = false;
    cached.word = aegis_flow_current(skb, packet, value, state);
    if (packet->error)
        return aegis_with_outer(packet, cached.word);
    if (tcp && packet->starts && !opens) {
        if (direction != AEGIS_EGRESS || cached.initiator != AEGIS_EGRESS || !aegis_flow_listens(skb, value))
            return cached.word;
        answers = true;
        initiator = AEGIS_INGRESS;
    } else if (cached.initiator == direction) {
        if (tcp && opens && value->state == AEGIS_FLOW_CLOSED &&
            (direction == AEGIS_EGRESS || cached.verdict != AEGIS_VERDICT_DENY))
            aegis_flow_renew(value, kept.word,
                             direction == AEGIS_EGRESS ? 0 : aegis_owner_of_received(skb, &packet->key));
        return cached.word;
    } else if (!opens && (cached.verdict != AEGIS_VERDICT_DENY || tcp)) {
        return cached.word;
    }
    judgement.word = aegis_judge(&packet->key, state, initiator, aegis_subject_of_packet(skb, packet, state));
    if (judgement.verdict != AEGIS_VERDICT_ALLOW)
        aegis_report(packet, judgement.word, value->owner, value->cookie);
    if (tcp && direction == AEGIS_EGRESS && (opens || judgement.verdict != AEGIS_VERDICT_DENY)) {
        AEGIS_JUDGEMENT(value) = judgement.word;
        if (answers) { /* to a SYN that this entry has counted */
            kept.tcp_flags[AEGIS_INGRESS] = AEGIS_TCP_SYN;
            kept.marks |= AEGIS_MARK_INGRESS;
        }
        if (answers || value->state == AEGIS_FLOW_CLOSED)
            aegis_flow_renew(value, kept.word, 0);
    }
    if (!tcp && judgement.verdict != AEGIS_VERDICT_DENY)
        AEGIS_JUDGEMENT(value) = judgement.word;
    return judgement.word;
}

/* Owner of a flow from a later packet on its way out, whose socket was not seen yet. What the kernel sends by
 * itself (SYN-ACK by a request socket, RST, what is forwarded) takes nothing from an owner that is known,
 * such as the listener's, and the next packet's socket is asked again. */
__noinline int aegis_flow_own(struct __sk_buff *skb, struct aegis_flow_value *value)
{
    __u64 owner = aegis_owner_of_sent(skb);
    __u64 kernel = AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_KERNEL);

    if (!value)
        return 0;
    if (owner == AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_REQUEST) ||
        owner == AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_FORWARDED) || (owner == kernel && value->owner != kernel)) {
        if (!value->owner)
            value->owner = owner;
        return 0;
    }
    if (owner || value->cookie)
        value->owner = owner;
    value->cookie = bpf_get_socket_cookie(skb);
    return 0;
}

/* What becomes of a packet: one to or from a resolver that may pass is read before it does. */
static __always_inline int aegis_flow_named(struct __sk_buff *skb, const struct aegis_packet *packet,
                                            const __u32 direction, int action)
{
    if (unlikely(packet->key.remote_port == AEGIS_NAME_PORT) && action != TC_ACT_SHOT)
        return aegis_names_packet(skb, direction);
    return action;
}

/* Owner of a flow from a packet on its way out, when another process may be sending than the one that the
 * flow names. The first packet of an epoch also takes over what the socket was labelled with meanwhile.
 * Returns 1 where the flow has another owner by it, who may be another subject. */
__noinline int aegis_flow_sender(struct __sk_buff *skb, struct aegis_flow_value *value, __u32 epoch)
{
    __u64 owner;

    if (!value || (value->epoch == epoch && !aegis_on_its_stack(bpf_get_current_task_btf())))
        return 0;
    owner = aegis_owner_of_sent(skb);
    if (!(owner & AEGIS_OWNER_TGID) || owner == value->owner)
        return 0;
    value->owner = owner;
    return 1;
}

static __always_inline int aegis_flow_packet(struct __sk_buff *skb, const __u32 direction)
{
    struct aegis_packet packet = {};
    struct aegis_flow_value *value;
    struct aegis_control *control;
    union aegis_judgement judgement;
    union aegis_marks old, marks;
    __u32 zero = 0, segments, epoch;
    __u64 state, cookie = 0;
    bool asked;

    control = bpf_map_lookup_elem(&aegis_control, &zero);
    if (!control)
        return TC_ACT_UNSPEC;
    state = aegis_in_force(control);
    epoch = *(volatile __u32 *)&control->epoch;
    packet.length = skb->len;
    packet.direction = direction;
    packet.key.ifindex = skb->ifindex;
    if (skb->vlan_present)
        packet.key.vlan_outer = skb->vlan_tci & 0xfff;
    aegis_total(AEGIS_TOTAL_SEEN, direction, packet.length);
    if (direction == AEGIS_INGRESS && unlikely(skb->pkt_type == AEGIS_PACKET_LOOPBACK)) {
        aegis_total(AEGIS_TOTAL_LOOPED, direction, packet.length);
        return TC_ACT_UNSPEC;
    }
    if (!aegis_parse_fast(skb, &packet, direction)) {
        int refusal = aegis_flow_parse(skb, &packet, state);

        if (refusal)
            return aegis_flow_refuse(state, refusal, direction, packet.length);
    }
    value = bpf_map_lookup_elem(&aegis_flows, &packet.key);
    if (!value)
        return aegis_flow_named(skb, &packet, direction, aegis_flow_first(skb, &packet, state, epoch));
    old.word = AEGIS_MARKS(value);
    judgement.word = AEGIS_JUDGEMENT(value);
    if (unlikely(old.marks & AEGIS_MARK_RETIRED))
        return aegis_flow_named(skb, &packet, direction,
                                aegis_flow_retired(skb, &packet, state, judgement.initiator));
    /* A port may pass to another process's socket; a TCP connection says so by its SYN. */
    asked = direction == AEGIS_EGRESS &&
            (packet.key.protocol != AEGIS_PROTO_TCP || packet.starts || !value->cookie);
    if (asked)
        cookie = bpf_get_socket_cookie(skb);
    if (direction == AEGIS_EGRESS && aegis_constants.senders && value->owner & AEGIS_OWNER_TGID &&
        unlikely(value->epoch != epoch || aegis_other_runs(value->owner)) && !packet.error)
        packet.handed = aegis_flow_sender(skb, value, epoch);
    if (unlikely(judgement.generation != (__u32)(state >> 8) || packet.starts || judgement.timing ||
                 packet.handed || judgement.management != (*(volatile __u32 *)&control->management & 1) ||
                 ((direction == AEGIS_EGRESS || judgement.initiator != direction) &&
                  judgement.verdict == AEGIS_VERDICT_DENY) ||
                 (cookie && value->cookie && cookie != value->cookie) ||
                 (direction == AEGIS_INGRESS && judgement.initiator == AEGIS_INGRESS &&
                  aegis_subject_receives(&packet, state)))) {
        judgement.word = aegis_flow_judge(skb, &packet, value, state);
        old.word = AEGIS_MARKS(value);
    }
    if (likely(!packet.error)) {
        marks.word = old.word;
        marks.tcp_flags[direction] |= packet.tcp_flags;
        marks.marks |= direction == AEGIS_EGRESS ? AEGIS_MARK_EGRESS : AEGIS_MARK_INGRESS;
        if ((marks.marks & (AEGIS_MARK_EGRESS | AEGIS_MARK_INGRESS)) ==
            (AEGIS_MARK_EGRESS | AEGIS_MARK_INGRESS))
            marks.state |= AEGIS_FLOW_ESTABLISHED;
        /* What a peer sent and did not get through closes nothing. */
        if (packet.tcp_flags & (AEGIS_TCP_FIN | AEGIS_TCP_RST) &&
            (direction == AEGIS_EGRESS || judgement.verdict != AEGIS_VERDICT_DENY)) {
            marks.state |= AEGIS_FLOW_CLOSING;
            if (packet.tcp_flags & AEGIS_TCP_RST || marks.tcp_flags[0] & marks.tcp_flags[1] & AEGIS_TCP_FIN)
                marks.state |= AEGIS_FLOW_CLOSED;
        }
        if (marks.word != old.word)
            __sync_fetch_and_or((__u32 *)value->tcp_flags, marks.word);
        if (asked && unlikely(cookie ? cookie != value->cookie : !value->owner))
            aegis_flow_own(skb, value);
    }
    if (value->epoch != epoch)
        value->epoch = epoch;
    if (unlikely(packet.key.remote_port == AEGIS_NAME_PORT) && judgement.verdict != AEGIS_VERDICT_DENY &&
        aegis_names_packet(skb, direction) == TC_ACT_SHOT) {
        aegis_flow_count(value, direction, packet.length);
        return TC_ACT_SHOT;
    }
    segments = skb->gso_segs;
    if (unlikely(segments > 1))
        __sync_fetch_and_add(&value->extra_segments, segments - 1);
    if (unlikely(judgement.verdict == AEGIS_VERDICT_DENY))
        __sync_fetch_and_add(&value->dropped_packets, 1);
    aegis_flow_count(value, direction, packet.length);
    if (likely(judgement.verdict == AEGIS_VERDICT_ALLOW))
        return TC_ACT_UNSPEC;
    return aegis_apply(judgement.word, state, direction, packet.length);
}

SEC("tc")
int tc_egress_flow(struct __sk_buff *skb)
{
    return aegis_flow_packet(skb, AEGIS_EGRESS);
}

SEC("tc")
int tc_ingress_flow(struct __sk_buff *skb)
{
    return aegis_flow_packet(skb, AEGIS_INGRESS);
}
