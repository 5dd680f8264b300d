/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Walks over the flow table for user space: harvest, expiry, sums. Included by core.bpf.c. */

/* Seconds since the last packet. */
static __always_inline __u32 aegis_flow_idle(const struct aegis_sweep *sweep,
                                             const struct aegis_flow_value *value)
{
    __u32 last = value->epoch;

    if (last == sweep->stale && last < sweep->floor)
        last = sweep->floor;
    return sweep->now > last ? sweep->now - last : 0;
}

static __always_inline __u32 aegis_flow_limit(const struct aegis_sweep *sweep,
                                              const struct aegis_flow_key *key,
                                              const struct aegis_flow_value *value)
{
    if (key->protocol != AEGIS_PROTO_TCP)
        return value->state ? sweep->idle[AEGIS_IDLE_DATAGRAM_ESTABLISHED]
                            : sweep->idle[AEGIS_IDLE_DATAGRAM_NEW];
    if (value->state >= AEGIS_FLOW_CLOSING)
        return sweep->idle[AEGIS_IDLE_TCP_ENDED];
    /* A SYN and its SYN-ACK are no connection: the SYN may come from an address that never answers. */
    return value->tcp_flags[AEGIS_EGRESS] & value->tcp_flags[AEGIS_INGRESS] & AEGIS_TCP_ACK
               ? sweep->idle[AEGIS_IDLE_TCP_ESTABLISHED]
               : sweep->idle[AEGIS_IDLE_TCP_OPENING];
}

/* Copies an entry out; false when there is no room. */
static __always_inline bool aegis_sweep_row(struct aegis_sweep *sweep, const struct aegis_flow_key *key,
                                            const struct aegis_flow_value *value)
{
    __u32 index = sweep->rows;
    struct aegis_flow_row *row = bpf_map_lookup_elem(&aegis_flow_rows, &index);

    if (!row)
        return false;
    row->key = *key;
    row->value = *value;
    sweep->rows = index + 1;
    return true;
}

/* Tells an entry that changed since it was last told; false when there is no room. What is told is what was
 * read before: counts that a packet adds meanwhile make the sums differ, so that the next harvest tells them.
 */
static __always_inline bool aegis_sweep_tell(struct aegis_sweep *sweep, const struct aegis_flow_key *key,
                                             struct aegis_flow_value *value)
{
    __u64 sum = ((volatile __u64 *)value->packets)[0] + ((volatile __u64 *)value->packets)[1] +
                ((volatile __u64 *)value->bytes)[0] + ((volatile __u64 *)value->bytes)[1];

    if (sum == value->harvested)
        return true;
    if (!aegis_sweep_row(sweep, key, value))
        return false;
    value->harvested = sum;
    return true;
}

/* Moves the counts of a retired entry to the total, tells them and deletes it. One run of a program, so that
 * whoever kills the agent, the counts are in the entry or in the total. Deleting comes first and may be
 * refused (a busy bucket, or another sweep was there); then this sweep has told nothing, and an entry that is
 * still there is the next one's. */
static __always_inline bool aegis_sweep_reap(struct aegis_sweep *sweep, const struct aegis_flow_key *key,
                                             const struct aegis_flow_value *value)
{
    __u32 index = AEGIS_TOTAL_REAPED;
    struct aegis_packet_counter *total = bpf_map_lookup_elem(&aegis_packet_totals, &index);
    struct aegis_packet_counter counts;

    /* Once deleted, the memory may be another flow's. */
    counts.packets[0] = value->packets[0];
    counts.packets[1] = value->packets[1];
    counts.bytes[0] = value->bytes[0];
    counts.bytes[1] = value->bytes[1];
    if (!total || !aegis_sweep_row(sweep, key, value))
        return false;
    if (bpf_map_delete_elem(&aegis_flows, key)) {
        sweep->rows--;
        return true;
    }
    __sync_fetch_and_add(&total->packets[0], counts.packets[0]);
    __sync_fetch_and_add(&total->packets[1], counts.packets[1]);
    __sync_fetch_and_add(&total->bytes[0], counts.bytes[0]);
    __sync_fetch_and_add(&total->bytes[1], counts.bytes[1]);
    return true;
}

static long aegis_sweep_entry(void *map, struct aegis_flow_key *key, struct aegis_flow_value *value,
                              struct aegis_sweep *sweep)
{
    union aegis_marks retired = {.marks = AEGIS_MARK_RETIRED};

    if (sweep->walked++ < sweep->skip)
        return 0;
    switch (sweep->kind) {
    case AEGIS_SWEEP_HARVEST:
        if (aegis_sweep_tell(sweep, key, value))
            return 0;
        sweep->walked--;
        return 1;
    case AEGIS_SWEEP_RETIRE:
        if (!(value->marks & AEGIS_MARK_RETIRED)) {
            if (aegis_flow_idle(sweep, value) < aegis_flow_limit(sweep, key, value))
                return 0;
            __sync_fetch_and_or((__u32 *)value->tcp_flags, retired.word);
        }
        sweep->marked++;
        return 0;
    case AEGIS_SWEEP_REAP:
        return value->marks & AEGIS_MARK_RETIRED && !aegis_sweep_reap(sweep, key, value);
    default:
        sweep->packets[0] += value->packets[0];
        sweep->packets[1] += value->packets[1];
        sweep->bytes[0] += value->bytes[0];
        sweep->bytes[1] += value->bytes[1];
        return 0;
    }
}

static long aegis_sweep_key(__u32 index, struct aegis_sweep *sweep)
{
    struct aegis_flow_key *key = bpf_map_lookup_elem(&aegis_flow_keys, &index);
    struct aegis_flow_value *value;

    if (!key)
        return 1;
    value = bpf_map_lookup_elem(&aegis_flows, key);
    if (value)
        aegis_sweep_tell(sweep, key, value);
    return 0;
}

/* One walk over the flow table; see struct aegis_sweep. */
SEC("syscall")
int syscall_flow_sweep(struct aegis_sweep *sweep)
{
    struct aegis_sweep walk = *sweep;

    walk.walked = 0;
    walk.rows = 0;
    walk.marked = 0;
    walk.packets[0] = walk.packets[1] = 0;
    walk.bytes[0] = walk.bytes[1] = 0;
    if (walk.kind == AEGIS_SWEEP_KEYS)
        bpf_loop(walk.keys, aegis_sweep_key, &walk, 0);
    else
        bpf_for_each_map_elem(&aegis_flows, aegis_sweep_entry, &walk, 0);
    *sweep = walk;
    return 0;
}
