/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* For tests only: loads where it is not to look at who sends. */
#include "kern/prelude.bpf.h"

char LICENSE[] SEC("license")
= "Dual BSD/GPL";

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} probe_words SEC(".maps");

SEC("tc")
int probe_sender(struct __sk_buff *skb)
{
    __u32 zero = 0;
    __u32 *word = bpf_map_lookup_elem(&probe_words, &zero);

    return aegis_constants.senders ? *word : TC_ACT_UNSPEC;
}
