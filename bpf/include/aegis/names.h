/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Names learnt from DNS answers: the addresses they stand for, the questions whose answers are awaited, and
 * why an answer was not believed. */
#ifndef AEGIS_NAMES_H
#define AEGIS_NAMES_H

enum aegis_names_limits {
    AEGIS_NAME_PORT = 53,
    AEGIS_NAME_SLOTS = 4,         /* classes of names that one address can stand for */
    AEGIS_NAME_ADDRESSES = 16384, /* addresses remembered, as built */
    AEGIS_NAME_QUESTIONS = 2048,  /* questions awaited; the least recent is forgotten */
    AEGIS_NAME_RESOLVERS = 64,
    AEGIS_NAME_CLASSES = 4096,  /* numbers of classes, 0 (none) among them */
    AEGIS_NAME_EDGES = 32768,   /* exact labels, and states, of the automata of all slots */
    AEGIS_NAME_BRANCHES = 8192, /* of all slots */
    AEGIS_NAME_STATES = 16384,  /* of the automaton of a slot; the first is dead */
    AEGIS_NAME_AFFIXES = 128,   /* of the automaton of a slot */
    AEGIS_NAME_MESSAGE_BYTES = 4096,
    AEGIS_NAME_BYTES = 255, /* longest name, lengths and end included */
    AEGIS_NAME_LABELS = 127,
    AEGIS_NAME_MOST_RECORDS = 64,   /* of an answer */
    AEGIS_NAME_MOST_ADDRESSES = 32, /* of an answer */
    AEGIS_NAME_MOST_STEPS = 512,    /* labels, pointers and ends of all names read in a message */
    AEGIS_NAME_AWAITED_S = 20, /* an answer may take so long: a forger has no longer than with any resolver */
    AEGIS_NAME_MOST_TTL_S = 604800,
    AEGIS_NAME_GRACE_S = 60 /* an address is good for so long after its TTL, which is for asking again */
};

/* One word a class, stored whole: class << 32 | the second of CLOCK_BOOTTIME from which on it is over. 0 is a
 * free slot, all bits set (AEGIS_NAME_DEAD) one of an entry that is about to be deleted. */
struct aegis_name_slots {
    __u64 slots[4];
};
AEGIS_ASSERT_SIZE(struct aegis_name_slots, 32)

/* IPv4 mapped. */
struct aegis_name_address {
    __u8 bytes[16];
};
AEGIS_ASSERT_SIZE(struct aegis_name_address, 16)

/* First half of the SHA-256 of the patterns a class stands for. */
struct aegis_name_digest {
    __u8 bytes[16];
};
AEGIS_ASSERT_SIZE(struct aegis_name_digest, 16)

struct aegis_name_question_key {
    __u8 client[16];
    __u8 server[16];
    __u16 port; /* the client's */
    __u16 id;   /* as it stands in the message */
    __u8 protocol;
    __u8 pad[3];
};
AEGIS_ASSERT_SIZE(struct aegis_name_question_key, 40)

struct aegis_name_question {
    __u64 name; /* hash of the labels in lower case */
    __u32 classes[2];
    __u32 type;
    __u32 until; /* second of CLOCK_BOOTTIME from which on no answer is believed */
};
AEGIS_ASSERT_SIZE(struct aegis_name_question, 24)

/* A state is slot * AEGIS_NAME_STATES + its number; a number of 0 is dead: nothing can match any more. */
struct aegis_name_edge {
    __u32 state;
    __u32 size;
    __u64 label[8]; /* in lower case, zero behind its end */
};
AEGIS_ASSERT_SIZE(struct aegis_name_edge, 72)

struct aegis_name_state {
    __u32 otherwise;   /* where a label leads that has no edge and matches no affix */
    __u32 class_;      /* of the names that end here, 0: of no interest */
    __u32 affix;       /* number of the first one */
    __u32 affix_count; /* at most 64 */
};
AEGIS_ASSERT_SIZE(struct aegis_name_state, 16)

/* The ends of a label: the prefix from the first byte on, the suffix up to the last byte of the last word.
 * Bytes that are of neither are 0, also in the masks. */
