/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every map both objects share, and the flow maps of the object that defines AEGIS_WITH_FLOWS. The policy's
 * maps stand beside the search that reads them, in kern/verdict.bpf.h. Entries of ring, flows and owners are
 * set at load. */
#ifndef AEGIS_KERN_MAPS_BPF_H
#define AEGIS_KERN_MAPS_BPF_H

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} aegis_ring SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, AEGIS_KINDS);
    __type(key, __u32);
    __type(value, struct aegis_record_counters);
} aegis_record_counters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct aegis_reader);
} aegis_reader SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct aegis_control);
} aegis_control SEC(".maps");

/* Owner id of each socket; accepted sockets inherit their listener's. */
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
    __type(key, int);
    __type(value, __u64);
} aegis_sk_owner SEC(".maps");

/* What an owner id stands for. User space deletes those that no process and no flow has. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 16384);
    __type(key, __u64);
    __type(value, struct aegis_owner);
} aegis_owners SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, AEGIS_LOSSES);
    __type(key, __u32);
    __type(value, __u64);
} aegis_table_losses SEC(".maps");

#ifdef AEGIS_WITH_FLOWS
/* Preallocated: smaller than on demand when it fills, and twice as fast to insert. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __type(key, struct aegis_flow_key);
    __type(value, struct aegis_flow_value);
} aegis_flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, AEGIS_TOTALS);
    __type(key, __u32);
    __type(value, struct aegis_packet_counter);
} aegis_packet_totals SEC(".maps");

/* Where a sweep leaves its rows. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, AEGIS_SWEEP_ROWS);
    __type(key, __u32);
    __type(value, struct aegis_flow_row);
} aegis_flow_rows SEC(".maps");

/* What a sweep over chosen entries starts from. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, AEGIS_SWEEP_MAX_KEYS);
    __type(key, __u32);
    __type(value, struct aegis_flow_key);
} aegis_flow_keys SEC(".maps");
#endif

static __always_inline void aegis_count_loss(__u32 loss)
{
    __u64 *count = bpf_map_lookup_elem(&aegis_table_losses, &loss);

    if (count)
        __sync_fetch_and_add(count, 1);
}

#endif
