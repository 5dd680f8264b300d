/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The management path: what no policy can cut. Asked before every judgement, by packets and at connect and
 * sendmsg alike. A flow is of the path by who opened it; answers follow it as they follow any judgement. */
#ifndef AEGIS_KERN_MANAGEMENT_BPF_H
#define AEGIS_KERN_MANAGEMENT_BPF_H

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, struct aegis_management);
} aegis_management SEC(".maps");

enum {
    AEGIS_TYPE_TOO_BIG = 2,
    AEGIS_TYPE_SOLICITATION = 133, /* of a router: the first of neighbour discovery */
    AEGIS_TYPE_REDIRECT = 137,
    AEGIS_FRAGMENTATION_NEEDED = 3 << 8 | 4,
    AEGIS_PORT_DHCP_SERVER = 67,
    AEGIS_PORT_DHCP_CLIENT = 68,
    AEGIS_PORT_DHCPV6_CLIENT = 546,
    AEGIS_PORT_DHCPV6_SERVER = 547
};

#define AEGIS_PORT_UNKNOWN (~0ull)

static __always_inline __u32 aegis_management_version(void)
{
    __u32 zero = 0;
    struct aegis_control *control = bpf_map_lookup_elem(&aegis_control, &zero);

    return control ? *(volatile __u32 *)&control->management : 0;
}

/* Whether the parts of the path that name no address let a packet through. */
static __always_inline bool aegis_managed_always(__u32 flags, bool v6, __u64 service, __u64 from)
{
    __u64 protocol = service >> 16 & 0xff, port = service & 0xffff, type = port >> 8;
    __u64 client, server;

    if (service >> 24 & 1)
        return false;
    if (protocol == AEGIS_PROTO_ICMPV6 && v6)
        return (flags & AEGIS_MANAGEMENT_NEIGHBOURS && type >= AEGIS_TYPE_SOLICITATION &&
                type <= AEGIS_TYPE_REDIRECT) ||
               (flags & AEGIS_MANAGEMENT_PATH_MTU && type == AEGIS_TYPE_TOO_BIG);
    if (protocol == AEGIS_PROTO_ICMP && !v6)
        return flags & AEGIS_MANAGEMENT_PATH_MTU && port == AEGIS_FRAGMENTATION_NEEDED;
    if (protocol != AEGIS_PROTO_UDP || !(flags & (v6 ? AEGIS_MANAGEMENT_DHCPV6 : AEGIS_MANAGEMENT_DHCP)))
        return false;
    client = v6 ? AEGIS_PORT_DHCPV6_CLIENT : AEGIS_PORT_DHCP_CLIENT;
    server = v6 ? AEGIS_PORT_DHCPV6_SERVER : AEGIS_PORT_DHCP_SERVER;
    if (service >> 25 & 1)
        return port == client && from == server;
    return port == server && (from == client || from == AEGIS_PORT_UNKNOWN);
}

/* Whether the management path lets a packet of these addresses and this service pass. `service`: as
 * aegis_where with slot 0, `from`: the port of the one who opened it. */
__noinline __u64 aegis_managed(__u64 hi, __u64 lo, __u64 service, __u64 from)
{
    __u32 index = aegis_management_version() & 1;
    const struct aegis_management *table = bpf_map_lookup_elem(&aegis_management, &index);
    /* Later fragments have no ports and may come first: they follow their protocol, either way. */
    __u64 compared = service >> 24 & 1 ? 0xff0000 : 0x3ffffff;

    if (!table)
        return 0;
    if (aegis_managed_always(table->flags, hi || lo >> 32 != 0xffff, service, from))
        return 1;
    for (int at = 0; at < AEGIS_MANAGEMENT_ENTRIES; at++) {
        const struct aegis_management_entry *entry = &table->entries[at];
        __u64 differs;

        if (at >= table->count)
            break;
        differs = ((hi & entry->mask_high) ^ entry->high) | ((lo & entry->mask_low) ^ entry->low);
        differs |= (service ^ entry->service) & compared;
        if (!differs)
            return 1;
    }
    return 0;
}

/* The same of a flow that the side of `initiator` opened. */
__noinline __u64 aegis_managed_flow(const struct aegis_flow_key *key, __u32 initiator)
{
    bool egress = initiator == AEGIS_EGRESS;

    if (!key)
        return 0;
    return aegis_managed(
        bpf_be64_to_cpu(*(__u64 *)key->remote), bpf_be64_to_cpu(*(__u64 *)(key->remote + 8)),
        aegis_where(0, initiator, key->protocol, key->fragment, egress ? key->remote_port : key->local_port),
        egress ? key->local_port : key->remote_port);
}

#endif