struct aegis_name_affix {
    __u64 prefix[8];
    __u64 prefix_mask[8];
    __u64 suffix[8];
    __u64 suffix_mask[8];
    __u64 least; /* bytes of both */
};
AEGIS_ASSERT_SIZE(struct aegis_name_affix, 264)

/* Where a label leads that has no edge and matches exactly these affixes: bits by place in the state's list.
 */
struct aegis_name_branch {
    __u64 matched;
    __u32 state;
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_name_branch, 16)

/* Of a policy slot: where its automaton begins, 0: the policy names no name. While a policy is tried, `also`
 * is the root of the policy before it, so that what is learnt meanwhile holds when the trial ends without it.
 */
struct aegis_name_root {
    __u32 root;
    __u32 also;
};
AEGIS_ASSERT_SIZE(struct aegis_name_root, 8)

/* Index of the per-CPU counts. */
enum aegis_name_count {
    AEGIS_NAME_ASKED = 0,           /* questions of interest: their answers are awaited */
    AEGIS_NAME_ASKED_OTHER = 1,     /* no name or type of interest */
    AEGIS_NAME_ASKED_ELSEWHERE = 2, /* of a server that is no allowed resolver */
    AEGIS_NAME_ASKED_MALFORMED = 3,
    AEGIS_NAME_LEARNT = 4,      /* answers whose addresses were bound */
    AEGIS_NAME_UNSOLICITED = 5, /* no question of interest awaits it (most answers) */
    AEGIS_NAME_ELSEWHERE = 6,   /* of a server that is no allowed resolver */
    AEGIS_NAME_MISMATCH = 7,    /* not a response, or not to the question asked */
    AEGIS_NAME_TRUNCATED = 8,   /* TC: the client asks again over TCP */
    AEGIS_NAME_ERROR = 9,       /* no such name, refused, failed */
    AEGIS_NAME_EMPTY = 10,      /* no address of the type asked for */
    AEGIS_NAME_MALFORMED = 11,
    AEGIS_NAME_FOREIGN = 12, /* a record of another name than the one asked for and its aliases, in order */
    AEGIS_NAME_FORBIDDEN =
        13, /* an address of this host, this link, a multicast group or a metadata service */
    AEGIS_NAME_TOO_MUCH = 14,   /* more bytes, records, addresses or labels than are read */
    AEGIS_NAME_SPLIT = 15,      /* fragments, and TCP segments that hold no whole message */
    AEGIS_NAME_SLOTS_FULL = 16, /* addresses that stand for four other classes already */
    AEGIS_NAME_TABLE_FULL = 17, /* addresses for which there was no room */
    AEGIS_NAME_HELD_BACK = 18,  /* answers dropped in the instant in which an entry of theirs was deleted */
    AEGIS_NAME_BOUND = 19,      /* addresses bound or renewed */
    AEGIS_NAME_ASKED_LOST = 20, /* questions of interest for which there was no room */
    AEGIS_NAME_COUNTS = 24
};

enum aegis_name_order_kind {
    AEGIS_NAME_ORDER_BIND = 0, /* bind `address` to `class` until `until` */
    AEGIS_NAME_ORDER_KEEP = 1, /* keep what `address` stands for until `until` at least */
    AEGIS_NAME_ORDER_MARK = 2, /* mark entries of which every slot was over before `until` as dead */
    AEGIS_NAME_ORDER_REAP = 3, /* an RCU grace period later: delete them */
    AEGIS_NAME_ORDER_FLOWS = 4 /* KEEP, for the peer of every open flow that this host began */
};

/* Context of the program by which user space changes the table. */
struct aegis_name_order {
    __u32 kind; /* enum aegis_name_order_kind */
    __u32 now;
    __u32 until; /* seconds of CLOCK_BOOTTIME, as `now` */
    __u32 class_;
    __u8 address[16];
    /* Out */
    __u32 entries; /* MARK, REAP: walked; FLOWS: that this host began */
    __u32 changed; /* slots or entries */
    __u32 refused; /* BIND: 0, or the AEGIS_NAME_* it was refused for */
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_name_order, 48)

#endif
