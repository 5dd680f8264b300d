/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef AEGIS_COUNTERS_H
#define AEGIS_COUNTERS_H

/* Per CPU and kind: attempted = submitted + ring_full + filtered + rate_limited, always. */
struct aegis_record_counters {
    __u64 attempted;
    __u64 submitted;
    __u64 ring_full;
    __u64 filtered;
    __u64 rate_limited;
};
AEGIS_ASSERT_SIZE(struct aegis_record_counters, 40)

/* Index of the per-CPU packet totals. What a hook saw is, in packets and in bytes of each direction, exactly
 *   SEEN = counters of all flow entries + REAPED + TABLE_FULL + RETIRED + NOT_IP + TRUNCATED + BAD_HEADER +
 * EXTENSIONS + LOOPED. Only TRUNCATED, BAD_HEADER and EXTENSIONS are ever dropped for what they are
 * (REFUSED_DROPPED). */
enum aegis_packet_total {
    AEGIS_TOTAL_SEEN = 0,       /* all packets at the hook */
    AEGIS_TOTAL_REAPED = 1,     /* counters of deleted flow entries */
    AEGIS_TOTAL_TABLE_FULL = 2, /* judged uncached */
    AEGIS_TOTAL_RETIRED = 3,    /* met an entry that is being deleted */
    AEGIS_TOTAL_NOT_IP = 4,
    AEGIS_TOTAL_TRUNCATED = 5,  /* header shorter than it says */
    AEGIS_TOTAL_BAD_HEADER = 6, /* version, length fields or chain make no sense */
    AEGIS_TOTAL_EXTENSIONS =
        7, /* more IPv6 extension headers than AEGIS_IPV6_EXTENSIONS, or VLAN tags than two */
    AEGIS_TOTAL_DENIED = 8,           /* dropped by a verdict; also counted in its flow */
    AEGIS_TOTAL_AUDITED = 9,          /* would have been dropped; also counted in its flow */
    AEGIS_TOTAL_REFUSED_DROPPED = 10, /* parse refusals that were dropped because a policy enforces */
    AEGIS_TOTAL_LOOPED = 11,          /* this host's own broadcast or multicast, handed back to itself */
    AEGIS_TOTALS = 16
};

struct aegis_packet_counter {
    __u64 packets[2]; /* by enum aegis_direction */
    __u64 bytes[2];
};
AEGIS_ASSERT_SIZE(struct aegis_packet_counter, 32)

/* Per CPU: failures of tables that are not records. */
enum aegis_table_loss {
    AEGIS_LOSS_OWNER_FULL = 0,
    AEGIS_LOSS_OWNER_STORAGE = 1,
    AEGIS_LOSSES = 8
};

#endif
