/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every packet that is not plain: copied header by header in global functions, which the verifier judges once
 * and which never touch the packet. */
#ifndef AEGIS_KERN_PARSE_BPF_H
#define AEGIS_KERN_PARSE_BPF_H

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

/* Ports and flags of the header at `offset`; `limit` is where the packet's IP payload ends. `how` has bit 0
 * the direction, bit 1 set for a packet quoted in an ICMP error (cut short), bit 2 for a first fragment. */
#define AEGIS_HOW_QUOTED         2
#define AEGIS_HOW_FIRST_FRAGMENT 4

__noinline int aegis_parse_transport(struct __sk_buff *skb, struct aegis_packet *packet, __u32 offset,
                                     __u32 limit, __u32 how)
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
        aegis_put_tcp_flags(packet, tcp.flags);
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
            packet->starts = icmp.type == query;
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
    if (how & AEGIS_HOW_QUOTED ||
        (!total && skb->gso_segs > 1)) /* cut short; or longer than the field can say */
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

/* Fills the key of any packet. Returns 0 or the AEGIS_TOTAL_* under which the packet is refused. */
__noinline int aegis_parse_slow(struct __sk_buff *skb, struct aegis_packet *packet)
{
    __u32 offset = 0, direction;
    __be16 type = skb->protocol;

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
        return aegis_parse_ipv4(skb, packet, offset, direction);
    if (type == bpf_htons(ETH_P_IPV6))
        return aegis_parse_ipv6(skb, packet, offset, direction);
    return AEGIS_TOTAL_NOT_IP;
}

static __always_inline bool aegis_same_address(const __u8 *one, const __u8 *other)
{
    const __u64 *left = (const __u64 *)one, *right = (const __u64 *)other;

    return left[0] == right[0] && left[1] == right[1];
}

/* Fills the key of the packet that an ICMP error quotes, which went the other way. Returns 0 unless it makes
 * no sense, or the error does not go to whom the quoted packet came from, as every true one does. */
__noinline int aegis_parse_quoted(struct __sk_buff *skb, const struct aegis_packet *packet,
                                  struct aegis_packet *quoted)
{
    __u32 direction;
    int refusal;

    if (!packet || !quoted)
        return AEGIS_TOTAL_BAD_HEADER;
    direction = packet->direction & 1;
    quoted->key.ifindex = packet->key.ifindex;
    quoted->key.vlan_outer = packet->key.vlan_outer;
    quoted->key.vlan_inner = packet->key.vlan_inner;
    if (packet->key.protocol == AEGIS_PROTO_ICMP)
        refusal = aegis_parse_ipv4(skb, quoted, packet->quoted, !direction | AEGIS_HOW_QUOTED);
    else
        refusal = aegis_parse_ipv6(skb, quoted, packet->quoted, !direction | AEGIS_HOW_QUOTED);
    if (refusal)
        return refusal;
    if (direction == AEGIS_EGRESS ? !aegis_same_address(packet->key.remote, quoted->key.remote)
                                  : !aegis_same_address(packet->key.local, quoted->key.local))
        return AEGIS_TOTAL_BAD_HEADER;
    return 0;
}

#endif
