"""The same policies as an nftables ruleset, and packets sent past it: the judge that shares no line with Aegis."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import time
from collections.abc import Sequence

from aegis.model.net import MAPPED, Direction, address_text
from aegis.model.policy import ICMP, ICMPV6, Mode, Packet, Policy, PolicySet, Rule
from tests.support import packets as p
from tests.support.world import Place

SHORTEST = 100  # bytes of packet 0; each later one is a byte longer, so that its length names it
MOST = 1300
LINK = (ipaddress.ip_network("10.77.0.0/24"), ipaddress.ip_network("fd77::/64"))  # of a world's first pair
_TRUST = 5.0  # seconds after which a packet that has not come is held for dropped


def ruleset(policies: PolicySet, direction: Direction) -> str:
    """A table whose chain drops what the enforcing policies deny in this direction, at the host's own end."""
    hook, field = ("output", "daddr") if direction is Direction.EGRESS else ("prerouting", "saddr")
    lines = ["table inet same {", "chain judge {", f"type filter hook {hook} priority -100; policy accept;"]
    for policy, rule in _ordered(policies):
        if policy.mode is Mode.ENFORCE and rule.direction is direction:
            lines += _rule(rule, field)
    return "\n".join([*lines, "}", "}"])


def sendable(packet: Packet) -> bool:
    """Whether Linux's own stack lets such a packet through to judge and receiver, whatever the policy says.

    What goes to an address of the link itself takes no gateway: without ARP it gets the sender's own MAC
    address and the other end drops it, or it is a broadcast. What comes from one may be answered to the judge's
    own host, and the answer counted.
    """
    family, address = packet.peer_number
    if _on_link(family, address) or packet.fragment or packet.protocol not in (1, 6, 17, 47, 58, 132):
        return False
    if (packet.protocol == ICMP and family == 6) or (packet.protocol == ICMPV6 and family == 4):
        return False
    if family == 4:
        return 0 < address >> 24 < 224 and address >> 24 != 127
    return address >> 120 not in (0, 0xFF, 0xFE)


def query(packet: Packet) -> bool:
    """Whether it can only begin a flow: an ICMP error or answer is judged by what it belongs to."""
    return packet.protocol not in (ICMP, ICMPV6) or packet.port >> 8 == (
        8 if packet.protocol == ICMP else 128
    )


def watch(place: Place) -> None:
    """Count arriving packets by their length."""
    place.command(
        "nft",
        "add table inet arrived; add set inet arrived lengths { typeof meta length; size 65535; flags dynamic; };"
        "add chain inet arrived in { type filter hook prerouting priority 0; };"
        "add rule inet arrived in update @lengths { meta length counter }",
    )


def forget(place: Place) -> None:
    place.command("nft", "flush set inet arrived lengths")


def arrived(place: Place) -> dict[int, int]:
    """How often each packet has come, by its number."""
    listing = json.loads(place.command("nft", "-j", "list set inet arrived lengths").stdout)
    (found,) = [each["set"] for each in listing["nftables"] if "set" in each]
    return {
        each["elem"]["val"] - SHORTEST: each["elem"]["counter"]["packets"] for each in found.get("elem", ())
    }


def send(packets: Sequence[Packet], sender: Place, here: tuple[str, str], direction: Direction) -> None:
    """Send every packet once; `here` are the judged host's addresses of both families. Runs in a child."""
    sender.run(_send_all, [(each.peer, each.protocol, each.port) for each in packets], here, direction.value)


def outcome(packets: Sequence[Packet], passing: Sequence[bool], receiver: Place) -> list[bool]:
    """Which packets came, once as many as should have done so or enough time has passed."""
    wanted = {number: 1 for number, each in enumerate(passing) if each}
    deadline = time.monotonic() + _TRUST
    while (got := arrived(receiver)) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(got.values()) <= {1}
    return [number in got for number in range(len(packets))]


def _on_link(family: int, address: int) -> bool:
    return any(
        each.version == family and int(each.network_address) <= address <= int(each.broadcast_address)
        for each in LINK
    )


def _ordered(policies: PolicySet) -> list[tuple[Policy, Rule]]:
    """By priority, denial first, then policy and place."""
    rules = [
        (policy, rule) for policy in sorted(policies, key=lambda each: each.name) for rule in policy.rules
    ]
    rules.sort(key=lambda pair: 0 if pair[1].deny else 1)
    rules.sort(key=lambda pair: pair[0].priority)
    return rules


def _rule(rule: Rule, field: str) -> list[str]:
    verdict = "drop" if rule.deny else "accept"
    peers = [""]
    if rule.blocks:
        peers = []
        for block in rule.blocks:
            word = "ip" if block.cidr.family == 4 else "ip6"
            text = f"{word} {field} {block.cidr.text}"
            if block.cidr.length == 0:
                text = f"meta nfproto ipv{block.cidr.family}"
            for each in block.exceptions:
                text += f" {word} {field} != {each.text}"
            peers.append(text)
    services = [""]
    if rule.ports:
        services = []
        for ports in rule.ports:
            kinds = "6, 17, 132" if ports.protocol is None else str(ports.protocol)
            if ports.first is None:
                services.append("" if ports.protocol is None else f"meta l4proto {kinds}")
            else:
                services.append(f"meta l4proto {{ {kinds} }} th dport {ports.first}-{ports.last}")
    if rule.icmps:
        services = [
            f"meta nfproto ipv4 meta l4proto 1 icmp type {each.type}"
            if each.family == 4
            else f"meta nfproto ipv6 meta l4proto 58 icmpv6 type {each.type}"
            for each in rule.icmps
        ]
    return [f"{peer} {service} counter {verdict}" for peer in peers for service in services]


def _send_all(packets: list[tuple[bytes, int, int]], here: tuple[str, str], direction: str) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one backlog, so that packets keep their order
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as six,
    ):
        for number, (peer, protocol, port) in enumerate(packets):
            is_four = peer[:12] == MAPPED
            far, near = address_text(peer), here[0 if is_four else 1]
            source, destination = (near, far) if direction == "egress" else (far, near)
            room = SHORTEST + number - (20 if is_four else 40)
            carried = _segment(protocol, port, 1024 + number, room)
            data = (p.ipv4 if is_four else p.ipv6)(source, destination, protocol, carried)
            with contextlib.suppress(PermissionError):  # nftables says so to the sender
                (four if is_four else six).sendto(data, (destination, 0))


def _segment(protocol: int, port: int, source: int, size: int) -> bytes:
    """A transport header and filling, `size` bytes in all."""
    if protocol == p.TCP:
        return p.tcp(source, port, p.SYN, bytes(size - 20))
    if protocol == p.UDP:
        return p.udp(source, port, bytes(size - 8))
    if protocol == p.SCTP:
        return p.sctp(source, port, bytes(size - 12))
    if protocol in (p.ICMP, p.ICMPV6):
        return p.icmp(port >> 8, port & 255, source, bytes(size - 8))
    return bytes(size)
