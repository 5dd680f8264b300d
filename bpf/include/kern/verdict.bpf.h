/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the policy says about a packet, and the record of it.
 *
 * Every step is a global function with scalar arguments, so that the verifier judges it once and alone, and
 * every comparison in a search is arithmetic, so that both outcomes are one path. */
#ifndef AEGIS_KERN_VERDICT_BPF_H
#define AEGIS_KERN_VERDICT_BPF_H

#include "kern/trial.bpf.h"

/* The image of a slot: one element, written by user space before the slot is named by the state word. Its
 * size is set at load to aegis_constants.image_bytes. */
struct aegis_image_map {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __uint(key_size, 4);
    __uint(value_size, AEGIS_IMAGE_SMALL);
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, AEGIS_POLICY_SLOTS);
    __uint(key_size, 4);
    __uint(value_size, 4);
    __array(values, struct aegis_image_map);
} aegis_images SEC(".maps");

/* Entries are set at load to 2 * aegis_constants.rules. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 2 * AEGIS_IMAGE_SMALL / 64);
    __type(key, __u32);
    __type(value, struct aegis_rule_hits);
} aegis_rule_hits SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, AEGIS_VERDICT_PEERS);
    __type(key, struct aegis_verdict_limit_key);
    __type(value, struct aegis_verdict_limit);
} aegis_verdict_limits SEC(".maps");

/* What aegis_policy_lookup returns: the deciding enforced rule (rank + 1, 0: none) in bits 0-23, that of all
 * policies above it, and these. */
enum aegis_decision {
    AEGIS_DECISION_RULE_MASK = 0xffffff,
    AEGIS_DECISION_ANY_SHIFT = 24,
    AEGIS_DECISION_ANY_DENIES = 48,
    AEGIS_DECISION_ENFORCED_DENIES = 49,
    AEGIS_DECISION_TIMED = 50 /* a rule that ends has a say */
};

/* Bits of `where` above slot and key. */
enum aegis_where {
    AEGIS_WHERE_SLOT = 32,    /* 8 bits */
    AEGIS_WHERE_EXPIRED = 40, /* 8 bits: instants that have passed */
    AEGIS_WHERE_PART = 48,    /* 8 bits */
    AEGIS_WHERE_V6 = 56       /* 1 bit */
};

/* A best pair, and above it whether a rule that ends has a say, or the class to ask next. */
#define AEGIS_NONE_PAIR ((__u64)AEGIS_CHOICE_NONE << AEGIS_CHOICE_BITS | AEGIS_CHOICE_NONE)
#define AEGIS_PAIR_BITS (2 * AEGIS_CHOICE_BITS)
#define AEGIS_PAIR_MASK ((1ull << AEGIS_PAIR_BITS) - 1)

/* Keeps the compiler from turning arithmetic back into a jump, or a checked offset into another register. */
#define AEGIS_OPAQUE(value) asm volatile("" : "+r"(value))

static __always_inline void *aegis_image(__u64 slot)
{
    __u32 index = slot;
    __u32 zero = 0;
    void *inner = bpf_map_lookup_elem(&aegis_images, &index);
    if (!inner)
        return NULL;
    return bpf_map_lookup_elem(inner, &zero);
}

static __always_inline __u32 aegis_image_u32(void *image, __u64 offset)
{
    __u64 mask = aegis_constants.image_bytes - 4;

    offset &= mask;
    AEGIS_OPAQUE(offset);
    offset &= mask;
    return *(__u32 *)(image + offset);
}

static __always_inline __u64 aegis_image_u64(void *image, __u64 offset)
{
    __u64 mask = aegis_constants.image_bytes - 8;

    offset &= mask;
    AEGIS_OPAQUE(offset);
    offset &= mask;
    return *(__u64 *)(image + offset);
}

/* 1 when left < right + borrow as unsigned 64-bit numbers: the borrow of left - right - borrow. */
static __always_inline __u64 aegis_borrow(__u64 left, __u64 right, __u64 borrow)
{
    __u64 out = ((~left & right) | ((~left | right) & (left - right - borrow))) >> 63;

    AEGIS_OPAQUE(out);
    return out;
}

