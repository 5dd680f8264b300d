/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the policy says about a packet, and the record of it.
 *
 * Every step is a global function with scalar arguments, so that the verifier judges it once and alone, and
 * every comparison in a search is arithmetic, so that both outcomes are one path. */
#ifndef AEGIS_KERN_VERDICT_BPF_H
#define AEGIS_KERN_VERDICT_BPF_H

/* The image of a slot: one element, written by user space before the slot is named by the state word. */
struct aegis_image_map {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __uint(key_size, 4);
    __uint(value_size, AEGIS_IMAGE_BYTES);
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, AEGIS_POLICY_SLOTS);
    __uint(key_size, 4);
    __uint(value_size, 4);
    __array(values, struct aegis_image_map);
} aegis_images SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, AEGIS_POLICY_SLOTS *AEGIS_MAX_RULES);
    __type(key, __u32);
    __type(value, struct aegis_rule_hits);
} aegis_rule_hits SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, AEGIS_VERDICT_PEERS);
    __type(key, struct aegis_verdict_limit_key);
    __type(value, struct aegis_verdict_limit);
} aegis_verdict_limits SEC(".maps");

/* Bits of what aegis_policy_lookup returns, above the two rules. */
enum aegis_decision {
    AEGIS_DECISION_ANY_SHIFT = 16,
    AEGIS_DECISION_ANY_DENIES = 32,
    AEGIS_DECISION_ENFORCED_DENIES = 33
};

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
    offset &= AEGIS_IMAGE_BYTES - 4;
    AEGIS_OPAQUE(offset);
    offset &= AEGIS_IMAGE_BYTES - 4;
    return *(__u32 *)(image + offset);
}

static __always_inline __u64 aegis_image_u64(void *image, __u64 offset)
{
    offset &= AEGIS_IMAGE_BYTES - 8;
    AEGIS_OPAQUE(offset);
    offset &= AEGIS_IMAGE_BYTES - 8;
    return *(__u64 *)(image + offset);
}

/* 1 when left < right + borrow as unsigned 64-bit numbers: the borrow of left - right - borrow. */
static __always_inline __u64 aegis_borrow(__u64 left, __u64 right, __u64 borrow)
{
    __u64 out = ((~left & right) | ((~left | right) & (left - right - borrow))) >> 63;

    AEGIS_OPAQUE(out);
    return out;
}

/* Last of `count` elements of `stride` bytes whose leading __u32 is <= key; the first one always is. */
static __always_inline __u64 aegis_image_find(void *image, __u64 first, __u64 count, __u64 stride, __u32 key)
{
    for (int step = 0; step < AEGIS_IMAGE_STEPS && count > 1; step++) {
        __u64 half = count >> 1;
        __u64 start = aegis_image_u32(image, first + half * stride);
        __u64 beyond = ((__u64)key - start) >> 63;

        AEGIS_OPAQUE(beyond);
        first += (beyond - 1) & (half * stride);
        count -= half;
    }
    return first;
}

/* Class of an IPv4 address (host order). */
__noinline __u64 aegis_policy_class_v4(__u64 slot, __u64 address)
{
    struct aegis_image_header *header = aegis_image(slot);
    __u64 bucket, begin, end, found;

    if (!header)
        return 0;
    address &= 0xffffffff;
    bucket = header->v4_index + (address >> ((32 - header->v4_bits) & 63)) * 4;
    begin = aegis_image_u32(header, bucket);
    end = aegis_image_u32(header, bucket + 4);
    found = aegis_image_find(header, header->v4 + begin * sizeof(struct aegis_image_v4), end - begin + 1,
                             sizeof(struct aegis_image_v4), address);
    return aegis_image_u32(header, found + 4);
}

/* Class of an IPv6 address (host order halves). */
__noinline __u64 aegis_policy_class_v6(__u64 slot, __u64 high, __u64 low)
{
    struct aegis_image_header *header = aegis_image(slot);
    __u64 first, count;

    if (!header)
        return 0;
    first = header->v6;
    count = header->v6_count;
    for (int step = 0; step < AEGIS_IMAGE_STEPS && count > 1; step++) {
        __u64 skip = (count >> 1) * sizeof(struct aegis_image_v6);
        __u64 beyond = aegis_borrow(low, aegis_image_u64(header, first + skip + 8), 0);

        beyond = aegis_borrow(high, aegis_image_u64(header, first + skip), beyond);
        first += (beyond - 1) & skip;
        count -= count >> 1;
    }
    return aegis_image_u32(header, first + 16);
}

/* Joins what a class decides with the best choices so far (enforced | any << 16). Returns the best choices
 * and in the upper half the class to ask next; 0 when none wider can decide better. `where` is slot << 32 |
 * class. */
__noinline __u64 aegis_policy_step(__u64 where, __u64 key, __u64 best)
{
    void *image = aegis_image(where >> 32);
    __u64 entry, cells, choice, enforced, any, parent;

    if (!image)
        return 1 << 16 | 1; /* denied by the first rule there could be; see aegis_policy_lookup */
    entry = ((struct aegis_image_header *)image)->classes;
    entry += (where & 0xffffffff) * sizeof(struct aegis_image_class);
    cells = ((struct aegis_image_header *)image)->cells;
    cells += (__u64)aegis_image_u32(image, entry) * sizeof(struct aegis_image_cell);
    cells = aegis_image_find(image, cells, aegis_image_u32(image, entry + 4), sizeof(struct aegis_image_cell),
                             key);
    choice = aegis_image_u32(image, cells + 4);
    enforced = best & 0xffff;
    any = (best >> 16) & 0xffff;
    if ((choice & 0xffff) < enforced)
        enforced = choice & 0xffff;
    if (choice >> 16 < any)
        any = choice >> 16;
    parent = aegis_image_u32(image, entry + 8);
    choice = aegis_image_u32(image, entry + 12);
    if ((choice & 0xffff) >= any && choice >> 16 >= enforced)
        parent = 0;
    return parent << 32 | any << 16 | enforced;
}

