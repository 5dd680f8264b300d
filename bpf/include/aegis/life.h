/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A policy on trial, and the management path. */
#ifndef AEGIS_LIFE_H
#define AEGIS_LIFE_H

/* The state word: generation, above the bit that says its policy is on trial, above the slot. */
enum aegis_state {
    AEGIS_STATE_TRIAL = 128,
    AEGIS_STATE_GENERATION_SHIFT = 8
};

/* Of each slot; written before a state word names the slot, and not while one does. From `deadline_ns` on, a
 * state word with the trial bit means what `previous` says. */
struct aegis_policy_slot {
    __u64 generation;
    __u64 deadline_ns; /* CLOCK_BOOTTIME; 0: not on trial */
    __u64 previous;    /* state word, never one on trial; 0: no policy */
};
AEGIS_ASSERT_SIZE(struct aegis_policy_slot, 24)

enum aegis_management_limits {
    AEGIS_MANAGEMENT_ENTRIES = 64
};

enum aegis_management_flag {
    AEGIS_MANAGEMENT_NEIGHBOURS = 1, /* ICMPv6 133-137 */
    AEGIS_MANAGEMENT_PATH_MTU = 2,   /* ICMPv6 packet-too-big, ICMP fragmentation-needed */
    AEGIS_MANAGEMENT_DHCP = 4,       /* this host as a client */
    AEGIS_MANAGEMENT_DHCPV6 = 8
};

/* Flows of a service between this host and addresses (host order halves, IPv4 mapped, under a mask) that no
 * policy judges. The service is a key as in policy.h: the initiator's direction, and the port it opens to. */
struct aegis_management_entry {
    __u64 high;
    __u64 low;
    __u64 mask_high;
    __u64 mask_low;
    __u32 service;
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_management_entry, 40)

/* One of two; struct aegis_control's `management` says by its lowest bit which of them holds. */
struct aegis_management {
    __u32 flags;
    __u32 count;
    struct aegis_management_entry entries[AEGIS_MANAGEMENT_ENTRIES];
};
AEGIS_ASSERT_SIZE(struct aegis_management, 2568)

#endif
