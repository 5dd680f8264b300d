/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Names learnt from DNS before whoever asked can use the answer. Included by core.bpf.c.
 *
 * A question that leaves for an allowed resolver, about a name that a policy speaks of, leaves an entry. Of
 * what comes back only the answer to an awaited question is read: same server, client, port, id, name and
 * type. Its addresses are bound to the class of the name while the packet still stands at the hook, all of
 * them, or none when anything in its answer section is wrong. tests and aegis/kernel/names_reference.py hold
 * the rules once more; both must agree.
 *
 * House style for the verifier: each step is a global function with scalar arguments, and what the walk
 * knows lies in a per-CPU map value, so that the verifier sees unknown scalars and converges at once. The
 * packet hooks run with softirqs off: nothing on this CPU comes between. */

#define AEGIS_DNS_HEADER      12
#define AEGIS_DNS_A           1
#define AEGIS_DNS_CNAME       5
#define AEGIS_DNS_AAAA        28
#define AEGIS_DNS_IN          1
#define AEGIS_DNS_POINTER     0xc0
#define AEGIS_NAME_AT(offset) ((offset) & (AEGIS_NAME_MESSAGE_BYTES - 1))
#define AEGIS_NAME_FINE       AEGIS_NAME_COUNTS /* not a count: nothing was wrong */

/* Keeps the compiler from taking a checked offset from another register. */
#define AEGIS_NAME_OPAQUE(value) asm volatile("" : "+r"(value))

struct aegis_dns_header {
    __u16 id;
    __u8 flags; /* QR, opcode, AA, TC, RD */
    __u8 code;  /* RA, Z, RCODE */
    __be16 questions;
    __be16 answers;
    __be16 authorities;
    __be16 additional;
};

/* The fixed part of a record, behind its name. */
struct aegis_dns_record {
    __be16 type;
    __be16 class;
    __be32 ttl;
    __be16 length;
} __attribute__((packed));

struct aegis_dns_question {
    __be16 type;
    __be16 class;
} __attribute__((packed));

/* What is known of the message at the hook. */
struct aegis_name_walk {
    struct aegis_name_question_key key;
    struct aegis_name_edge edge;
    struct aegis_name_branch branch;
    __u64 ending[8]; /* the last bytes of the label, right-aligned */
    __u8 addresses[AEGIS_NAME_MOST_ADDRESSES][16];
    __u32 ttls[AEGIS_NAME_MOST_ADDRESSES];
    __u16 labels[AEGIS_NAME_LABELS + 1]; /* of the name read last: where each begins */
    __u64 hash;                          /* of the name read last */
    __u64 expected;    /* of the name whose records are next: the one asked for, then its aliases */
    __u32 expected_at; /* where that name stands, and the steps it took */
    __u32 expected_steps;
    __u32 classes[2];
    __u32 length; /* of the message */
    __u32 steps;  /* left for names in this message */
    __u32 at;     /* in the name being read: */
    __u32 limit;  /* pointers lead below this */
    __u32 end;    /* behind the name where it stands; 0: not seen yet */
    __u32 bytes;
    __u32 count; /* of labels */
    __u32 error; /* AEGIS_NAME_FINE, or the count of what was wrong */
    __u32 state;
    __u32 affix;
    __u32 cursor; /* of the records */
    __u32 type;   /* asked for */
    __u32 ttl;    /* least of the aliases so far */
    __u32 found;  /* addresses */
    __u32 now;    /* when the answer came: second of CLOCK_BOOTTIME */
    __u32 offset; /* of the DNS message (UDP) or the stream (TCP) in the packet, and how long it is */
    __u32 room;
    __u8 message[AEGIS_NAME_MESSAGE_BYTES + 16]; /* 8 bytes are read from any byte of it */
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct aegis_name_walk);
} aegis_name_walk SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, AEGIS_NAME_COUNTS);
    __type(key, __u32);
    __type(value, __u64);
} aegis_name_counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, AEGIS_NAME_QUESTIONS);
    __type(key, struct aegis_name_question_key);
    __type(value, struct aegis_name_question);
} aegis_name_questions SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, AEGIS_NAME_RESOLVERS);
    __type(key, struct aegis_name_address);
    __type(value, __u32);
} aegis_name_resolvers SEC(".maps");

