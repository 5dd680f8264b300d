/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The compiled policy image, the counters of its rules and the record of a decision.
 *
 * An image is position-independent: offsets are bytes from its first byte, each a multiple of 8, and every
 * section is sorted, so that the kernel finds a rule by direct loads. Behind the header come
 * - deadlines: __u64 for each instant at which rules end, milliseconds of CLOCK_BOOTTIME, ascending;
 * - parts: a directory word for each part, then the parts in the same order;
 * - of each part v4_index (__u32 for each value of the leading v4_bits bits, the number of the address
 * interval in which it begins, and one more, v4_count - 1), v4 and v6 (address intervals);
 * - classes, of all parts: class 0 has no rules and no parent;
 * - cells, of all parts: what the classes decide;
 * - names: for each name class from 1 on a word that says where its list is; name_words: the lists.
 *
 * A part holds the rules of one subject that end at one instant (or never). What is said of a packet is the
 * best choice of all parts whose subject is among the packet's and whose instant has not come, of the
 * defaults of these parts, and of the rules of these subjects about a name of the peer.
 *
 * A choice is rank << 1 | deny, so that the smaller one decides; AEGIS_CHOICE_NONE is above all. Ranks are of
 * the whole set; policies that deny by default have a rank for each direction behind all rules. A pair is
 * any << AEGIS_CHOICE_BITS | enforced: the best choice of all policies and the best of the enforcing ones.
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
    AEGIS_IMAGE_FORMAT = 2,
    AEGIS_IMAGE_DEPTH = 16,    /* nested prefixes that all carry rules, in one part */
    AEGIS_IMAGE_V4_BITS = 16,  /* largest index */
    AEGIS_IMAGE_STEPS = 21,    /* halvings that end every search in an image */
    AEGIS_IMAGE_SUBJECTS = 64, /* bits of a subject mask; bit 0 is everybody */
    AEGIS_IMAGE_PARTS = 128,
    AEGIS_IMAGE_DEADLINES = 64,
    AEGIS_IMAGE_NAME_PARTS = 64, /* of one name class */
    AEGIS_IMAGE_NAME_CLASSES = 65535,
    AEGIS_CHOICE_BITS = 19,
    AEGIS_CHOICE_NONE = 524287
};

struct aegis_image_header {
    __u32 magic;
    __u32 format;
    __u32 bytes;    /* of the whole image */
    __u32 rules;    /* ranks */
    __u32 enforced; /* ranks of policies in mode enforce */
    __u32 deadlines;
    __u32 deadline_count;
    __u32 parts; /* of the directory; the parts follow it */
    __u32 part_count;
    __u32 classes;
    __u32 class_count;
    __u32 cells;
    __u32 cell_count;
    __u32 names;
    __u32 name_count; /* name classes, number 0 (no name) not among them */
    __u32 name_words;
    __u32 name_word_count;
    __u32 pad0;
    __u64 subjects; /* bits that any part or name rule is about */
};
AEGIS_ASSERT_SIZE(struct aegis_image_header, 80)

/* A word of the directory, and of a list of name_words: subject bit in bits 0-7, deadline in bits 8-15 (its
 * number from 1, 0: none), and in name_words the class in bits 16-47 and in bits 48-49 the only family it is
 * for (1: IPv4, 2: IPv6, 0: both). */
enum aegis_image_word {
    AEGIS_WORD_DEADLINE_SHIFT = 8,
    AEGIS_WORD_CLASS_SHIFT = 16,
    AEGIS_WORD_FAMILY_SHIFT = 48
};

struct aegis_image_part {
    __u32 v4_bits;
    __u32 v4_index;
    __u32 v4;
    __u32 v4_count;
    __u32 v6;
    __u32 v6_count;
    __u64 defaults[2]; /* pairs, by direction */
};
AEGIS_ASSERT_SIZE(struct aegis_image_part, 40)

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
    __u32 cell;   /* number of its first cell */
    __u32 parent; /* class of the next wider prefix that carries rules, 0: none */
    __u64 above;  /* pair: the best choices of all wider prefixes; above it the number of cells, at least 1:
                     the first cell starts at key 0 */
};
AEGIS_ASSERT_SIZE(struct aegis_image_class, 16)

/* Service keys from its start to the next cell's start - 1 are decided so: start << 38 | pair. */
struct aegis_image_cell {
    __u64 word;
};
AEGIS_ASSERT_SIZE(struct aegis_image_cell, 8)

/* Where the list of a name class is: number of its first word << 32 | how many. */
struct aegis_image_name {
    __u64 word;
};
AEGIS_ASSERT_SIZE(struct aegis_image_name, 8)

/* Per CPU, index (generation & 1) * aegis_constants.rules + rank: packets that a rule denied (mode enforce)
 * or would have (observe). Those of another generation count as 0. */
struct aegis_rule_hits {
    __u64 generation;
    __u64 packets;
    __u64 bytes;
};
AEGIS_ASSERT_SIZE(struct aegis_rule_hits, 24)

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
    __u32 rule;       /* rank + 1 */
    __u8 verdict;
    __u8 initiator;
    __u8 pad0[6];
};
AEGIS_ASSERT_SIZE(struct aegis_verdict_record, 104)

#endif
