"""Reads a policy document (`docs/policy.md`) into model values: strictly, naming path and line of each mistake."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import TypeVar

from aegis.errors import PolicyError, PolicyInvalid, PolicyUnenforceable
from aegis.model.document import Items, Mapping, Member, Node, Scalar, child, parse_tree
from aegis.model.net import Direction
from aegis.model.policy import (
    DEFAULT_PRIORITY,
    LAST_PORT,
    MAX_PRIORITY,
    MAX_RULES,
    SCTP,
    TCP,
    UDP,
    AddressBlock,
    IcmpType,
    Mode,
    Policy,
    Ports,
    Prefix,
    Rule,
)

_Part = TypeVar("_Part")

API_VERSION = "aegis/v1"
KIND = "HostNetworkPolicy"
MAX_VERSION = (1 << 63) - 1
SHOWN_PROBLEMS = 8  # of one document in one message; all are found

# Where a rule stands -> the direction it is about and whether it denies.
SECTIONS: dict[str, tuple[Direction, bool]] = {
    "egress": (Direction.EGRESS, False),
    "ingress": (Direction.INGRESS, False),
    "egressDeny": (Direction.EGRESS, True),
    "ingressDeny": (Direction.INGRESS, True),
}
_PEERS = {Direction.EGRESS: "toCIDRSet", Direction.INGRESS: "fromCIDRSet"}
_PROTOCOLS: dict[str, int | None] = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP, "ANY": None}
_FAMILIES = {"IPv4": 4, "IPv6": 6}
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_CIDR = re.compile(r"([0-9A-Fa-f:.]{2,45})/(0|[1-9][0-9]{0,2})")

# Words of the language that cannot be enforced as written: refused with the reason, never ignored.
_NO_SUBJECT = "subjects are not supported: a rule applies to the whole host"
_NO_SELECTOR = "host selectors are not supported: a policy applies to the host that is given it"
_NO_EXPIRY = "expiry is not supported: a rule holds until the policy is removed"
_NO_NAMES = "rules by domain name are not supported: give the addresses as a CIDR set"
_NO_DEFAULT_DENY = "default deny is not supported: no match allows; write the denials out"


def parse_document(data: bytes) -> Policy:
    """The policy in a YAML or JSON document.

    Raises PolicyInvalid (not the language) or PolicyUnenforceable (cannot be enforced exactly as written) for the first
    problem; its hint names the others.
    """
    policy, problems = examine(data)
    if policy is not None:
        return policy
    first, *others = problems
    if others:
        shown = "; ".join(str(each) for each in others[:SHOWN_PROBLEMS])
        more = len(others) - SHOWN_PROBLEMS
        first.hint = f"also: {shown}" + (f"; and {more} more" if more > 0 else "")
    raise first


def examine(data: bytes) -> tuple[Policy | None, tuple[PolicyError, ...]]:
    """The policy, or None and every problem found: first what is invalid, then what cannot be enforced."""
    try:
        root = parse_tree(data)
    except PolicyInvalid as error:
        return None, (error,)
    reader = _Reader(data)
    policy = reader.policy(root)
    if reader.invalid or reader.unenforceable:
        return None, (*reader.invalid, *reader.unenforceable)
    assert policy is not None
    return policy, ()


class _Reader:
    """One reading of one document. Every method notes its problems and goes on, so that all are found."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.invalid: list[PolicyError] = []
        self.unenforceable: list[PolicyError] = []
        self.rules = 0

    # What the parts have in common.

    def bad(self, path: str, line: int, reason: str) -> None:
        self.invalid.append(PolicyInvalid(path, reason, line=line))

    def cannot(self, path: str, line: int, reason: str) -> None:
        self.unenforceable.append(PolicyUnenforceable(path, reason, line=line))

    def members(
        self, node: Node, path: str, known: Collection[str], required: Collection[str] = ()
    ) -> dict[str, Member] | None:
        """The members of a mapping by key; None when it is none. Notes unknown and missing keys."""
        if not isinstance(node, Mapping):
            self.bad(path or "document", node.line, f"must be a mapping, not {node.noun}")
            return None
        found = {each.key: each for each in node.members}
        for key, each in found.items():
            if key not in known:
                self.bad(child(path, key), each.line, f"unknown key; known here: {', '.join(known)}")
        for key in required:
            if key not in found:
                self.bad(child(path, key), node.line, "is missing")
        return found

    def items(self, node: Node, path: str) -> tuple[Node, ...]:
        """The items of a list that may not be empty."""
        if not isinstance(node, Items):
            self.bad(path, node.line, f"must be a list, not {node.noun}")
            return ()
        if not node.items:
            self.bad(path, node.line, "is an empty list: leave it out or fill it")
        return node.items

    def number(self, node: Node, path: str, low: int, high: int) -> int | None:
        value = node.value if isinstance(node, Scalar) else None
        if not isinstance(value, int) or isinstance(value, bool):
            self.bad(path, node.line, f"must be a whole number from {low} to {high}, not {node.noun}")
            return None
        if not low <= value <= high:
            self.bad(path, node.line, f"must be a whole number from {low} to {high}, not {value}")
            return None
        return value

    def text(self, node: Node, path: str) -> str | None:
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return node.value
        self.bad(path, node.line, f"must be text, not {node.noun}")
        return None

    def word(self, node: Node, path: str, words: Collection[str]) -> str | None:
        value = self.text(node, path)
        if value is None or value in words:
            return value
        self.bad(path, node.line, f"must be one of {', '.join(words)}, not {node.noun}")
        return None

    # The document, from the outside in.

    def policy(self, root: Node) -> Policy | None:
        known = ("apiVersion", "kind", "metadata", "spec")
        top = self.members(root, "", known, known)
        if top is None:
            return None
        if "apiVersion" in top:
            self.word(top["apiVersion"].value, "apiVersion", (API_VERSION,))
        if "kind" in top:
            self.word(top["kind"].value, "kind", (KIND,))
        name, version = self._metadata(top["metadata"].value) if "metadata" in top else (None, 1)
        if "spec" not in top:
            return None
        mode, priority, rules = self._spec(top["spec"].value)
        if self.invalid or self.unenforceable or name is None:
            return None
        return Policy(
            name=name, version=version, mode=mode, priority=priority, rules=rules, document=self.data
        )

    def _metadata(self, node: Node) -> tuple[str | None, int]:
        members = self.members(node, "metadata", ("name", "version"), ("name",)) or {}
        name = None
        version: int | None = 1
        if "name" in members:
            name = self.text(members["name"].value, "metadata.name")
            if name is not None and not _NAME.fullmatch(name):
                reason = "must be 1 to 63 letters, digits, '.', '_' and '-', a letter or digit at both ends"
                self.bad("metadata.name", members["name"].line, reason)
        if "version" in members:
            version = self.number(members["version"].value, "metadata.version", 0, MAX_VERSION)
        return name, 1 if version is None else version

    def _spec(self, node: Node) -> tuple[Mode, int, tuple[Rule, ...]]:
        known = ("mode", "priority", *SECTIONS, "enableDefaultDeny", "subject", "hostSelector", "expiresAt")
        members = self.members(node, "spec", known) or {}
        mode = Mode.OBSERVE
        priority: int | None = DEFAULT_PRIORITY
        if "mode" in members:
            mode = Mode(self.word(members["mode"].value, "spec.mode", tuple(Mode)) or mode)
        if "priority" in members:
            priority = self.number(members["priority"].value, "spec.priority", 0, MAX_PRIORITY)
        for key, reason in (
            ("subject", _NO_SUBJECT),
            ("hostSelector", _NO_SELECTOR),
            ("expiresAt", _NO_EXPIRY),
        ):
            if key in members:
                self.cannot(f"spec.{key}", members[key].line, reason)
        if "enableDefaultDeny" in members:
            self._default_deny(members["enableDefaultDeny"].value)
        sections = [key for key in SECTIONS if key in members]
        if isinstance(node, Mapping) and not sections:
            self.bad("spec", node.line, f"has no rule: give at least one of {', '.join(SECTIONS)}")
        rules = [rule for key in sections for rule in self._section(key, members[key].value)]
        return mode, DEFAULT_PRIORITY if priority is None else priority, tuple(rules)

    def _default_deny(self, node: Node) -> None:
        path = "spec.enableDefaultDeny"
        for key, each in (self.members(node, path, ("egress", "ingress")) or {}).items():
            value = each.value.value if isinstance(each.value, Scalar) else None
            if not isinstance(value, bool):
                self.bad(f"{path}.{key}", each.value.line, f"must be true or false, not {each.value.noun}")
            elif value:
                self.cannot(f"{path}.{key}", each.value.line, _NO_DEFAULT_DENY)

    def _section(self, key: str, node: Node) -> list[Rule]:
        path = f"spec.{key}"
        direction, deny = SECTIONS[key]
        rules = []
        for place, item in enumerate(self.items(node, path)):
            self.rules += 1
            if self.rules > MAX_RULES:
                self.cannot(f"{path}[{place}]", item.line, f"a policy has at most {MAX_RULES} rules")
                break
            rules.append(self._rule(item, f"{path}[{place}]", f"{key}[{place}]", direction, deny=deny))
        return rules

    def _rule(self, node: Node, path: str, name: str, direction: Direction, *, deny: bool) -> Rule:
        peers = _PEERS[direction]
        members = self.members(node, path, (peers, "toPorts", "icmps", "toFQDNs")) or {}
        if "toFQDNs" in members:
            self.cannot(f"{path}.toFQDNs", members["toFQDNs"].line, _NO_NAMES)
        if "toPorts" in members and "icmps" in members:
            self.bad(f"{path}.icmps", members["icmps"].line, "cannot stand beside toPorts: write two rules")
        blocks = self._each(members, peers, path, self._block)
        ports = [each for group in self._each(members, "toPorts", path, self._port_group) for each in group]
        icmps = [each for group in self._each(members, "icmps", path, self._icmp_group) for each in group]
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
            ports=tuple(ports),
            icmps=tuple(icmps),
        )

    def _each(
        self, members: dict[str, Member], key: str, path: str, read: Callable[[Node, str], _Part | None]
    ) -> list[_Part]:
        """Every item of the list `key`, read; nothing when the key is absent."""
        if key not in members:
            return []
        where = f"{path}.{key}"
        found = [
            read(item, f"{where}[{place}]")
            for place, item in enumerate(self.items(members[key].value, where))
        ]
        return [each for each in found if each is not None]

    def _block(self, node: Node, path: str) -> AddressBlock | None:
        members = self.members(node, path, ("cidr", "except"), ("cidr",)) or {}
        cidr = self._prefix(members["cidr"].value, f"{path}.cidr") if "cidr" in members else None
        exceptions = self._each(members, "except", path, self._prefix)
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
        return self._each(members, "ports", path, self._ports)

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
        return self._each(members, "fields", path, self._icmp)

    def _icmp(self, node: Node, path: str) -> IcmpType | None:
        members = self.members(node, path, ("family", "type"), ("type",)) or {}
        family: str | None = "IPv4"
        if "family" in members:
            family = self.word(members["family"].value, f"{path}.family", _FAMILIES)
        if family is None or "type" not in members:
            return None
        number = self.number(members["type"].value, f"{path}.type", 0, 255)
        return None if number is None else IcmpType(family=_FAMILIES[family], type=number)


def _covered(cidr: Prefix, exceptions: list[Prefix]) -> bool:
    """Whether the exceptions together are the whole prefix."""
    reached = cidr.address
    for each in sorted(exceptions):
        if each.address > reached:
            return False
        reached = max(reached, each.last + 1)
    return reached > cidr.last
