/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a packet to its flow key. Plain TCP and UDP over Ethernet is read in place; everything else is copied header
 * by header in global functions, which the verifier judges once and which never touch the packet. */
#ifndef AEGIS_KERN_PACKET_BPF_H
#define AEGIS_KERN_PACKET_BPF_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

enum {
    AEGIS_PROTO_HOPOPTS = 0,
    AEGIS_PROTO_ICMP = 1,
    AEGIS_PROTO_TCP = 6,
    AEGIS_PROTO_UDP = 17,
    AEGIS_PROTO_ROUTING = 43,
    AEGIS_PROTO_FRAGMENT = 44,
    AEGIS_PROTO_AH = 51,
    AEGIS_PROTO_ICMPV6 = 58,
    AEGIS_PROTO_DSTOPTS = 60,
    AEGIS_PROTO_SCTP = 132
};

enum { AEGIS_TCP_FIN = 1, AEGIS_TCP_SYN = 2, AEGIS_TCP_RST = 4, AEGIS_TCP_ACK = 16 };
enum { AEGIS_IP_MORE_FRAGMENTS = 0x2000, AEGIS_IP_OFFSET = 0x1fff, AEGIS_IPV6_OFFSET = 0xfff8 };

struct aegis_packet {
    struct aegis_flow_key key;
    __u32 length; /* as the interface counts it: with the link header */
    __u8 direction;
    __u8 tcp_flags;
    __u8 opens;     /* TCP SYN without ACK, or an ICMP query: its sender starts something */
    __u8 initiator; /* of the flow, should this be its first packet */
    __u32 quoted;   /* ICMP error: offset of the packet it quotes */
    __u8 error;     /* ICMP error that stands in the flow of the packet it quotes */
    __u8 pad[3];
} __attribute__((aligned(8)));

struct aegis_ports {
    __be16 source;
    __be16 destination;
};

/* The part of TCP's header that is read. */
struct aegis_tcp {
    __be16 source;
    __be16 destination;
    __u32 sequence;
    __u32 acknowledgement;
    __u8 offset; /* << 4 */
    __u8 flags;
    __u8 rest[6];
};

struct aegis_ipv6 {
    __u8 version; /* << 4 */
    __u8 flow[3];
    __be16 payload_length;
    __u8 next;
    __u8 hop_limit;
    __u8 source[16];
    __u8 destination[16];
};

struct aegis_icmp {
    __u8 type;
    __u8 code;
    __u16 checksum;
    __be16 identifier;
    __u16 sequence;
};

static __always_inline void aegis_put_ipv4(__u8 *field, __be32 address)
{
    __u32 *words = (__u32 *)field;

    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = address;
}

static __always_inline void aegis_put_ports(struct aegis_packet *packet, __u32 direction, __u16 source,
                                            __u16 destination)
{
    packet->key.local_port = direction == AEGIS_EGRESS ? source : destination;
    packet->key.remote_port = direction == AEGIS_EGRESS ? destination : source;
}

/* Who opened a TCP connection of which this packet is the first one seen. SYN-ACK answers the other side; without
 * SYN the connection is older than the flow, and servers have the lower port. */
static __always_inline __u32 aegis_tcp_initiator(const struct aegis_packet *packet, __u32 direction)
{
    __u32 local = packet->key.local_port;
    __u32 remote = packet->key.remote_port;

    if (packet->tcp_flags & AEGIS_TCP_SYN)
        return packet->tcp_flags & AEGIS_TCP_ACK ? !direction : direction;
    if (local == remote)
        return direction;
    return local < remote ? AEGIS_INGRESS : AEGIS_EGRESS;
}

static __always_inline void aegis_put_tcp_flags(struct aegis_packet *packet, __u32 direction, __u8 flags)
{
    packet->tcp_flags = flags;
    packet->opens = (flags & (AEGIS_TCP_SYN | AEGIS_TCP_ACK)) == AEGIS_TCP_SYN;
}

static __always_inline bool aegis_is_icmp_error(__u32 protocol, __u32 type)
{
    if (protocol == AEGIS_PROTO_ICMPV6)
        return type >= 1 && type <= 4;
    return type == 3 || type == 11 || type == 12;
}