/* The better of both halves of two pairs. */
static __always_inline __u64 aegis_better(__u64 one, __u64 other)
{
    __u64 enforced = one & AEGIS_CHOICE_NONE, any = one >> AEGIS_CHOICE_BITS & AEGIS_CHOICE_NONE;
    __u64 enforced2 = other & AEGIS_CHOICE_NONE, any2 = other >> AEGIS_CHOICE_BITS & AEGIS_CHOICE_NONE;
    __u64 first = (enforced2 - enforced) >> 63, second = (any2 - any) >> 63;

    AEGIS_OPAQUE(first);
    AEGIS_OPAQUE(second);
    enforced ^= (enforced ^ enforced2) & -first;
    any ^= (any ^ any2) & -second;
    return any << AEGIS_CHOICE_BITS | enforced;
}

/* Number of the IPv4 interval of a part that holds an address (host order), and its class. */
static __always_inline __u64 aegis_class_v4(void *image, __u64 part, __u64 address)
{
    __u64 index = aegis_image_u64(image, part); /* v4_bits and, above it, v4_index */
    __u64 first = aegis_image_u32(image, part + 8);
    __u64 begin, count;

    index = (index >> 32) + (address >> ((32 - index) & 63)) * 4;
    begin = aegis_image_u32(image, index);
    count = aegis_image_u32(image, index + 4) - begin + 1;
    first += begin * sizeof(struct aegis_image_v4);
    for (int step = 0; step < AEGIS_IMAGE_STEPS && count > 1; step++) {
        __u64 skip = (count >> 1) * sizeof(struct aegis_image_v4);
        __u64 beyond = (address - aegis_image_u32(image, first + skip)) >> 63;

        AEGIS_OPAQUE(beyond);
        first += (beyond - 1) & skip;
        count -= count >> 1;
    }
    return aegis_image_u32(image, first + 4);
}

/* The same for IPv6 (host order halves). */
static __always_inline __u64 aegis_class_v6(void *image, __u64 part, __u64 high, __u64 low)
{
    __u64 first = aegis_image_u32(image, part + 16);
    __u64 count = aegis_image_u32(image, part + 20);

    for (int step = 0; step < AEGIS_IMAGE_STEPS && count > 1; step++) {
        __u64 skip = (count >> 1) * sizeof(struct aegis_image_v6);
        __u64 beyond = aegis_borrow(low, aegis_image_u64(image, first + skip + 8), 0);

        beyond = aegis_borrow(high, aegis_image_u64(image, first + skip), beyond);
        first += (beyond - 1) & skip;
        count -= count >> 1;
    }
    return aegis_image_u32(image, first + 16);
}

/* Class of an address (host order halves, IPv4 mapped) in the part that `where` names. */
__noinline __u64 aegis_policy_class(__u64 addr_hi, __u64 addr_lo, __u64 where)
{
    void *image = aegis_image(where >> AEGIS_WHERE_SLOT & 0xff);
    __u64 part;

    if (!image)
        return 0;
    part = ((struct aegis_image_header *)image)->parts +
           ((struct aegis_image_header *)image)->part_count * 8ull +
           (where >> AEGIS_WHERE_PART & 0xff) * sizeof(struct aegis_image_part);
    if (!addr_hi && addr_lo >> 32 == 0xffff)
        return aegis_class_v4(image, part, addr_lo & 0xffffffff);
    return aegis_class_v6(image, part, addr_hi, addr_lo);
}

/* Joins what a class says of a key (in `where`) with the best pair so far. Returns the best pair and above it
 * the class to ask next; 0 when none wider can decide better. */
__noinline __u64 aegis_policy_step(__u64 where, __u64 owner, __u64 best)
{
    void *image = aegis_image(where >> AEGIS_WHERE_SLOT & 0xff);
    __u64 entry, first, count, parent, above;
    __u64 key = where & 0x3ffffff;

    if (!image)
        return 0;
    entry = ((struct aegis_image_header *)image)->classes;
    entry += (owner & 0x3ffffff) * sizeof(struct aegis_image_class);
    parent = aegis_image_u64(image, entry); /* and, below it, the first cell */
    above = aegis_image_u64(image, entry + 8);
    first = ((struct aegis_image_header *)image)->cells + (parent & 0xffffffff) * 8;
    parent >>= 32;
    count = above >> AEGIS_PAIR_BITS;
    for (int step = 0; step < AEGIS_IMAGE_STEPS && count > 1; step++) {
        __u64 skip = (count >> 1) * 8;
        __u64 beyond = (key - (aegis_image_u64(image, first + skip) >> AEGIS_PAIR_BITS)) >> 63;

        AEGIS_OPAQUE(beyond);
        first += (beyond - 1) & skip;
        count -= count >> 1;
    }
    best = aegis_better(best & AEGIS_PAIR_MASK, aegis_image_u64(image, first) & AEGIS_PAIR_MASK);
    if (aegis_better(best, above & AEGIS_PAIR_MASK) == best)
        parent = 0;
    return parent << AEGIS_PAIR_BITS | best;
}

