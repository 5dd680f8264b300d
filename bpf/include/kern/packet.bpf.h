/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a packet to its flow key. Plain TCP and UDP over Ethernet is read in place here; everything else is
 * for kern/parse.bpf.h. */
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

enum {
    AEGIS_TCP_FIN = 1,
    AEGIS_TCP_SYN = 2,
    AEGIS_TCP_RST = 4,
    AEGIS_TCP_ACK = 16
};
enum {
    AEGIS_IP_MORE_FRAGMENTS = 0x2000,
    AEGIS_IP_OFFSET = 0x1fff,
    AEGIS_IPV6_OFFSET = 0xfff8
};

struct aegis_packet {
    struct aegis_flow_key key;
    __u32 length; /* as the interface counts it: with the link header */
    __u8 direction;
    __u8 tcp_flags;
    __u8 starts;        /* TCP SYN, with ACK or without, or an ICMP query; never the cached judgement alone */
    __u8 initiator;     /* of the flow, should this be its first packet */
    __u32 quoted;       /* ICMP error: offset of the packet it quotes */
    __u8 error;         /* ICMP error that stands in the flow of the packet it quotes */
    __u8 outer_verdict; /* error: what the policy says of its own sender and receiver, */
    __u8 handed;        /* sent by another process than the flow's owner was until now */
    __u32 outer_rule;   /* where they are not those of the flow */
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

/* Who opened a TCP connection of which this packet is the first one seen. SYN-ACK answers the other side;
 * without SYN the connection is older than the flow, and servers have the lower port. */
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

static __always_inline void aegis_put_tcp_flags(struct aegis_packet *packet, __u8 flags)
{
    packet->tcp_flags = flags;
    packet->starts = flags & AEGIS_TCP_SYN;
}

/* TCP SYN without ACK, or an ICMP query: its sender starts something. */
static __always_inline bool aegis_opens(const struct aegis_packet *packet)
{
    return packet->starts && !packet->error && !(packet->tcp_flags & AEGIS_TCP_ACK);
}

/* Whether the packet starts with its network header, as on tun and WireGuard: read behind the network header,
 * the linear part has its last byte at its own length, and none after it. */
__noinline int aegis_has_no_link_header(struct __sk_buff *skb)
{
    __u32 linear = skb->data_end - skb->data;
    __u8 byte;

    return linear && !bpf_skb_load_bytes_relative(skb, linear - 1, &byte, 1, BPF_HDR_START_NET) &&
           bpf_skb_load_bytes_relative(skb, linear, &byte, 1, BPF_HDR_START_NET);
}

/* The type field of an Ethernet header may also be part of an address where no link header is; then the first
 * byte is a version. */
static __always_inline bool aegis_ambiguous(const void *data, __u32 version)
{
    return unlikely(*(const __u8 *)data >> 4 == version);
}

/* Fills the key of TCP and UDP straight behind Ethernet (any tag in the packet's metadata) and IPv4 without
 * options or IPv6 without extensions, when the headers are whole, sound and in the linear part. False:
 * aegis_parse_slow. */
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
        aegis_put_tcp_flags(packet, tcp->flags);
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
