/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Load-time constants (section .rodata.aegis) and the shared control words. */
#ifndef AEGIS_CONFIG_H
#define AEGIS_CONFIG_H

struct aegis_constants {
    __u32 agent_tgid; /* not reported by the process sensor */
    __u32 cgroup_hierarchy_v2;
    __u64 ring_bytes;
    __u64 ring_reserved_bytes; /* kept for urgent kinds */
    __u64 image_bytes;         /* of a policy image: one of enum aegis_image_size */
    __u64 rules;               /* ranks that aegis_rule_hits has room for, twice */
    __u32 senders;             /* 1: the packet programs look at who sends */
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_constants, 48)

/* ARRAY[1], mmapable, pinned: read by every packet, written by one 8-byte store each. */
struct aegis_control {
    __u64 state;      /* policy state word: generation << 8 | trial << 7 | slot; 0: no policy */
    __u32 epoch;      /* set by the harvest */
    __u32 management; /* grows by one with each change of the management path */
};
AEGIS_ASSERT_SIZE(struct aegis_control, 16)

/* ARRAY[1], mmapable: the reader's side of the ring. */
struct aegis_reader {
    __u32 armed; /* set by the reader before it sleeps, taken by the producer that wakes it */
    __u32 pad0[15];
    __u64 read[16]; /* records read, by kind */
};
AEGIS_ASSERT_SIZE(struct aegis_reader, 192)

#endif
