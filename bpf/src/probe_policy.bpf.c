/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* For tests and benchmarks only: asks the policy image many questions in one run of the program. */
#include "kern/prelude.bpf.h"
#include "kern/maps.bpf.h"
#include "kern/emit.bpf.h"
#include "kern/verdict.bpf.h"

char LICENSE[] SEC("license")
= "Dual BSD/GPL";

struct probe_question {
    __u64 high;
    __u64 low;
    __u64 where; /* aegis_where with slot 0: the slot comes from the state word; with the expired instants */
    __u64 mask;
    __u64 names;
    __u64 decision;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 4096);
    __type(key, __u32);
    __type(value, struct probe_question);
} probe_questions SEC(".maps");

/* [0] how many questions to ask */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} probe_count SEC(".maps");

static long ask(__u32 index, void *context)
{
    struct probe_question *question = bpf_map_lookup_elem(&probe_questions, &index);
    __u32 zero = 0;
    struct aegis_control *control = bpf_map_lookup_elem(&aegis_control, &zero);
    __u64 state;

    if (!question || !control)
        return 1;
    question->decision = 0;
    state = aegis_in_force(control);
    if (state)
        question->decision =
            aegis_policy_lookup(question->high, question->low, (state & 0x7f) << 32 | question->where,
                                question->mask, question->names);
    return 0;
}

SEC("tc")
int probe_policy(struct __sk_buff *skb)
{
    __u32 zero = 0;
    __u64 *count = bpf_map_lookup_elem(&probe_count, &zero);

    if (!count)
        return 0;
    bpf_loop(*count, ask, NULL, 0);
    return 0;
}
