"""Reads one rule of a policy document: peers, names, ports, types of ICMP."""

from __future__ import annotations

import ipaddress
import re

from aegis.model.document import Node, short
from aegis.model.net import Direction
from aegis.model.policy import LAST_PORT, SCTP, TCP, UDP, AddressBlock, IcmpType, Ports, Prefix, Rule
from aegis.model.policy_reader import Reader
from aegis.model.policy_selectors import NameSelector

_PEERS = {Direction.EGRESS: "toCIDRSet", Direction.INGRESS: "fromCIDRSet"}
_KNOWN = {
    Direction.EGRESS: ("toCIDRSet", "toFQDNs", "toPorts", "icmps"),
    Direction.INGRESS: ("fromCIDRSet", "toPorts", "icmps"),
}
_PROTOCOLS: dict[str, int | None] = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP, "ANY": None}
_FAMILIES = {"IPv4": 4, "IPv6": 6}
_CIDR = re.compile(r"([0-9A-Fa-f:.]{2,45})/(0|[1-9][0-9]{0,2})")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PATTERN_LABEL = re.compile(r"[a-z0-9_-]{0,62}\*[a-z0-9_-]{0,62}")
_MAX_NAME = 253


class RuleReader(Reader):
    """A reader that knows rules."""

    def rule(self, node: Node, path: str, name: str, direction: Direction, *, deny: bool) -> Rule:
        """One entry of a section; `name` is its path in the spec."""
        peers = _PEERS[direction]
        members = self.members(node, path, _KNOWN[direction]) or {}
        if "toFQDNs" in members and peers in members:
            self.bad(
                f"{path}.toFQDNs", members["toFQDNs"].line, f"cannot stand beside {peers}: write two rules"
            )
        if "toPorts" in members and "icmps" in members:
            self.bad(f"{path}.icmps", members["icmps"].line, "cannot stand beside toPorts: write two rules")
        blocks = self.each(members, peers, path, self._block)
        names = self.each(members, "toFQDNs", path, self._name) if direction is Direction.EGRESS else []
        ports = [each for group in self.each(members, "toPorts", path, self._port_group) for each in group]
        icmps = [each for group in self.each(members, "icmps", path, self._icmp_group) for each in group]
        if blocks and icmps:
            families = {block.cidr.family for block in blocks}
            for each in icmps:
                if each.family not in families:
                    family = "IPv4" if each.family == 4 else "IPv6"
                    reason = f"family {family} never matches: {peers} holds no {family} prefix"
                    self.bad(f"{path}.icmps", members["icmps"].line, reason)
                    break
        return Rule(
            path=name,
            line=node.line,
            direction=direction,
            deny=deny,
            blocks=tuple(blocks),
            names=tuple(names),
            ports=tuple(ports),
            icmps=tuple(icmps),
        )

    def _block(self, node: Node, path: str) -> AddressBlock | None:
        members = self.members(node, path, ("cidr", "except"), ("cidr",)) or {}
        cidr = self._prefix(members["cidr"].value, f"{path}.cidr") if "cidr" in members else None
        exceptions = self.each(members, "except", path, self._prefix)
        if cidr is None:
            return None
        for place, each in enumerate(exceptions):
            where = f"{path}.except[{place}]"
            line = members["except"].line
            if not cidr.holds(each):
                self.bad(where, line, f"{each.text} does not lie in {cidr.text}")
            elif each == cidr:
                self.bad(where, line, f"leaves nothing of {cidr.text}")
        if len(exceptions) > 1 and _covered(cidr, exceptions):
            self.bad(f"{path}.except", members["except"].line, f"together leave nothing of {cidr.text}")
        return AddressBlock(cidr=cidr, exceptions=tuple(exceptions))

    def _prefix(self, node: Node, path: str) -> Prefix | None:
        text = self.text(node, path)
        if text is None:
            return None
        match = _CIDR.fullmatch(text)
        if not match:
            whole = "; one address is ADDRESS/32 or ADDRESS/128" if "/" not in text else ""
            self.bad(path, node.line, f"must be a CIDR such as 10.0.0.0/8, not {node.noun}{whole}")
            return None
        try:
            address = ipaddress.ip_address(match[1])
        except ValueError:
            self.bad(path, node.line, f"{match[1]!r} is no address")
            return None
        length = int(match[2])
        bits = address.max_prefixlen
        if length > bits:
            self.bad(path, node.line, f"an IPv{address.version} prefix has at most {bits} bits, not {length}")
            return None
        prefix = Prefix(address.version, int(address), length)
        hosts = int(address) & ((1 << (bits - length)) - 1)
        if hosts:
            network = Prefix(address.version, int(address) - hosts, length)
            self.bad(path, node.line, f"{text} has host bits set: the network is {network.text}")
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None and length >= 96:
            self.bad(path, node.line, f"{text} is IPv4 mapped: write {address.ipv4_mapped}/{length - 96}")
            return None
        return prefix

    def _port_group(self, node: Node, path: str) -> list[Ports]:
        members = self.members(node, path, ("ports",), ("ports",)) or {}
        return self.each(members, "ports", path, self._ports)

    def _ports(self, node: Node, path: str) -> Ports | None:
        members = self.members(node, path, ("port", "endPort", "protocol"))
        if members is None:
            return None
        if "port" not in members and "protocol" not in members:
            self.bad(path, node.line, "names neither port nor protocol")
            return None
        word = "ANY"
        if "protocol" in members:
            word = self.word(members["protocol"].value, f"{path}.protocol", _PROTOCOLS) or word
        if "port" not in members:
            if "endPort" in members:
                self.bad(f"{path}.endPort", members["endPort"].line, "needs a port to begin at")
            return Ports(protocol=_PROTOCOLS[word])
        first = self.number(members["port"].value, f"{path}.port", 1, LAST_PORT)
        last = first
        if "endPort" in members:
            last = self.number(members["endPort"].value, f"{path}.endPort", 1, LAST_PORT)
        if first is None or last is None:
            return None
        if last < first:
            self.bad(f"{path}.endPort", members["endPort"].line, f"{last} is less than port {first}")
            return None
        return Ports(protocol=_PROTOCOLS[word], first=first, last=last)

    def _icmp_group(self, node: Node, path: str) -> list[IcmpType]:
        members = self.members(node, path, ("fields",), ("fields",)) or {}
        return self.each(members, "fields", path, self._icmp)

    def _icmp(self, node: Node, path: str) -> IcmpType | None:
        members = self.members(node, path, ("family", "type"), ("type",)) or {}
        family: str | None = "IPv4"
        if "family" in members:
            family = self.word(members["family"].value, f"{path}.family", _FAMILIES)
        if family is None or "type" not in members:
            return None
        number = self.number(members["type"].value, f"{path}.type", 0, 255)
        return None if number is None else IcmpType(family=_FAMILIES[family], type=number)

    def _name(self, node: Node, path: str) -> NameSelector | None:
        members = self.members(node, path, ("matchName", "matchPattern"))
        if members is None:
            return None
        if len(members) != 1:
            self.bad(path, node.line, "must hold either matchName or matchPattern")
            return None
        (key,) = members
        if key not in ("matchName", "matchPattern"):
            return None
        where = f"{path}.{key}"
        text = self.text(members[key].value, where)
        if text is None:
            return None
        pattern = key == "matchPattern"
        name = text.lower().removesuffix(".")
        reason = _name_problem(name, pattern=pattern)
        if reason:
            self.bad(where, members[key].value.line, f"{short(text)} {reason}")
            return None
        return NameSelector(name, pattern)