/* What each class stood for when it was numbered: a digest of its patterns, so that the numbers mean the same
 * to the next agent. Only user space reads and writes it. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, AEGIS_NAME_CLASSES);
    __type(key, __u32);
    __type(value, struct aegis_name_digest);
} aegis_name_classes SEC(".maps");

static __always_inline struct aegis_name_walk *aegis_name_walking(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&aegis_name_walk, &zero);
}

/* Plain additions, as of the packet totals. */
static __always_inline void aegis_name_count(__u32 index, __u32 times)
{
    __u64 *count = bpf_map_lookup_elem(&aegis_name_counts, &index);

    if (count)
        *count += times;
}

/* The letters of 8 bytes in lower case. */
static __always_inline __u64 aegis_name_lower(__u64 word)
{
    const __u64 ones = 0x0101010101010101;
    __u64 low = word & 0x7f * ones;
    __u64 upper = (low + (0x80 - 'A') * ones) & ~(low + (0x7f - 'Z') * ones) & ~word & 0x80 * ones;

    return word | upper >> 2;
}

/* 8 bytes of a label from its byte `from` on, in lower case, zero behind its end. */
static __always_inline __u64 aegis_name_word(const struct aegis_name_walk *walk, __u32 label, __u32 size,
                                             __u32 from)
{
    __u32 at = AEGIS_NAME_AT(label + 1 + from);
    __u64 word;

    AEGIS_NAME_OPAQUE(at);
    word = *(const __u64 *)(walk->message + AEGIS_NAME_AT(at));
    if (size - from < 8)
        word &= (1ull << (size - from) * 8) - 1;
    return aegis_name_lower(word);
}

static __always_inline __u64 aegis_name_mix(__u64 hash, __u64 word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 29;
}

/* One label, pointer or end of the name being read. */
static long aegis_name_step(__u32 index, void *context)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    __u32 at, size, target;
    __u64 hash;

    if (!walk)
        return 1;
    at = walk->at;
    if (!walk->steps) {
        walk->error = AEGIS_NAME_TOO_MUCH;
        return 1;
    }
    walk->steps--;
    walk->error = AEGIS_NAME_MALFORMED;
    if (at >= walk->length)
        return 1;
    size = walk->message[AEGIS_NAME_AT(at)];
    if (!size) {
        if (!walk->end)
            walk->end = at + 1;
        walk->error = AEGIS_NAME_FINE;
        return 1;
    }
    if (size >= AEGIS_DNS_POINTER) {
        if (at + 1 >= walk->length)
            return 1;
        target = (size & ~AEGIS_DNS_POINTER) << 8 | walk->message[AEGIS_NAME_AT(at + 1)];
        if (!walk->end)
            walk->end = at + 2;
        /* Only what stands before the name, so that no walk comes back to where it was. The name of a
         * question, which is the first thing of all, can have none. */
        if (target < AEGIS_DNS_HEADER || target >= walk->limit)
            return 1;
        walk->limit = target;
        walk->at = target;
        return 0;
    }
    walk->bytes += size + 1;
    if (size > 63 || walk->bytes > AEGIS_NAME_BYTES || at + 1 + size >= walk->length)
        return 1;
    hash = aegis_name_mix(walk->hash, size);
    for (__u32 from = 0; from < 64 && from < size; from += 8)
        hash = aegis_name_mix(hash, aegis_name_word(walk, at, size, from));
    walk->hash = hash;
    walk->labels[walk->count & AEGIS_NAME_LABELS] = at;
    walk->count++;
    walk->at = at + 1 + size;
    return 0;
}

/* Reads the name at `start` of the message: hash, labels, and where it ends. Returns AEGIS_NAME_FINE, or what
 * is wrong with it. */
__noinline __u32 aegis_name_read(__u32 start)
{
    struct aegis_name_walk *walk = aegis_name_walking();

    if (!walk)
        return AEGIS_NAME_MALFORMED;
    walk->at = start;
    walk->limit = start;
    walk->end = 0;
    walk->bytes = 1;
    walk->count = 0;
    walk->hash = 0;
    bpf_loop(AEGIS_NAME_MOST_STEPS + 1, aegis_name_step, NULL, 0);
    return walk->error;
}

static __always_inline bool aegis_name_has_resolver(const __u8 *address)
{
    return bpf_map_lookup_elem(&aegis_name_resolvers, address) != NULL;
}

/* The question in the message, of which header and name are read; 0: not whole. */
static __always_inline const struct aegis_dns_question *aegis_name_asked(const struct aegis_name_walk *walk)
{
    __u32 end = walk->end;

    if (end + sizeof(struct aegis_dns_question) > walk->length)
        return NULL;
    end = AEGIS_NAME_AT(end);
    AEGIS_NAME_OPAQUE(end);
    return (const void *)(walk->message + AEGIS_NAME_AT(end));
}

