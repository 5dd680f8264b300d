/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* For tests and benchmarks only: the flow program on another packet at each run, and what that costs without
 * it. */
#define AEGIS_WITH_FLOWS
#include "kern/prelude.bpf.h"
#include "kern/maps.bpf.h"
#include "kern/emit.bpf.h"
#include "kern/verdict.bpf.h"
#include "kern/names.bpf.h"
#include "kern/names_automaton.bpf.h"
#include "kern/packet.bpf.h"
#include "kern/management.bpf.h"
#include "kern/automaton.bpf.h"
#include "kern/subject.bpf.h"
#include "kern/parse.bpf.h"
#include "owner.bpf.c"
#include "sender.bpf.c"
#include "subject.bpf.c"
#include "names.bpf.c"
#include "flow.bpf.c"
#include "sweep.bpf.c"

char LICENSE[] SEC("license")
= "Dual BSD/GPL";

/* [0] runs so far, [1] flows to rotate over less one (a power of two less one), [2] odd step from flow to
 * flow: with another step than the one that filled the table, the order in memory helps no more. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32[4]);
} probe_rotation SEC(".maps");

SEC("tc")
int probe_empty(struct __sk_buff *skb)
{
    return TC_ACT_UNSPEC;
}

/* Writes the next flow's number into the source address of an IPv4 packet. */
static __always_inline bool probe_next(struct __sk_buff *skb)
{
    void *data = (void *)(long)skb->data;
    void *end = (void *)(long)skb->data_end;
    __u32 zero = 0;
    __u32 *rotation = bpf_map_lookup_elem(&probe_rotation, &zero);

    if (!rotation || data + 34 > end)
        return false;
    *(__u16 *)(data + 28) = (rotation[0]++ * rotation[2]) & rotation[1];
    return true;
}

SEC("tc")
int probe_rotate_empty(struct __sk_buff *skb)
{
    return probe_next(skb) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int probe_rotate_flow(struct __sk_buff *skb)
{
    return probe_next(skb) ? aegis_flow_packet(skb, AEGIS_EGRESS) : TC_ACT_SHOT;
}
