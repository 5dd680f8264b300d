/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Fills the ring for tests and benchmarks, through the same door as every sensor. */
#include "kern/prelude.bpf.h"
#include "kern/maps.bpf.h"
#include "kern/emit.bpf.h"

char LICENSE[] SEC("license")
= "Dual BSD/GPL";

/* Records number first .. first + count - 1: the value is the number, the key a hash of it below `keys`. */
struct probe_flood {
    __u64 count;
    __u64 keys;
    __u64 first;
    __u64 urgent;
};

struct probe_raw {
    __u64 size;
    __u8 bytes[248];
};

static __u64 mix(__u64 number)
{
    number ^= number >> 33;
    number *= 0xff51afd7ed558ccdULL;
    number ^= number >> 33;
    number *= 0xc4ceb9fe1a85ec53ULL;
    return number ^ (number >> 33);
}

static long emit_one(__u32 index, struct probe_flood *flood)
{
    struct aegis_synthetic record = {};

    record.value = flood->first + index;
    record.key = mix(record.value) % flood->keys;
    aegis_emit(&record, sizeof(record), AEGIS_KIND_SYNTHETIC, flood->urgent != 0);
    return 0;
}

SEC("syscall")
int probe_ring_flood(struct probe_flood *context)
{
    struct probe_flood flood = *context;

    if (flood.keys == 0)
        return 1;
    bpf_loop(flood.count, emit_one, &flood, 0);
    return 0;
}

/* Bytes as they are, uncounted and unstamped: what no sensor would send. */
SEC("syscall")
int probe_ring_raw(struct probe_raw *context)
{
    struct probe_raw raw = *context;

    if (raw.size > sizeof(raw.bytes))
        return 1;
    return bpf_ringbuf_output(&aegis_ring, raw.bytes, raw.size, BPF_RB_NO_WAKEUP) ? 2 : 0;
}