/* Whether a directory word or one of a list is about a packet of these subjects at this time. */
static __always_inline bool aegis_word_applies(__u64 word, __u64 mask, __u64 where)
{
    __u64 deadline = word >> AEGIS_WORD_DEADLINE_SHIFT & 0xff;
    __u64 family = word >> AEGIS_WORD_FAMILY_SHIFT & 3;

    if (family && family != (where >> AEGIS_WHERE_V6 & 1) + 1)
        return false;
    return mask >> (word & 63) & 1 && (!deadline || deadline > (where >> AEGIS_WHERE_EXPIRED & 0xff));
}

/* What is best now, and whether a rule that ends has a say: one has where it made a difference. */
static __always_inline __u64 aegis_joined(__u64 best, __u64 found, __u64 word)
{
    found &= AEGIS_PAIR_MASK;
    if (found != (best & AEGIS_PAIR_MASK) && word >> AEGIS_WORD_DEADLINE_SHIFT & 0xff)
        found |= 1ull << AEGIS_PAIR_BITS;
    return found | (best & 1ull << AEGIS_PAIR_BITS);
}

/* Joins what the part that `where` names says of a peer and a key with the best pair so far, where the part
 * is about the packet. */
__noinline __u64 aegis_policy_part(__u64 addr_hi, __u64 addr_lo, __u64 where, __u64 mask, __u64 best)
{
    struct aegis_image_header *image = aegis_image(where >> AEGIS_WHERE_SLOT & 0xff);
    __u64 part = where >> AEGIS_WHERE_PART & 0xff;
    __u64 found, owner, word;

    if (!image)
        return best;
    word = aegis_image_u64(image, image->parts + part * 8);
    if (!aegis_word_applies(word, mask, where))
        return best;
    part = image->parts + image->part_count * 8ull + part * sizeof(struct aegis_image_part);
    found = aegis_better(best, aegis_image_u64(image, part + 24 + (where >> 25 & 1) * 8));
    owner = aegis_policy_class(addr_hi, addr_lo, where);
    for (int depth = 0; depth < AEGIS_IMAGE_DEPTH && owner; depth++) {
        found = aegis_policy_step(where, owner, found);
        owner = found >> AEGIS_PAIR_BITS;
        found &= AEGIS_PAIR_MASK;
    }
    return aegis_joined(best, found, word);
}

/* Joins what a word of a list of rules about a name says with the best pair so far, where it is about the
 * packet. */
__noinline __u64 aegis_policy_named(__u64 at, __u64 where, __u64 mask, __u64 best)
{
    struct aegis_image_header *image = aegis_image(where >> AEGIS_WHERE_SLOT & 0xff);
    __u64 word, found;

    if (!image)
        return best;
    word = aegis_image_u64(image, image->name_words + at * 8);
    if (!aegis_word_applies(word, mask, where))
        return best;
    found = aegis_policy_step(where, word >> AEGIS_WORD_CLASS_SHIFT & 0xffffffff, best);
    return aegis_joined(best, found, word);
}

/* The same of all rules about a name class. */
__noinline __u64 aegis_policy_names(__u64 name, __u64 where, __u64 mask, __u64 best)
{
    struct aegis_image_header *image = aegis_image(where >> AEGIS_WHERE_SLOT & 0xff);
    __u64 list;

    if (!image || !name || name > image->name_count)
        return best;
    list = aegis_image_u64(image, image->names + (name - 1) * 8);
    for (__u64 step = 0; step < AEGIS_IMAGE_NAME_PARTS; step++) {
        if (step >= (list & 0xffffffff))
            break;
        best = aegis_policy_named((list >> 32) + step, where, mask, best);
    }
    return best;
}