/* slot << 32 | service key: the last argument of aegis_policy_lookup. */
static __always_inline __u64 aegis_where(__u64 slot, __u64 direction, __u64 protocol, __u64 fragment,
                                         __u64 port)
{
    return (slot & 0xff) << 32 | (direction & 1) << 25 | (fragment & 1) << 24 | (protocol & 0xff) << 16 |
           (port & 0xffff);
}

/* What the policy in a slot says about a peer (address as two host order halves, IPv4 mapped) and a service.
 * Returns the deciding enforced rule (rank + 1, 0: none) in bits 0-15, the deciding rule of all policies in
 * bits 16-31, and in bits 32 and 33 whether the latter and the former deny. A state word that names an empty
 * slot is answered with a denial by no rule: losing an image must not open the host. */
__noinline __u64 aegis_policy_lookup(__u64 addr_hi, __u64 addr_lo, __u64 where)
{
    __u64 slot = (where >> 32) & 0xff;
    __u64 key = where & 0xffffffff;
    __u64 best = (__u64)AEGIS_CHOICE_NONE << 16 | AEGIS_CHOICE_NONE;
    __u64 owner, enforced, any, decision = 0;

    if (!aegis_image(slot))
        return 1ull << AEGIS_DECISION_ENFORCED_DENIES | 1ull << AEGIS_DECISION_ANY_DENIES;
    if (!addr_hi && addr_lo >> 32 == 0xffff)
        owner = aegis_policy_class_v4(slot, addr_lo & 0xffffffff);
    else
        owner = aegis_policy_class_v6(slot, addr_hi, addr_lo);
    for (int depth = 0; depth < AEGIS_IMAGE_DEPTH && owner; depth++) {
        best = aegis_policy_step(slot << 32 | owner, key, best & 0xffffffff);
        owner = best >> 32;
    }
    enforced = best & 0xffff;
    any = (best >> 16) & 0xffff;
    if (enforced != AEGIS_CHOICE_NONE)
        decision |= (enforced >> 1) + 1 | (enforced & 1) << AEGIS_DECISION_ENFORCED_DENIES;
    if (any != AEGIS_CHOICE_NONE)
        decision |= ((any >> 1) + 1) << AEGIS_DECISION_ANY_SHIFT | (any & 1) << AEGIS_DECISION_ANY_DENIES;
    return decision;
}

/* Whether the policy in a slot enforces anything: if so, packets that cannot be parsed are dropped. */
__noinline __u64 aegis_policy_enforces(__u64 slot)
{
    struct aegis_image_header *header = aegis_image(slot);

    return !header || header->enforced != 0;
}

/* Splits a decision into the verdict (return value) and the rule that a flow stores (rank + 1, 0: none). */
static __always_inline __u8 aegis_decide(__u64 decision, __u16 *rule)
{
    if (decision >> AEGIS_DECISION_ENFORCED_DENIES & 1) {
        *rule = decision & 0xffff;
        return AEGIS_VERDICT_DENY;
    }
    if (decision >> AEGIS_DECISION_ANY_DENIES & 1) {
        *rule = decision >> AEGIS_DECISION_ANY_SHIFT & 0xffff;
        return AEGIS_VERDICT_AUDIT;
    }
    *rule = decision & 0xffff ? decision & 0xffff : decision >> AEGIS_DECISION_ANY_SHIFT & 0xffff;
    return AEGIS_VERDICT_ALLOW;
}

/* Counts a packet that `rule` (rank + 1) of the policy named by `state` denied or would have. */
static __always_inline void aegis_count_rule(__u64 state, __u16 rule, __u64 bytes)
{
    struct aegis_rule_hits *hits;
    __u32 index = (state & (AEGIS_POLICY_SLOTS - 1)) * AEGIS_MAX_RULES + ((rule - 1) & (AEGIS_MAX_RULES - 1));

    if (!rule)
        return;
    hits = bpf_map_lookup_elem(&aegis_rule_hits, &index);
    if (!hits)
        return;
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

/* Emits the record of a denied or audited flow, or counts it as rate_limited. Call it where a verdict is
 * decided (a new flow, a changed policy, a packet without a flow entry), not for packets with a cached one.
 */
static __noinline __attribute__((unused)) int aegis_emit_verdict(const struct aegis_flow_key *key,
                                                                 const struct aegis_flow_value *value)
{
    struct aegis_verdict_limit_key peer = {.generation = value->generation, .rule = value->rule};
    struct aegis_verdict_record record = {};

    __builtin_memcpy(peer.remote, key->remote, sizeof(peer.remote));
    if (!aegis_verdict_permitted(&peer, bpf_ktime_get_boot_ns(), &record.suppressed)) {
        aegis_count_rate_limited(AEGIS_KIND_VERDICT);
        return 0;
    }
    record.key = *key;
    record.owner = value->owner;
    record.generation = value->generation;
    record.cookie = value->cookie;
    record.rule = value->rule;
    record.verdict = value->verdict;
    record.initiator = value->initiator;
    aegis_emit(&record, sizeof(record), AEGIS_KIND_VERDICT, true);
    return 0;
}

#endif