def _name_problem(name: str, *, pattern: bool) -> str:
    """Why a name or pattern, in lower case and without its final dot, is none; empty where it is one."""
    if not name.isascii():
        return "is not ASCII: write the labels as DNS carries them (xn--...)"
    if not name or len(name) > _MAX_NAME:
        return f"must have 1 to {_MAX_NAME} characters"
    labels = name.split(".")
    if pattern and labels[0] in ("*", "**") and (len(labels) > 1 or labels[0] == "*"):
        labels = labels[1:]
    for label in labels:
        if _LABEL.fullmatch(label) or (pattern and len(label) < 64 and _PATTERN_LABEL.fullmatch(label)):
            continue
        if not pattern and "*" in label:
            return "has a '*', which is for matchPattern"
        if not label:
            return "has an empty label"
        allowed = ", with at most one '*', or '**' as the first of several," if pattern else ""
        return f"has the label {short(label)}: it must be 1 to 63 letters, digits, '-' and '_'{allowed} and no '-' at an end"
    return ""


def _covered(cidr: Prefix, exceptions: list[Prefix]) -> bool:
    """Whether the exceptions together are the whole prefix."""
    reached = cidr.address
    for each in sorted(exceptions):
        if each.address > reached:
            return False
        reached = max(reached, each.last + 1)
    return reached > cidr.last
