/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The loader's tests: one small program of each type Aegis uses, with maps whose contents a test can
 * foretell. */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#define BPF_MAP_TYPE_HASH         1
#define BPF_MAP_TYPE_ARRAY        2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_RINGBUF      27
#define BPF_F_MMAPABLE            1024

#include <bpf/bpf_helpers.h>
#include "aegis/abi.h"

struct __sk_buff {
    __u32 len;
};
struct bpf_sock;
struct seq_file;
struct bpf_iter_meta {
    struct seq_file *seq;
} __attribute__((preserve_access_index));
struct bpf_iter__bpf_map_elem {
    struct bpf_iter_meta *meta;
    void *map;
    void *key;
    void *value;
} __attribute__((preserve_access_index));

const volatile struct aegis_constants aegis_constants SEC(".rodata.aegis");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, __u64);
    __uint(map_flags, BPF_F_MMAPABLE);
} probe_words SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u64);
} probe_counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64);
    __type(value, __u64);
} probe_table SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} probe_ring SEC(".maps");

static __u64 *word(__u32 index)
{
    return bpf_map_lookup_elem(&probe_words, &index);
}

static void count(__u32 index, __u64 amount)
{
    __u64 *value = bpf_map_lookup_elem(&probe_counts, &index);
    if (value)
        __sync_fetch_and_add(value, amount);
}

/* Counts packets and bytes and lets the packet go on. */
SEC("tc")
int probe_tc_count(struct __sk_buff *packet)
{
    count(0, 1);
    count(1, packet->len);
    return -1;
}

/* Lets everything go on; counts nothing. */
SEC("tc")
int probe_tc_pass(struct __sk_buff *packet)
{
    return -1;
}

/* Drops everything; counts nothing. */
SEC("tc")
int probe_tc_drop(struct __sk_buff *packet)
{
    return 2;
}

SEC("cgroup/sock_create")
int probe_sock_create(struct bpf_sock *socket)
{
    __u64 *seen = word(0);
    if (seen)
        __sync_fetch_and_add(seen, 1);
    return 1;
}

SEC("tp_btf/sched_process_exec")
int probe_tp_exec(__u64 *arguments)
{
    __u64 *seen = word(1);
    if (seen)
        __sync_fetch_and_add(seen, 1);
    return 0;
}

SEC("raw_tp/sched_process_exec")
int probe_raw_exec(__u64 *arguments)
{
    __u64 *seen = word(2);
    if (seen)
        __sync_fetch_and_add(seen, 1);
    return 0;
}

/* Copies each entry of probe_table out: key, then value. */
SEC("iter/bpf_map_elem")
int probe_iter_table(struct bpf_iter__bpf_map_elem *context)
{
    __u64 *key = context->key, *value = context->value;
    __u64 pair[2];
    if (!key || !value)
        return 0;
    pair[0] = *key;
    pair[1] = *value;
    bpf_seq_write(context->meta->seq, pair, sizeof(pair));
    return 0;
}

/* Answers with what the loader set: the constants added up. */
SEC("syscall")
int probe_constants(__u64 *context)
{
    *context = aegis_constants.agent_tgid + aegis_constants.cgroup_hierarchy_v2 + aegis_constants.ring_bytes +
               aegis_constants.ring_reserved_bytes;
    return 7;
}

char LICENSE[] SEC("license")
= "Dual BSD/GPL";