#include "names_query.bpf.c"
#include "names_table.bpf.c"
#include "names_answer.bpf.c"

/* A DNS message of `length` bytes at the lower half of `where`; its upper half is the direction. Returns what
 * it counts as. */
__noinline __u32 aegis_name_message(struct __sk_buff *skb, __u64 where, __u32 length, __u64 roots)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    __u32 asks = where >> 32 == AEGIS_EGRESS;
    __u32 offset = where;
    __u32 result;

    if (!walk || length < AEGIS_DNS_HEADER)
        return asks ? AEGIS_NAME_ASKED_MALFORMED : AEGIS_NAME_MALFORMED;
    if (asks) {
        if (!aegis_name_has_resolver(walk->key.server))
            return AEGIS_NAME_ASKED_ELSEWHERE;
    } else {
        if (bpf_skb_load_bytes(skb, offset, walk->message, AEGIS_DNS_HEADER))
            return AEGIS_NAME_MALFORMED;
        result = aegis_name_awaited();
        if (result != AEGIS_NAME_FINE)
            return result;
    }
    if (length > AEGIS_NAME_MESSAGE_BYTES)
        return asks ? AEGIS_NAME_ASKED_MALFORMED : AEGIS_NAME_TOO_MUCH;
    if (bpf_skb_load_bytes(skb, offset, walk->message, length))
        return asks ? AEGIS_NAME_ASKED_MALFORMED : AEGIS_NAME_MALFORMED;
    walk->length = length;
    walk->steps = AEGIS_NAME_MOST_STEPS;
    return asks ? aegis_name_query(roots) : aegis_name_answer();
}

/* Ports and payload behind an IP header; `limit` is where the packet's IP payload ends. Returns whether the
 * payload may hold messages, or AEGIS_NAME_SPLIT. */
__noinline __u32 aegis_name_transport(struct __sk_buff *skb, __u32 offset, __u32 limit, __u32 how)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    __u32 ends[2], size;

    if (!walk)
        return 0;
    if (how >> 8 == AEGIS_PROTO_TCP) {
        struct aegis_tcp tcp;

        if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
            return 0;
        ends[0] = bpf_ntohs(tcp.source);
        ends[1] = bpf_ntohs(tcp.destination);
        offset += (tcp.offset >> 4) * 4;
    } else if (how >> 8 == AEGIS_PROTO_UDP) {
        struct udphdr udp;

        if (bpf_skb_load_bytes(skb, offset, &udp, sizeof(udp)))
            return 0;
        size = bpf_ntohs(udp.len);
        if (size < sizeof(udp) || offset + size > limit)
            return 0;
        ends[0] = bpf_ntohs(udp.source);
        ends[1] = bpf_ntohs(udp.dest);
        limit = offset + size;
        offset += sizeof(udp);
        if (skb->gso_segs > 1)
            return AEGIS_NAME_SPLIT;
    } else {
        return 0;
    }
    walk->key.protocol = how >> 8;
    walk->key.port = how & 1 ? ends[1] : ends[0];
    if ((how & 1 ? ends[0] : ends[1]) != AEGIS_NAME_PORT || offset > limit ||
        (offset == limit && how >> 8 == AEGIS_PROTO_TCP))
        return 0;
    walk->offset = offset;
    walk->room = limit - offset;
    return 1;
}

/* Finds addresses and payload of a packet. As aegis_name_transport; fragments and what has IPv6 extension
 * headers are not read. */
