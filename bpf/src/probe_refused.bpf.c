/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Must not load: the verifier's own words have to reach the typed error. */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#define BPF_MAP_TYPE_HASH 1

#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} refused_words SEC(".maps");

/* Reads through a look-up that may be NULL. */
SEC("syscall")
int refused_null(void *context)
{
    __u32 zero = 0;
    __u64 *value = bpf_map_lookup_elem(&refused_words, &zero);
    return (int)*value;
}

char LICENSE[] SEC("license")
= "Dual BSD/GPL";