/* The query that an ICMP type asks or answers, or -1: echo, timestamp, information, address mask. */
static __always_inline int aegis_icmp_query(__u32 protocol, __u32 type)
{
    if (protocol == AEGIS_PROTO_ICMPV6)
        return type == 128 || type == 129 ? 128 : -1;
    if (type == 8 || type == 0)
        return 8;
    return type >= 13 && type <= 18 ? (int)(13 + ((type - 13) & ~1u)) : -1;
}

/* Ports and flags of the header at `offset`; `limit` is where the packet's IP payload ends. `how` has bit 0 the
 * direction, bit 1 set for a packet quoted in an ICMP error (cut short), bit 2 for a first fragment. */
#define AEGIS_HOW_QUOTED 2
#define AEGIS_HOW_FIRST_FRAGMENT 4

__noinline int aegis_parse_transport(struct __sk_buff *skb, struct aegis_packet *packet, __u32 offset, __u32 limit,
                                     __u32 how)
{
    __u32 direction = how & 1;
    __u32 protocol;
    int query;

    if (!packet)
        return AEGIS_TOTAL_BAD_HEADER;
    protocol = packet->key.protocol;
    packet->initiator = direction;
    if (how & AEGIS_HOW_QUOTED && protocol != AEGIS_PROTO_ICMP && protocol != AEGIS_PROTO_ICMPV6) {
        struct aegis_ports ports;

        if (protocol != AEGIS_PROTO_TCP && protocol != AEGIS_PROTO_UDP && protocol != AEGIS_PROTO_SCTP)
            return 0;
        if (bpf_skb_load_bytes(skb, offset, &ports, sizeof(ports)))
            return AEGIS_TOTAL_TRUNCATED;
        aegis_put_ports(packet, direction, bpf_ntohs(ports.source), bpf_ntohs(ports.destination));
        return 0;
    }
    if (protocol == AEGIS_PROTO_TCP) {
        struct aegis_tcp tcp;

        if (offset + sizeof(tcp) > limit || bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
            return AEGIS_TOTAL_TRUNCATED;
        if (tcp.offset >> 4 < 5)
            return AEGIS_TOTAL_BAD_HEADER;
        if (offset + (tcp.offset >> 4) * 4 > limit)
            return AEGIS_TOTAL_TRUNCATED;
        aegis_put_ports(packet, direction, bpf_ntohs(tcp.source), bpf_ntohs(tcp.destination));
        aegis_put_tcp_flags(packet, direction, tcp.flags);
        packet->initiator = aegis_tcp_initiator(packet, direction);
        return 0;
    }
    if (protocol == AEGIS_PROTO_UDP) {
        struct udphdr udp;
        __u32 length;

        if (offset + sizeof(udp) > limit || bpf_skb_load_bytes(skb, offset, &udp, sizeof(udp)))
            return AEGIS_TOTAL_TRUNCATED;
        length = bpf_ntohs(udp.len);
        /* A jumbogram has no length here; the length of a first fragment is that of the whole. */
        if (length < sizeof(udp) && !(length == 0 && limit - offset > 0xffff))
            return AEGIS_TOTAL_BAD_HEADER;
        if (offset + length > limit && !(how & AEGIS_HOW_FIRST_FRAGMENT))
            return AEGIS_TOTAL_TRUNCATED;
        aegis_put_ports(packet, direction, bpf_ntohs(udp.source), bpf_ntohs(udp.dest));
        return 0;
    }
    if (protocol == AEGIS_PROTO_SCTP) {
        struct aegis_ports ports;

        if (offset + 12 > limit || bpf_skb_load_bytes(skb, offset, &ports, sizeof(ports)))
            return AEGIS_TOTAL_TRUNCATED;
        aegis_put_ports(packet, direction, bpf_ntohs(ports.source), bpf_ntohs(ports.destination));
        return 0;
    }
    if (protocol == AEGIS_PROTO_ICMP || protocol == AEGIS_PROTO_ICMPV6) {
        struct aegis_icmp icmp;
        __u16 message;

        if (offset + sizeof(icmp) > limit || bpf_skb_load_bytes(skb, offset, &icmp, sizeof(icmp)))
            return AEGIS_TOTAL_TRUNCATED;
        message = icmp.type << 8 | icmp.code;
        query = aegis_icmp_query(protocol, icmp.type);
        if (query >= 0) {
            __u32 querier = icmp.type == query ? direction : !direction;

            /* The reply carries code 0, so that a query with another code is a flow without replies. */
            message = icmp.type == query ? message : query << 8;
            aegis_put_ports(packet, querier, bpf_ntohs(icmp.identifier), message);
            packet->opens = icmp.type == query;
            packet->initiator = querier;
            return 0;
        }
        aegis_put_ports(packet, direction, 0, message);
        if (aegis_is_icmp_error(protocol, icmp.type))
            packet->quoted = offset + sizeof(icmp);
    }
    return 0;
}

__noinline int aegis_parse_ipv4(struct __sk_buff *skb, struct aegis_packet *packet, __u32 offset, __u32 how)
{
    struct iphdr ip;
    __u32 header, total, room, fragment;

    if (!packet)
        return AEGIS_TOTAL_BAD_HEADER;
    if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
        return AEGIS_TOTAL_TRUNCATED;
    header = ip.ihl * 4;
    if (ip.version != 4 || header < sizeof(ip))
        return AEGIS_TOTAL_BAD_HEADER;
    room = skb->len - offset;
    total = bpf_ntohs(ip.tot_len);
    if (how & AEGIS_HOW_QUOTED || (!total && skb->gso_segs > 1)) /* cut short; or longer than the field can say */
        total = room;
    if (total < header)
        return AEGIS_TOTAL_BAD_HEADER;
    if (total > room)
        return AEGIS_TOTAL_TRUNCATED;
    aegis_put_ipv4(packet->key.local, how & 1 ? ip.daddr : ip.saddr);
    aegis_put_ipv4(packet->key.remote, how & 1 ? ip.saddr : ip.daddr);
    packet->key.protocol = ip.protocol;
    fragment = bpf_ntohs(ip.frag_off);
    packet->initiator = how & 1;
    if (fragment & AEGIS_IP_OFFSET) {
        packet->key.fragment = 1;
        return 0;
    }
    if (ip.protocol == AEGIS_PROTO_ICMPV6) /* of the other family: a protocol without ports */
        return 0;
    if (fragment & AEGIS_IP_MORE_FRAGMENTS)
        how |= AEGIS_HOW_FIRST_FRAGMENT;
    return aegis_parse_transport(skb, packet, offset + header, offset + total, how);
}

__noinline int aegis_parse_ipv6(struct __sk_buff *skb, struct aegis_packet *packet, __u32 offset, __u32 how)
{
    struct aegis_ipv6 ip;
    __u32 limit, next, fragment;
    bool fragmented = false;

    if (!packet)
        return AEGIS_TOTAL_BAD_HEADER;
    if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
        return AEGIS_TOTAL_TRUNCATED;
    if (ip.version >> 4 != 6)
        return AEGIS_TOTAL_BAD_HEADER;
    next = ip.next;
    limit = offset + sizeof(ip) + bpf_ntohs(ip.payload_length);
    if (how & AEGIS_HOW_QUOTED || (!ip.payload_length && (next == AEGIS_PROTO_HOPOPTS || skb->gso_segs > 1)))
        limit = skb->len; /* cut short; or a jumbogram */
    if (limit > skb->len)
        return AEGIS_TOTAL_TRUNCATED;
    __builtin_memcpy(packet->key.local, how & 1 ? ip.destination : ip.source, 16);
    __builtin_memcpy(packet->key.remote, how & 1 ? ip.source : ip.destination, 16);
    packet->initiator = how & 1;
    offset += sizeof(ip);
    for (int count = 0; count <= AEGIS_IPV6_EXTENSIONS; count++) {
        __u8 extension[4];
        __u32 size;

        if (next != AEGIS_PROTO_HOPOPTS && next != AEGIS_PROTO_ROUTING && next != AEGIS_PROTO_DSTOPTS &&
            next != AEGIS_PROTO_FRAGMENT && next != AEGIS_PROTO_AH) {
            packet->key.protocol = next;
            if (next == AEGIS_PROTO_ICMP) /* of the other family: a protocol without ports */
                return 0;
            return aegis_parse_transport(skb, packet, offset, limit,
                                         fragmented ? how | AEGIS_HOW_FIRST_FRAGMENT : how);
        }
        if (next == AEGIS_PROTO_HOPOPTS && count)
            return AEGIS_TOTAL_BAD_HEADER;
        if (offset + 8 > limit || bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
            return AEGIS_TOTAL_TRUNCATED;
        size = (extension[1] + 1) * 8;
        if (next == AEGIS_PROTO_AH)
            size = (extension[1] + 2) * 4;
        if (next == AEGIS_PROTO_FRAGMENT) {
            if (fragmented)
                return AEGIS_TOTAL_BAD_HEADER;
            size = 8;
            fragment = extension[2] << 8 | extension[3];
            fragmented = fragment & 1;
            if (fragment & AEGIS_IPV6_OFFSET) {
                packet->key.protocol = extension[0];
                packet->key.fragment = 1;
                return 0;
            }
        }
        if (offset + size > limit)
            return AEGIS_TOTAL_TRUNCATED;
        offset += size;
        next = extension[0];
    }
    return AEGIS_TOTAL_EXTENSIONS;
}

/* Whether the packet starts with its network header, as on tun and WireGuard: read behind the network header, the
 * linear part has its last byte at its own length, and none after it. */
__noinline int aegis_has_no_link_header(struct __sk_buff *skb)
{
    __u32 linear = skb->data_end - skb->data;
    __u8 byte;

    return linear && !bpf_skb_load_bytes_relative(skb, linear - 1, &byte, 1, BPF_HDR_START_NET) &&
           bpf_skb_load_bytes_relative(skb, linear, &byte, 1, BPF_HDR_START_NET);
}

/* Fills the key of any packet. Returns 0 or the AEGIS_TOTAL_* under which the packet is refused. */
__noinline int aegis_parse_slow(struct __sk_buff *skb, struct aegis_packet *packet)
{
    struct aegis_packet quoted = {};
    __u32 offset = 0, direction;
    __be16 type = skb->protocol;
    int refusal;

    if (!packet)
        return AEGIS_TOTAL_BAD_HEADER;
    direction = packet->direction & 1;
    if (!aegis_has_no_link_header(skb)) {
        __u32 tags = skb->vlan_present ? 1 : 0;
        __be16 tag[2]; /* identifier, type of what follows */

        if (bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &type, sizeof(type)))
            return AEGIS_TOTAL_TRUNCATED;
        offset = ETH_HLEN;
        for (int count = 0; count < 3; count++) {
            if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
                break;
            if (tags == 2)
                return AEGIS_TOTAL_EXTENSIONS;
            if (bpf_skb_load_bytes(skb, offset, tag, sizeof(tag)))
                return AEGIS_TOTAL_TRUNCATED;
            if (tags++)
                packet->key.vlan_inner = bpf_ntohs(tag[0]) & 0xfff;
            else
                packet->key.vlan_outer = bpf_ntohs(tag[0]) & 0xfff;
            type = tag[1];
            offset += sizeof(tag);
        }
    }
    if (type == bpf_htons(ETH_P_IP))
        refusal = aegis_parse_ipv4(skb, packet, offset, direction);
    else if (type == bpf_htons(ETH_P_IPV6))
        refusal = aegis_parse_ipv6(skb, packet, offset, direction);
    else
        return AEGIS_TOTAL_NOT_IP;
    if (refusal || !packet->quoted)
        return refusal;
    /* The quoted packet went the other way. Without a flow of it the error is one of its own. */
    quoted.key.ifindex = packet->key.ifindex;
    quoted.key.vlan_outer = packet->key.vlan_outer;
    quoted.key.vlan_inner = packet->key.vlan_inner;
    if (type == bpf_htons(ETH_P_IP))
        refusal = aegis_parse_ipv4(skb, &quoted, packet->quoted, !direction | AEGIS_HOW_QUOTED);
    else
        refusal = aegis_parse_ipv6(skb, &quoted, packet->quoted, !direction | AEGIS_HOW_QUOTED);
    if (!refusal && bpf_map_lookup_elem(&aegis_flows, &quoted.key)) {
        packet->key = quoted.key;
        packet->initiator = quoted.initiator;
        packet->error = 1;
    }
    return 0;
}

/* The type field of an Ethernet header may also be part of an address where no link header is; then the first byte
 * is a version. */
static __always_inline bool aegis_ambiguous(const void *data, __u32 version)
{
    return unlikely(*(const __u8 *)data >> 4 == version);
}

/* Fills the key of TCP and UDP straight behind Ethernet (any tag in the packet's metadata) and IPv4 without options
 * or IPv6 without extensions, when the headers are whole, sound and in the linear part. False: aegis_parse_slow. */
static __always_inline bool aegis_parse_fast(struct __sk_buff *skb, struct aegis_packet *packet,
                                             const __u32 direction)
{
    void *data = (void *)(long)skb->data;
    void *end = (void *)(long)skb->data_end;
    struct ethhdr *ethernet = data;
    struct aegis_tcp *tcp;
    struct udphdr *udp;
    __u32 room; /* of the IP payload */
    __u8 protocol;

    if (data + ETH_HLEN + sizeof(struct iphdr) + sizeof(*udp) > end)
        return false;
    if (ethernet->h_proto != (__be16)skb->protocol)
        return false;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = data + ETH_HLEN;
        __u32 total = bpf_ntohs(ip->tot_len);

        if (aegis_ambiguous(data, 4) && aegis_has_no_link_header(skb))
            return false;
        if (*(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(AEGIS_IP_MORE_FRAGMENTS | AEGIS_IP_OFFSET))
            return false;
        if (total < sizeof(*ip) || ETH_HLEN + total > packet->length)
            return false;
        room = total - sizeof(*ip);
        protocol = ip->protocol;
        aegis_put_ipv4(packet->key.local, direction == AEGIS_EGRESS ? ip->saddr : ip->daddr);
        aegis_put_ipv4(packet->key.remote, direction == AEGIS_EGRESS ? ip->daddr : ip->saddr);
        tcp = (void *)(ip + 1);
    } else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        struct aegis_ipv6 *ip = data + ETH_HLEN;

        if ((void *)(ip + 1) + sizeof(*udp) > end || ip->version >> 4 != 6)
            return false;
        if (aegis_ambiguous(data, 6) && aegis_has_no_link_header(skb))
            return false;
        room = bpf_ntohs(ip->payload_length);
        if (ETH_HLEN + sizeof(*ip) + room > packet->length)
            return false;
        protocol = ip->next;
        __builtin_memcpy(packet->key.local, direction == AEGIS_EGRESS ? ip->source : ip->destination, 16);
        __builtin_memcpy(packet->key.remote, direction == AEGIS_EGRESS ? ip->destination : ip->source, 16);
        tcp = (void *)(ip + 1);
    } else {
        return false;
    }
    if (protocol == AEGIS_PROTO_UDP) {
        udp = (void *)tcp;
        if (bpf_ntohs(udp->len) < sizeof(*udp) || bpf_ntohs(udp->len) > room)
            return false;
        packet->initiator = direction;
    } else if (protocol == AEGIS_PROTO_TCP) {
        if ((void *)(tcp + 1) > end || room < sizeof(*tcp) || tcp->offset >> 4 < 5 ||
            (tcp->offset >> 4) * 4 > room)
            return false;
        aegis_put_tcp_flags(packet, direction, tcp->flags);
    } else {
        return false;
    }
    packet->key.protocol = protocol;
    aegis_put_ports(packet, direction, bpf_ntohs(tcp->source), bpf_ntohs(tcp->destination));
    if (protocol == AEGIS_PROTO_TCP)
        packet->initiator = aegis_tcp_initiator(packet, direction);
    return true;
}

#endif
