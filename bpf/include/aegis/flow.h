/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One entry per biflow (RFC 5103), keyed by the hook's side: local is the source at egress and the
 * destination at ingress. Addresses in network order, IPv4 mapped; ports in host order.
 *
 * Ports of ICMP and ICMPv6: a query (echo, timestamp, ...) and its reply share one key. The querier's side
 * has the identifier as its port, the other side has type << 8 | code of the query, so that both hosts may
 * query each other with one identifier and keep two flows. Other messages have 0 on the sender's side and
 * type << 8 | code on the other. Errors are counted in the flow of the packet they quote while that flow is
 * known and they go to where that packet came from. */
#ifndef AEGIS_FLOW_H
#define AEGIS_FLOW_H

/* Who owns a socket when no process can be named: the low 22 bits of an owner id are 0 and the rest is this.
 */
enum aegis_owner_label {
    AEGIS_OWNER_UNKNOWN = 0,
    AEGIS_OWNER_KERNEL = 1,    /* a full socket of the kernel's own: RST, ICMP answers, neighbour discovery */
    AEGIS_OWNER_REQUEST = 2,   /* SYN-ACK from a request socket; the next packet names the process */
    AEGIS_OWNER_FORWARDED = 3, /* no socket on this host */
    AEGIS_OWNER_PROCESS = 4
};

/* Each state has the bits of the one before, so that CPUs may set them in any order. */
enum aegis_flow_state {
    AEGIS_FLOW_NEW = 0,
    AEGIS_FLOW_ESTABLISHED = 1, /* both directions seen */
    AEGIS_FLOW_CLOSING = 3,     /* TCP: FIN of one side */
    AEGIS_FLOW_CLOSED = 7       /* TCP: FIN of both sides, or RST */
};

enum aegis_flow_mark {
    AEGIS_MARK_RETIRED = 1, /* about to be deleted: counts no more */
    AEGIS_MARK_EGRESS = 2,  /* a packet of the flow itself (no ICMP error about it) was seen this way */
    AEGIS_MARK_INGRESS = 4
};

/* Fields of a judgement beside its generation. */
enum aegis_judged {
    AEGIS_JUDGED_RULE_MASK = 1048575,   /* bits 0-19: rank of the deciding rule + 1, 0: none */
    AEGIS_JUDGED_VERDICT_SHIFT = 20,    /* 2 bits: enum aegis_verdict */
    AEGIS_JUDGED_INITIATOR_SHIFT = 22,  /* 1 bit: enum aegis_direction */
    AEGIS_JUDGED_MANAGEMENT_SHIFT = 23, /* 1 bit: lowest of struct aegis_control's `management` */
    /* 8 bits: 0 where no rule that ends had a say; else how many instants at which rules end had passed, + 1.
     * When more have, the flow is judged again. */
    AEGIS_JUDGED_TIMING_SHIFT = 24
};

struct aegis_flow_key {
    __u8 local[16];
    __u8 remote[16];
    __u16 local_port;
    __u16 remote_port;
    __u32 ifindex;
    __u16 vlan_outer;
    __u16 vlan_inner;
    __u8 protocol;
    __u8 fragment; /* 1: later fragments of the pair, which carry no ports */
    __u8 pad[2];
};
AEGIS_ASSERT_SIZE(struct aegis_flow_key, 48)

/* Pairs are indexed by enum aegis_direction. Counters only grow; user space never writes an entry. */
struct aegis_flow_value {
    __u64 packets[2]; /* as the interface counts them: a GSO super-packet is one */
    __u64 bytes[2];
    /* The judgement: one aligned 8-byte word, stored whole, so that no packet sees half of one. */
    __u32 generation; /* low half of the policy generation it belongs to, 0: no policy */
    __u32 judged;     /* fields of enum aegis_judged */
    __u32 epoch;      /* struct aegis_control's at the last packet */
    /* One aligned 4-byte word, changed by atomic "or" and "and" only. */
    __u8 tcp_flags[2];
    __u8 state;            /* enum aegis_flow_state */
    __u8 marks;            /* enum aegis_flow_mark */
    __u64 owner;           /* (start_ns >> 10) << 22 | tgid, or a label << 22 */
    __u64 cookie;          /* of the socket, 0 while none was seen */
    __u64 first_ns;        /* CLOCK_BOOTTIME */
    __u64 dropped_packets; /* part of packets */
    __u64 extra_segments;  /* segments beyond the first of GSO super-packets */
    __u64 harvested;       /* sum of packets and bytes when a harvest last told this flow */
};
AEGIS_ASSERT_SIZE(struct aegis_flow_value, 96)

struct aegis_flow_row {
    struct aegis_flow_key key;
    struct aegis_flow_value value;
};
AEGIS_ASSERT_SIZE(struct aegis_flow_row, 144)

struct aegis_owner {
    __u64 start_ns;
    __u64 cgroup_id;
    __u32 tgid;
    __u32 uid;
    __u8 comm[16];
};
AEGIS_ASSERT_SIZE(struct aegis_owner, 40)

enum aegis_sweep_kind {
    AEGIS_SWEEP_HARVEST = 0, /* copy out entries that changed since they were last told */
    AEGIS_SWEEP_RETIRE = 1,  /* mark idle entries; packets that meet them count as AEGIS_TOTAL_RETIRED */
    AEGIS_SWEEP_REAP = 2,    /* a grace period later: add to AEGIS_TOTAL_REAPED, copy out, delete */
    AEGIS_SWEEP_SUM = 3,     /* add up the counters of all entries */
    AEGIS_SWEEP_KEYS = 4     /* as HARVEST, of the entries in aegis_flow_keys only */
};

enum aegis_idle_class {
    AEGIS_IDLE_TCP_ESTABLISHED = 0,
    AEGIS_IDLE_TCP_OPENING = 1, /* not yet acknowledged by both sides */
    AEGIS_IDLE_TCP_ENDED = 2,   /* closing and closed */
    AEGIS_IDLE_DATAGRAM_ESTABLISHED = 3,
    AEGIS_IDLE_DATAGRAM_NEW = 4,
    AEGIS_IDLE_CLASSES = 6 /* room for an even number */
};

enum aegis_sweep_limits {
    AEGIS_SWEEP_ROWS = 4096,    /* rows one run can copy out */
    AEGIS_SWEEP_MAX_KEYS = 1024 /* keys one run can be given */
};

/* Context of the sweep program: one walk over the flow table. */
struct aegis_sweep {
    __u32 kind; /* enum aegis_sweep_kind */
    __u32 skip; /* entries at the start of the walk that an earlier run of this sweep has seen */
    __u32 now;  /* RETIRE: the epoch to measure idleness from */
    /* RETIRE: no epoch was set between `stale` and `floor` (no agent ran), so an entry that carries `stale`
     * may have had packets up to `floor`. */
    __u32 stale;
    __u32 floor;
    __u32 keys;                     /* KEYS: how many */
    __u32 idle[AEGIS_IDLE_CLASSES]; /* RETIRE: seconds, by enum aegis_idle_class */
    /* Out */
    __u32 walked; /* entries seen, skipped ones included */
    __u32 rows;   /* rows in aegis_flow_rows; when it equals AEGIS_SWEEP_ROWS there may be more */
    __u32 marked; /* RETIRE: entries marked now or before */
    __u32 pad1;
    __u64 packets[2]; /* SUM, by enum aegis_direction */
    __u64 bytes[2];
};
AEGIS_ASSERT_SIZE(struct aegis_sweep, 96)

#endif
