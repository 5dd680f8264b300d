/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The table of what addresses stand for: the only code that writes its entries. Included by names.bpf.c.
 *
 * An entry is deleted in two steps, as a flow is: marked dead, and after an RCU grace period deleted. So
 * nobody writes to an entry that is another address's by then. */

/* Binds an address to the class of `word` until its second. Returns AEGIS_NAME_BOUND or why not. */
__noinline __u32 aegis_name_bind(const struct aegis_name_address *address, __u64 word, __u32 now)
{
    struct aegis_name_slots fresh = {.slots = {word}};
    struct aegis_name_slots *found;
    __u64 old;

    if (!address)
        return AEGIS_NAME_TABLE_FULL;
    found = bpf_map_lookup_elem(&aegis_names, address);
    if (!found) {
        if (!bpf_map_update_elem(&aegis_names, address, &fresh, BPF_NOEXIST))
            return AEGIS_NAME_BOUND;
        found = bpf_map_lookup_elem(&aegis_names, address);
        if (!found)
            return AEGIS_NAME_TABLE_FULL;
    }
    for (int slot = 0; slot < AEGIS_NAME_SLOTS; slot++) {
        old = *(volatile __u64 *)&found->slots[slot];
        if (old == AEGIS_NAME_DEAD)
            return AEGIS_NAME_HELD_BACK;
        if (old >> AEGIS_NAME_CLASS_SHIFT != word >> AEGIS_NAME_CLASS_SHIFT)
            continue;
        /* An answer that came on another CPU meanwhile is as good; an agent that keeps it longer, better. */
        if (old >= word || __sync_val_compare_and_swap(&found->slots[slot], old, word) == old)
            return AEGIS_NAME_BOUND;
        old = *(volatile __u64 *)&found->slots[slot];
        if (old == AEGIS_NAME_DEAD)
            return AEGIS_NAME_HELD_BACK;
        if (old >> AEGIS_NAME_CLASS_SHIFT == word >> AEGIS_NAME_CLASS_SHIFT && (__u32)old > now)
            return AEGIS_NAME_BOUND;
    }
    for (int slot = 0; slot < AEGIS_NAME_SLOTS; slot++) {
        old = *(volatile __u64 *)&found->slots[slot];
        if (old == AEGIS_NAME_DEAD)
            return AEGIS_NAME_HELD_BACK;
        if ((__u32)old <= now && __sync_val_compare_and_swap(&found->slots[slot], old, word) == old)
            return AEGIS_NAME_BOUND;
    }
    return AEGIS_NAME_SLOTS_FULL;
}

static __always_inline bool aegis_name_is_dead(const struct aegis_name_slots *found)
{
    for (int slot = 0; slot < AEGIS_NAME_SLOTS; slot++)
        if (*(const volatile __u64 *)&found->slots[slot] != AEGIS_NAME_DEAD)
            return false;
    return true;
}

/* Marks an entry of which every slot was over before `until` as dead, or leaves it as it is. Whether it is
 * dead then, also by an agent that did not come to delete it. */
static __always_inline bool aegis_name_mark(struct aegis_name_slots *found, __u32 until)
{
    __u64 old;
    int slot;

    if (aegis_name_is_dead(found))
        return true;
    for (slot = 0; slot < AEGIS_NAME_SLOTS; slot++) {
        old = *(volatile __u64 *)&found->slots[slot];
        if ((__u32)old >= until)
            return false;
    }
    for (slot = 0; slot < AEGIS_NAME_SLOTS; slot++) {
        old = *(volatile __u64 *)&found->slots[slot];
        if ((__u32)old >= until ||
            __sync_val_compare_and_swap(&found->slots[slot], old, AEGIS_NAME_DEAD) != old)
            break;
    }
    if (slot == AEGIS_NAME_SLOTS)
        return true;
    /* Bound on another CPU meanwhile: what was over is free. */
    for (slot = 0; slot < AEGIS_NAME_SLOTS; slot++)
        __sync_val_compare_and_swap(&found->slots[slot], AEGIS_NAME_DEAD, 0);
    return false;
}

static long aegis_name_entry(void *map, struct aegis_name_address *address, struct aegis_name_slots *found,
                             struct aegis_name_order *order)
{
    order->entries++;
    if (order->kind == AEGIS_NAME_ORDER_MARK) {
        order->changed += aegis_name_mark(found, order->until);
        return 0;
    }
    if (aegis_name_is_dead(found))
        order->changed += !bpf_map_delete_elem(&aegis_names, address);
    return 0;
}

/* Holds what an address stands for now until `until` at least. */
static __always_inline void aegis_name_keep(struct aegis_name_order *order)
{
    struct aegis_name_slots *found = bpf_map_lookup_elem(&aegis_names, order->address);
    __u64 old;

    if (!found)
        return;
    for (int slot = 0; slot < AEGIS_NAME_SLOTS; slot++) {
        old = *(volatile __u64 *)&found->slots[slot];
        if (old == AEGIS_NAME_DEAD || (__u32)old <= order->now || (__u32)old >= order->until)
            continue;
        order->changed += __sync_val_compare_and_swap(
                              &found->slots[slot], old,
                              old >> AEGIS_NAME_CLASS_SHIFT << AEGIS_NAME_CLASS_SHIFT | order->until) == old;
    }
}

#ifdef AEGIS_WITH_FLOWS
static long aegis_name_flow(void *map, struct aegis_flow_key *key, struct aegis_flow_value *value,
                            struct aegis_name_order *order)
{
    if (value->marks & AEGIS_MARK_RETIRED || value->state == AEGIS_FLOW_CLOSED ||
        (value->judged >> AEGIS_JUDGED_INITIATOR_SHIFT & 1) != AEGIS_EGRESS)
        return 0;
    order->entries++;
    __builtin_memcpy(order->address, key->remote, sizeof(order->address));
    aegis_name_keep(order);
    return 0;
}
#endif

/* Changes the table for user space; see struct aegis_name_order. User space never writes an entry itself. */
SEC("syscall")
int syscall_names(struct aegis_name_order *given)
{
    struct aegis_name_order order = *given;

    order.entries = 0;
    order.changed = 0;
    order.refused = 0;
    if (order.kind == AEGIS_NAME_ORDER_BIND) {
        order.refused =
            aegis_name_bind((const struct aegis_name_address *)order.address,
                            (__u64)order.class_ << AEGIS_NAME_CLASS_SHIFT | order.until, order.now);
        if (order.refused == AEGIS_NAME_BOUND) {
            order.refused = 0;
            order.changed = 1;
        }
    } else if (order.kind == AEGIS_NAME_ORDER_KEEP) {
        aegis_name_keep(&order);
#ifdef AEGIS_WITH_FLOWS
    } else if (order.kind == AEGIS_NAME_ORDER_FLOWS) {
        bpf_for_each_map_elem(&aegis_flows, aegis_name_flow, &order, 0);
#endif
    } else {
        bpf_for_each_map_elem(&aegis_names, aegis_name_entry, &order, 0);
    }
    *given = order;
    return 0;
}