/* slot, service key and expired instants: the third argument of aegis_policy_lookup. */
static __always_inline __u64 aegis_where(__u64 slot, __u64 direction, __u64 protocol, __u64 fragment,
                                         __u64 port)
{
    return (slot & 0xff) << AEGIS_WHERE_SLOT | (direction & 1) << 25 | (fragment & 1) << 24 |
           (protocol & 0xff) << 16 | (port & 0xffff);
}

/* How many of the instants at which rules of a slot end have passed. No clock is read where none ends. */
__noinline __u64 aegis_policy_expired(__u64 slot)
{
    struct aegis_image_header *image = aegis_image(slot & 0xff);
    __u64 now, count = 0;

    if (!image || !image->deadline_count)
        return 0;
    now = bpf_ktime_get_boot_ns() / 1000000;
    for (int at = 0; at < AEGIS_IMAGE_DEADLINES; at++) {
        if (at >= image->deadline_count || aegis_image_u64(image, image->deadlines + at * 8) > now)
            break;
        count++;
    }
    return count;
}

/* What the policy in a slot says about a peer (address as two host order halves, IPv4 mapped) and a service,
 * to packets of the subjects in `mask` (bit 0, everybody, is always meant). `where`: see aegis_where, and
 * aegis_policy_expired << AEGIS_WHERE_EXPIRED. `names`: up to four name classes of the peer, 16 bits each,
 * 0: none. Returns what enum aegis_decision says. A state word that names an empty slot is answered with a
 * denial by no rule: losing an image must not open the host. */
__noinline __u64 aegis_policy_lookup(__u64 addr_hi, __u64 addr_lo, __u64 where, __u64 mask, __u64 names)
{
    struct aegis_image_header *image = aegis_image(where >> AEGIS_WHERE_SLOT & 0xff);
    __u64 best = AEGIS_NONE_PAIR;
    __u64 enforced, any, parts, decision = 0;

    if (!image)
        return 1ull << AEGIS_DECISION_ENFORCED_DENIES | 1ull << AEGIS_DECISION_ANY_DENIES;
    mask |= 1;
    where &= (1ull << AEGIS_WHERE_PART) - 1;
    where |= (__u64)(addr_hi || addr_lo >> 32 != 0xffff) << AEGIS_WHERE_V6;
    parts = image->part_count;
    for (__u64 part = 0; part < AEGIS_IMAGE_PARTS; part++) {
        if (part >= parts)
            break;
        best = aegis_policy_part(addr_hi, addr_lo, where | part << AEGIS_WHERE_PART, mask, best);
    }
    for (int slot = 0; slot < 4; slot++) {
        if (names & 0xffff)
            best = aegis_policy_names(names & 0xffff, where, mask, best);
        names >>= 16;
    }
    enforced = best & AEGIS_CHOICE_NONE;
    any = best >> AEGIS_CHOICE_BITS & AEGIS_CHOICE_NONE;
    if (enforced != AEGIS_CHOICE_NONE)
        decision |= (enforced >> 1) + 1 | (enforced & 1) << AEGIS_DECISION_ENFORCED_DENIES;
    if (any != AEGIS_CHOICE_NONE)
        decision |= ((any >> 1) + 1) << AEGIS_DECISION_ANY_SHIFT | (any & 1) << AEGIS_DECISION_ANY_DENIES;
    return decision | (best >> AEGIS_PAIR_BITS & 1) << AEGIS_DECISION_TIMED;
}

/* Whether the policy in a slot enforces anything: if so, packets that cannot be parsed are dropped. */
__noinline __u64 aegis_policy_enforces(__u64 slot)
{
    struct aegis_image_header *header = aegis_image(slot);

    return !header || header->enforced != 0;
}