__noinline __u32 aegis_name_headers(struct __sk_buff *skb, __u32 direction)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    __u32 offset = 0, limit;
    __be16 type = skb->protocol;

    if (!walk)
        return 0;
    direction &= 1;
    if (!aegis_has_no_link_header(skb)) {
        if (bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &type, sizeof(type)))
            return 0;
        offset = ETH_HLEN;
        for (int count = 0; count < 2; count++) {
            if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
                break;
            if (bpf_skb_load_bytes(skb, offset + 2, &type, sizeof(type)))
                return 0;
            offset += 4;
        }
    }
    if (type == bpf_htons(ETH_P_IP)) {
        struct iphdr ip;

        if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
            return 0;
        if (ip.frag_off & bpf_htons(AEGIS_IP_MORE_FRAGMENTS | AEGIS_IP_OFFSET))
            return AEGIS_NAME_SPLIT;
        limit = offset + bpf_ntohs(ip.tot_len);
        if (limit > skb->len)
            return 0;
        aegis_put_ipv4(walk->key.client, direction == AEGIS_INGRESS ? ip.daddr : ip.saddr);
        aegis_put_ipv4(walk->key.server, direction == AEGIS_INGRESS ? ip.saddr : ip.daddr);
        return aegis_name_transport(skb, offset + ip.ihl * 4, limit, ip.protocol << 8 | direction);
    }
    if (type == bpf_htons(ETH_P_IPV6)) {
        struct aegis_ipv6 ip;

        if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
            return 0;
        offset += sizeof(ip);
        limit = offset + bpf_ntohs(ip.payload_length);
        if (limit > skb->len)
            return 0;
        if (ip.next != AEGIS_PROTO_TCP && ip.next != AEGIS_PROTO_UDP)
            return ip.next == AEGIS_PROTO_ICMPV6 ? 0 : AEGIS_NAME_SPLIT;
        __builtin_memcpy(walk->key.client, direction == AEGIS_INGRESS ? ip.destination : ip.source, 16);
        __builtin_memcpy(walk->key.server, direction == AEGIS_INGRESS ? ip.source : ip.destination, 16);
        return aegis_name_transport(skb, offset, limit, ip.next << 8 | direction);
    }
    return 0;
}

/* Reads a packet to (egress) or from (ingress) a server's port 53 that may pass. Returns TC_ACT_UNSPEC; or,
 * for an answer that could not be bound in the instant in which an old entry is deleted, TC_ACT_SHOT: the
 * client asks again. */
__noinline int aegis_names_packet(struct __sk_buff *skb, __u32 direction)
{
    struct aegis_control *control;
    struct aegis_name_walk *walk = aegis_name_walking();
    __u32 result, length, offset, zero = 0;
    int action = TC_ACT_UNSPEC;
    __be16 prefix;
    __u64 roots;

    control = bpf_map_lookup_elem(&aegis_control, &zero);
    if (!walk || !control)
        return TC_ACT_UNSPEC;
    roots = aegis_names_roots(*(volatile __u64 *)&control->state);
    if (!roots)
        return TC_ACT_UNSPEC;
    direction &= 1;
    result = aegis_name_headers(skb, direction);
    if (result != 1) {
        if (result == AEGIS_NAME_SPLIT)
            aegis_name_count(result, 1);
        return TC_ACT_UNSPEC;
    }
    if (walk->key.protocol == AEGIS_PROTO_UDP) {
        result = aegis_name_message(skb, (__u64)direction << 32 | walk->offset, walk->room, roots);
        aegis_name_count(result, 1);
        return result == AEGIS_NAME_HELD_BACK ? TC_ACT_SHOT : TC_ACT_UNSPEC;
    }
    /* TCP: a length before each message; both questions of a client, and both answers, may share a segment.
     */
    for (int number = 0; number < 2; number++) {
        offset = walk->offset;
        if (walk->room < sizeof(prefix) + (number ? 1 : 0))
            break;
        if (bpf_skb_load_bytes(skb, offset, &prefix, sizeof(prefix)))
            break;
        length = bpf_ntohs(prefix);
        if (length + sizeof(prefix) > walk->room) {
            aegis_name_count(AEGIS_NAME_SPLIT, 1);
            break;
        }
        result = aegis_name_message(skb, (__u64)direction << 32 | (offset + sizeof(prefix)), length, roots);
        aegis_name_count(result, 1);
        if (result == AEGIS_NAME_HELD_BACK)
            action = TC_ACT_SHOT;
        walk->offset = offset + sizeof(prefix) + length;
        walk->room -= sizeof(prefix) + length;
    }
    return action;
}

/* For the loopback, where a resolver on this host answers: reads names in both directions and judges nothing.
 * What comes in at an interface has passed one, what this host sends has not. */
SEC("tc")
int tc_names(struct __sk_buff *skb)
{
    void *data = (void *)(long)skb->data;
    void *end = (void *)(long)skb->data_end;
    __u32 direction = skb->ingress_ifindex ? AEGIS_INGRESS : AEGIS_EGRESS;
    struct aegis_ports *ports = data + ETH_HLEN + sizeof(struct iphdr);

    if (skb->protocol == bpf_htons(ETH_P_IPV6))
        ports = data + ETH_HLEN + sizeof(struct aegis_ipv6);
    if ((void *)(ports + 1) > end)
        return TC_ACT_UNSPEC;
    if ((direction == AEGIS_EGRESS ? ports->destination : ports->source) != bpf_htons(AEGIS_NAME_PORT))
        return TC_ACT_UNSPEC;
    return aegis_names_packet(skb, direction);
}
