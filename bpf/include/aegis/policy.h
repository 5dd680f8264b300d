/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The compiled policy image, the counters of its rules and the record of a decision.
 *
 * An image is position-independent: offsets are bytes from its first byte, and every section is sorted, so
 * that the kernel finds a rule by direct loads. Behind the header come
 * - v4_index: __u32 for each value of the leading v4_bits bits, the number of the address interval in which
 * it begins, and one more, v4_count - 1;
 * - v4, v6: address intervals;
 * - classes: class 0 has no rules and no parent;
 * - cells: what the classes decide.
 *
 * A choice is rank << 1 | deny, so that the smaller one decides; AEGIS_CHOICE_NONE is above all.
 * A service key is direction << 25 | fragment << 24 | protocol << 16 | port. */
#ifndef AEGIS_POLICY_H
#define AEGIS_POLICY_H

enum aegis_verdict {
    AEGIS_VERDICT_ALLOW = 0,
    AEGIS_VERDICT_AUDIT = 1,
    AEGIS_VERDICT_DENY = 2
};

enum aegis_image {
    AEGIS_IMAGE_MAGIC = 1229997377, /* "AEPI" */
    AEGIS_IMAGE_FORMAT = 1,
    AEGIS_IMAGE_DEPTH = 16,   /* nested prefixes that all carry rules */
    AEGIS_IMAGE_V4_BITS = 16, /* largest index */
    AEGIS_IMAGE_STEPS = 18,   /* halvings that end every search in an image */
    AEGIS_CHOICE_NONE = 65535
};

struct aegis_image_header {
    __u32 magic;
    __u32 format;
    __u32 bytes; /* of the whole image */
    __u32 rules;
    __u32 enforced; /* rules of policies in mode enforce */
    __u32 v4_bits;
    __u32 v4_index;
    __u32 v4;
    __u32 v4_count;
    __u32 v6;
    __u32 v6_count;
    __u32 classes;
    __u32 class_count;
    __u32 cells;
    __u32 cell_count;
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_image_header, 64)

/* Addresses from `start` to the next interval's start - 1 belong to a class. The first starts at 0. */
struct aegis_image_v4 {
    __u32 start;
    __u32 owner; /* class */
};
AEGIS_ASSERT_SIZE(struct aegis_image_v4, 8)

struct aegis_image_v6 {
    __u64 start_high;
    __u64 start_low;
    __u64 owner; /* class */
};
AEGIS_ASSERT_SIZE(struct aegis_image_v6, 24)

/* One prefix (or several with the same rules and parent) with its own rules. */
struct aegis_image_class {
    __u32 cell;           /* number of its first cell */
    __u32 cell_count;     /* at least 1: the first cell starts at key 0 */
    __u32 parent;         /* class of the next wider prefix that carries rules, 0: none */
    __u16 above;          /* best choice of all wider prefixes */
    __u16 above_enforced; /* the same among enforced rules */
};
AEGIS_ASSERT_SIZE(struct aegis_image_class, 16)

/* Service keys from `start` to the next cell's start - 1 are decided so. */
struct aegis_image_cell {
    __u32 start;
    __u16 enforced; /* best choice among enforced rules */
    __u16 any;      /* best choice among all rules */
};
AEGIS_ASSERT_SIZE(struct aegis_image_cell, 8)

/* Per CPU, index slot * AEGIS_MAX_RULES + rank: packets that a rule denied (mode enforce) or would have
 * (observe). */
struct aegis_rule_hits {
    __u64 packets;
    __u64 bytes;
};
AEGIS_ASSERT_SIZE(struct aegis_rule_hits, 16)

/* Records of one rule and remote address, to limit them. */
struct aegis_verdict_limit_key {
    __u8 remote[16];
    __u64 generation;
    __u32 rule; /* rank + 1 */
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_verdict_limit_key, 32)

struct aegis_verdict_limit {
    __u64 window_ns; /* start of the window, CLOCK_BOOTTIME */
    __u32 sent;      /* records in the window */
    __u32 suppressed;
};
AEGIS_ASSERT_SIZE(struct aegis_verdict_limit, 16)

enum aegis_verdict_limits {
    AEGIS_VERDICT_BURST = 16, /* records of one rule and remote address in a window */
    AEGIS_VERDICT_WINDOW_NS = 1000000000,
    AEGIS_VERDICT_PEERS = 4096 /* rules and remote addresses remembered; the least recent is forgotten */
};

/* Record of a deny or audit decision, rate-limited per rule and remote address. */
struct aegis_verdict_record {
    struct aegis_header header;
    struct aegis_flow_key key;
    __u64 owner;
    __u64 generation;
    __u64 cookie;
    __u32 suppressed; /* records of this rule and peer withheld since the last one sent */
    __u16 rule;       /* rank + 1 */
    __u8 verdict;
    __u8 initiator;
};
AEGIS_ASSERT_SIZE(struct aegis_verdict_record, 96)

#endif
