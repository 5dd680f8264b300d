/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* For tests only: names without flows and policy. TCP towards port 7000 passes only to addresses that stand
 * for a name, so that who resolves and connects shows whether the name was bound in time. */
#include "kern/prelude.bpf.h"
#include "kern/maps.bpf.h"
#include "kern/packet.bpf.h"
#include "kern/names.bpf.h"
#include "kern/names_automaton.bpf.h"
#include "names.bpf.c"

char LICENSE[] SEC("license")
= "Dual BSD/GPL";

/* [0] passed, [1] refused */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64[4]);
} probe_gate SEC(".maps");

SEC("tc")
int probe_names_nothing(struct __sk_buff *skb)
{
    return TC_ACT_UNSPEC;
}

SEC("tc")
int probe_names_query(struct __sk_buff *skb)
{
    return aegis_names_packet(skb, AEGIS_EGRESS);
}

SEC("tc")
int probe_names_answer(struct __sk_buff *skb)
{
    return aegis_names_packet(skb, AEGIS_INGRESS);
}

/* TCP towards port 7000: only to addresses that stand for a name. */
static __always_inline bool probe_passes(struct __sk_buff *skb)
{
    __u8 address[16] = {};
    __u32 zero = 0, offset;
    __u64 class;
    struct aegis_tcp tcp;
    __u64 *gate = bpf_map_lookup_elem(&probe_gate, &zero);

    if (!gate)
        return true;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr ip;

        if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.protocol != AEGIS_PROTO_TCP)
            return true;
        aegis_put_ipv4(address, ip.daddr);
        offset = ETH_HLEN + sizeof(ip);
    } else {
        struct aegis_ipv6 ip;

        if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) ||
            ip.next != AEGIS_PROTO_TCP)
            return true;
        __builtin_memcpy(address, ip.destination, 16);
        offset = ETH_HLEN + sizeof(ip);
    }
    if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)) || tcp.destination != bpf_htons(7000))
        return true;
    class = aegis_names_under(1 << 8, bpf_be64_to_cpu(*(__u64 *)address),
                              bpf_be64_to_cpu(*(__u64 *)(address + 8)));
    __sync_fetch_and_add(&gate[class ? 0 : 1], 1);
    return class != 0;
}

SEC("tc")
int probe_names_egress(struct __sk_buff *skb)
{
    if (!probe_passes(skb))
        return TC_ACT_SHOT;
    return aegis_names_packet(skb, AEGIS_EGRESS);
}

SEC("tc")
int probe_names_ingress(struct __sk_buff *skb)
{
    return aegis_names_packet(skb, AEGIS_INGRESS);
}

/* The question that the answer of probe_names_again answers, put back before each of its runs. */
struct probe_awaited {
    struct aegis_name_question_key key;
    struct aegis_name_question question;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct probe_awaited);
} probe_awaited SEC(".maps");

static __always_inline bool probe_await(void)
{
    __u32 zero = 0;
    struct probe_awaited *awaited = bpf_map_lookup_elem(&probe_awaited, &zero);

    return awaited && !bpf_map_update_elem(&aegis_name_questions, &awaited->key, &awaited->question, BPF_ANY);
}

SEC("tc")
int probe_names_await(struct __sk_buff *skb)
{
    return probe_await() ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int probe_names_again(struct __sk_buff *skb)
{
    return probe_await() ? aegis_names_packet(skb, AEGIS_INGRESS) : TC_ACT_SHOT;
}
