/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The only way a record reaches the ring. Per CPU and kind, after each call:
 * attempted = submitted + ring_full + filtered + rate_limited.
 *
 * The counters need atomics: a tracepoint program may be interrupted by a softirq program on its CPU. */
#ifndef AEGIS_KERN_EMIT_BPF_H
#define AEGIS_KERN_EMIT_BPF_H

#define AEGIS_RECORD_OVERHEAD 16 /* a ring record's own header, and rounding up to 8 */

static __always_inline struct aegis_record_counters *aegis_attempt(__u32 kind)
{
    struct aegis_record_counters *counters = bpf_map_lookup_elem(&aegis_record_counters, &kind);

    if (counters)
        __sync_fetch_and_add(&counters->attempted, 1);
    return counters;
}

/* A record that a filter kept back. */
static __always_inline void aegis_count_filtered(__u32 kind)
{
    struct aegis_record_counters *counters = aegis_attempt(kind);

    if (counters)
        __sync_fetch_and_add(&counters->filtered, 1);
}

/* A record that a rate limit kept back. */
static __always_inline void aegis_count_rate_limited(__u32 kind)
{
    struct aegis_record_counters *counters = aegis_attempt(kind);

    if (counters)
        __sync_fetch_and_add(&counters->rate_limited, 1);
}

/* Writes the header of a record, which is its first member. */
static __always_inline void aegis_stamp(struct aegis_header *header, __u32 size, __u32 kind)
{
    header->ktime_ns = bpf_ktime_get_boot_ns();
    header->size = size;
    header->kind = kind;
    header->cpu = bpf_get_smp_processor_id();
}

/* Whether this producer is the one that wakes the reader. */
static __always_inline bool aegis_take_armed(struct aegis_reader *reader)
{
    return reader && *(volatile __u32 *)&reader->armed && __sync_lock_test_and_set(&reader->armed, 0);
}

/* Wakes the reader for a record that is in the ring already: an entry that readers skip carries the wake-up.
 */
static __always_inline void aegis_wake(void)
{
    void *empty = bpf_ringbuf_reserve(&aegis_ring, 8, 0);

    if (empty)
        bpf_ringbuf_discard(empty, BPF_RB_FORCE_WAKEUP);
}

/* Stamps and sends a record of `size` bytes that begins with a struct aegis_header. Returns 0, or an error
 * after counting it as ring_full. Kinds that are not urgent leave ring_reserved_bytes of the ring to those
 * that are.
 *
 * A forced wake-up costs 6 us in this context, so it is sent only on an edge: by the producer that takes the
 * word the reader armed before it slept. The word is looked at again once the record is visible: a reader
 * that armed it meanwhile and found the ring empty would sleep on.
 *
 * A fork wakes nobody. It is no event: it prepares the reader for what the child will do, and the record of
 * that, which follows it in the ring, brings it along (the reader's sweep at the latest). An exec is then
 * read at once, instead of after the pause that the fork before it began. */
static __always_inline long aegis_emit(void *record, __u32 size, __u32 kind, bool urgent)
{
    struct aegis_record_counters *counters = aegis_attempt(kind);
    struct aegis_reader *reader;
    __u64 flags = BPF_RB_NO_WAKEUP;
    __u32 zero = 0;
    bool wakes = kind != AEGIS_KIND_FORK;
    long error;

    aegis_stamp(record, size, kind);
    if (!urgent && bpf_ringbuf_query(&aegis_ring, BPF_RB_AVAIL_DATA) + size + AEGIS_RECORD_OVERHEAD >
                       aegis_constants.ring_bytes - aegis_constants.ring_reserved_bytes) {
        error = -1;
    } else {
        reader = bpf_map_lookup_elem(&aegis_reader, &zero);
        if (wakes && aegis_take_armed(reader))
            flags = BPF_RB_FORCE_WAKEUP;
        error = bpf_ringbuf_output(&aegis_ring, record, size, flags);
        if (error) {
            if (reader && flags == BPF_RB_FORCE_WAKEUP)
                reader->armed = 1; /* taken for nothing: the next record must wake the reader */
        } else if (wakes && flags == BPF_RB_NO_WAKEUP && aegis_take_armed(reader)) {
            aegis_wake();
        }
    }
    if (counters) {
        if (error)
            __sync_fetch_and_add(&counters->ring_full, 1);
        else
            __sync_fetch_and_add(&counters->submitted, 1);
    }
    return error;
}

#endif