/* Splits a decision into the verdict (return value) and the rule that a flow stores (rank + 1, 0: none). */
static __always_inline __u8 aegis_decide(__u64 decision, __u32 *rule)
{
    __u32 enforced = decision & AEGIS_DECISION_RULE_MASK;
    __u32 any = decision >> AEGIS_DECISION_ANY_SHIFT & AEGIS_DECISION_RULE_MASK;

    if (decision >> AEGIS_DECISION_ENFORCED_DENIES & 1) {
        *rule = enforced;
        return AEGIS_VERDICT_DENY;
    }
    if (decision >> AEGIS_DECISION_ANY_DENIES & 1) {
        *rule = any;
        return AEGIS_VERDICT_AUDIT;
    }
    *rule = enforced ? enforced : any;
    return AEGIS_VERDICT_ALLOW;
}

/* Counts a packet that `rule` (rank + 1) of the policy named by `state` denied or would have. */
static __always_inline void aegis_count_rule(__u64 state, __u32 rule, __u64 bytes)
{
    __u64 generation = state >> 8, old, packets, size;
    struct aegis_rule_hits *hits;
    __u32 index;

    if (!rule || rule > aegis_constants.rules)
        return;
    index = (generation & 1) * (__u32)aegis_constants.rules + rule - 1;
    hits = bpf_map_lookup_elem(&aegis_rule_hits, &index);
    if (!hits)
        return;
    old = hits->generation;
    if (old != generation) {
        /* A packet hook may interrupt a system call's: what it adds from here on stays. */
        packets = hits->packets;
        size = hits->bytes;
        if (__sync_val_compare_and_swap(&hits->generation, old, generation) == old) {
            __sync_fetch_and_add(&hits->packets, -packets);
            __sync_fetch_and_add(&hits->bytes, -size);
        }
    }
    __sync_fetch_and_add(&hits->packets, 1);
    __sync_fetch_and_add(&hits->bytes, bytes);
}

/* Whether a record of this rule and peer may be sent now; *suppressed is how many were withheld before it. */
static __always_inline bool aegis_verdict_permitted(const struct aegis_verdict_limit_key *key, __u64 now,
                                                    __u32 *suppressed)
{
    struct aegis_verdict_limit *limit = bpf_map_lookup_elem(&aegis_verdict_limits, key);
    struct aegis_verdict_limit first = {.window_ns = now, .sent = 1};

    *suppressed = 0;
    if (!limit) {
        bpf_map_update_elem(&aegis_verdict_limits, key, &first, BPF_NOEXIST);
        return true;
    }
    /* Two CPUs may both open a window: a few records more, none lost or counted twice. */
    if (now - limit->window_ns >= AEGIS_VERDICT_WINDOW_NS) {
        limit->window_ns = now;
        limit->sent = 0;
    }
    if (__sync_fetch_and_add(&limit->sent, 1) >= AEGIS_VERDICT_BURST) {
        __sync_fetch_and_add(&limit->suppressed, 1);
        return false;
    }
    *suppressed = __sync_lock_test_and_set(&limit->suppressed, 0);
    return true;
}

/* Emits the record of a denied or audited flow, or counts it as rate_limited. `word` is a judgement: the
 * generation, and above it the fields of enum aegis_judged. Call it where a verdict is decided (a new flow, a
 * changed policy, a packet without a flow entry), not for packets with a cached one. */
static __noinline __attribute__((unused)) int aegis_emit_verdict(const struct aegis_flow_key *key, __u64 word,
                                                                 __u64 owner, __u64 cookie)
{
    __u32 judged = word >> 32;
    struct aegis_verdict_limit_key peer = {.generation = (__u32)word,
                                           .rule = judged & AEGIS_JUDGED_RULE_MASK};
    struct aegis_verdict_record record = {};

    __builtin_memcpy(peer.remote, key->remote, sizeof(peer.remote));
    if (!aegis_verdict_permitted(&peer, bpf_ktime_get_boot_ns(), &record.suppressed)) {
        aegis_count_rate_limited(AEGIS_KIND_VERDICT);
        return 0;
    }
    record.key = *key;
    record.owner = owner;
    record.generation = (__u32)word;
    record.cookie = cookie;
    record.rule = judged & AEGIS_JUDGED_RULE_MASK;
    record.verdict = judged >> AEGIS_JUDGED_VERDICT_SHIFT & 3;
    record.initiator = judged >> AEGIS_JUDGED_INITIATOR_SHIFT & 1;
    aegis_emit(&record, sizeof(record), AEGIS_KIND_VERDICT, true);
    return 0;
}

#endif
