"""Policies: what a document says, what is asked of a set of them, and what is known about an applied one.

A rule matches a packet by the initiator's direction, the peer's address (remote for egress and ingress alike) and the
service: protocol and destination port, or ICMP type. Rules are ordered by (priority, deny before allow, local before gateway, policy
name, place in the document); the first that matches decides, and no match allows. Policies in mode `observe` never
change what passes: they only say what would have happened.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterator
from typing import Literal

import msgspec

from aegis.errors import PolicyNotFound
from aegis.model.flow import Verdict
from aegis.model.net import MAPPED, Direction, address_text, protocol_name

LOCAL = "local"  # the origin of what is applied on the host; the other one is `gateway`
DEFAULT_PRIORITY = 1000
MAX_PRIORITY = 1_000_000
MAX_RULES = 1000

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
ANY_WITH_PORTS = (TCP, UDP, SCTP)  # what protocol ANY means beside a port
LAST_PORT = 65535


class Mode(enum.StrEnum):
    OBSERVE = "observe"  # deny is counted and reported as `audit`; the packet passes
    ENFORCE = "enforce"


class Prefix(msgspec.Struct, frozen=True, order=True):
    """A CIDR: `address` is the whole network address as a number, its host bits 0."""

    family: int  # 4 or 6
    address: int
    length: int

    @property
    def bits(self) -> int:
        return 32 if self.family == 4 else 128

    @property
    def last(self) -> int:
        """The highest address in it."""
        return self.address | ((1 << (self.bits - self.length)) - 1)

    @property
    def text(self) -> str:
        cls = ipaddress.IPv4Address if self.family == 4 else ipaddress.IPv6Address
        return f"{cls(self.address)}/{self.length}"

    def holds(self, other: Prefix) -> bool:
        """Whether every address of `other` is in it."""
        return self.family == other.family and self.address <= other.address and other.last <= self.last


class AddressBlock(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of toCIDRSet or fromCIDRSet: a prefix without the exceptions, which all lie in it."""

    cidr: Prefix
    exceptions: tuple[Prefix, ...] = ()


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of toPorts: `protocol` None is ANY; `first` None is every port, and what has no ports."""

    protocol: int | None
    first: int | None = None
    last: int | None = None


class IcmpType(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of icmps: a type of ICMP (family 4) or ICMPv6 (family 6), any code."""

    family: int
    type: int


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of egress, ingress, egressDeny or ingressDeny. `path` is its name: `egressDeny[0]`.

    No blocks: every peer of both families. Neither ports nor icmps: every service. Never both.
    """

    path: str
    line: int
    direction: Direction
    deny: bool
    blocks: tuple[AddressBlock, ...] = ()
    ports: tuple[Ports, ...] = ()
    icmps: tuple[IcmpType, ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One HostNetworkPolicy. `document` is what it was read from."""

    name: str
    version: int
    mode: Mode
    priority: int
    rules: tuple[Rule, ...]
    origin: str = LOCAL
    document: bytes = b""


class RankedRule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule in the order that decides: its position in `PolicySet.ranked` is its rank."""

    policy: Policy
    rule: Rule

    @property
    def enforced(self) -> bool:
        return self.policy.mode is Mode.ENFORCE


class PolicySet(msgspec.Struct, frozen=True, kw_only=True):
    """Policies that are applied as one; names are unique."""

    policies: tuple[Policy, ...] = ()

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies)

    def find(self, name: str) -> Policy:
        """The policy of that name. Raises PolicyNotFound."""
        for policy in self.policies:
            if policy.name == name:
                return policy
        raise PolicyNotFound(name, "no policy of this name is applied", hint="aegis policy list names them")

    def with_policy(self, policy: Policy) -> PolicySet:
        """The set with `policy` instead of the one that has its name, or in addition."""
        kept = [each for each in self.policies if each.name != policy.name]
        return PolicySet(policies=tuple(sorted([*kept, policy], key=lambda each: each.name)))

    def without(self, name: str) -> PolicySet:
        """The set without that policy. Raises PolicyNotFound."""
        gone = self.find(name)
        return PolicySet(policies=tuple(each for each in self.policies if each is not gone))

    def ranked(self) -> tuple[RankedRule, ...]:
        """Every rule, the one that decides first at the front."""
        keyed = [
            ((policy.priority, not rule.deny, policy.origin != LOCAL, policy.name, place), policy, rule)
            for policy in self.policies
            for place, rule in enumerate(policy.rules)
        ]
        keyed.sort(key=lambda each: each[0])
        return tuple(RankedRule(policy=policy, rule=rule) for _, policy, rule in keyed)


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """What policy judges, in the initiator's direction. `peer` has 16 bytes, IPv4 mapped.

    `port` is the destination port; of ICMP type << 8 | code; 0 where there is none, and in later fragments.
    """

    direction: Direction
    peer: bytes
    protocol: int
    port: int = 0
    fragment: bool = False

    @property
    def peer_number(self) -> tuple[int, int]:
        """Family and address as a number."""
        if self.peer[:12] == MAPPED:
            return 4, int.from_bytes(self.peer[12:], "big")
        return 6, int.from_bytes(self.peer, "big")

    @property
    def text(self) -> str:
        """In words, for a step of an explanation."""
        port = f" port {self.port}" if self.protocol in {*ANY_WITH_PORTS, 136} and not self.fragment else ""
        if self.protocol in {ICMP, ICMPV6} and not self.fragment:
            port = f" type {self.port >> 8} code {self.port & 255}"
        part = " (later fragment)" if self.fragment else ""
        peer = f"{'to' if self.direction is Direction.EGRESS else 'from'} {address_text(self.peer)}"
        return f"{self.direction.value} {protocol_name(self.protocol)} {peer}{port}{part}"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A five-tuple to explain, as a flow shows it: the source is the initiator. Addresses have 16 bytes."""

    direction: Direction
    protocol: int
    source: bytes
    destination: bytes
    source_port: int = 0
    destination_port: int = 0
    fragment: bool = False

    @property
    def packet(self) -> Packet:
        return Packet(
            direction=self.direction,
            peer=self.destination if self.direction is Direction.EGRESS else self.source,
            protocol=self.protocol,
            port=0 if self.fragment else self.destination_port,
            fragment=self.fragment,
        )


class RuleName(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule number of a record or a flow stands for. `rule` is the path in the policy's document."""

    policy: str
    rule: str
    mode: Mode
    deny: bool


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The deciding rule of the enforcing policies and that of all policies, by rank; None where nothing matches.

    `enforced_denies` and `any_denies` say what each of the two decides.
    """

    enforced: int | None
    any: int | None
    enforced_denies: bool
    any_denies: bool

    @property
    def verdict(self) -> Verdict:
        if self.enforced_denies:
            return Verdict.DENY
        return Verdict.AUDIT if self.any_denies else Verdict.ALLOW

    @property
    def decider(self) -> int | None:
        """Rank of the rule that a flow or a record names for the verdict."""
        if self.enforced_denies:
            return self.enforced
        if self.any_denies or self.enforced is None:
            return self.any
        return self.enforced


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a packet is judged as it is. `path` holds the steps that decided, in words."""

    verdict: Verdict
    policy: str | None
    rule: str | None
    generation: int
    mode: Mode | None
    path: tuple[str, ...]


class PolicyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found of a document that could be applied."""

    name: str
    version: int
    mode: Mode
    priority: int
    rules: int
    image_bytes: int  # of the whole set with this policy


class AppliedRule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule in force and the packets it denied (mode enforce) or would have (observe) under this generation."""

    rule: str
    direction: Direction
    deny: bool
    packets: int
    bytes: int


class AppliedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy in force, or after `remove` the one that was; `generation` is the set's from then on."""

    name: str
    version: int
    mode: Mode
    priority: int
    origin: str
    generation: int
    digest: str  # SHA-256 of the document, hex
    rules: tuple[AppliedRule, ...]


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Where the policies in force judge packets: names of interfaces, and of those where they do not, each with the reason.

    `unattached`: there, to be watched, and not judged. `absent`: to be watched, and not there. `reason`: why nothing can
    be judged at all, whatever the interfaces.
    """

    interfaces: tuple[str, ...] = ()
    unattached: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def state(self) -> Literal["enforced", "partly_enforced", "not_enforced"]:
        """Of a policy in mode observe alike: whether packets are judged by it."""
        if self.reason or not self.interfaces:
            return "not_enforced"
        return "partly_enforced" if self.unattached else "enforced"

    @property
    def text(self) -> str | None:
        """What is not judged and why, in words; None where all of it is."""
        told = [f"{name}: {why}" for name, why in self.unattached]
        if self.absent:
            told.append(f"there is no {', '.join(self.absent)}")
        if self.reason:
            return self.reason
        if not self.interfaces:
            return "; ".join(["no interface carries the packet programs", *told])
        return f"not judged: {'; '.join(told)}" if self.unattached else "; ".join(told) or None


class EnforcementState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the kernel judges packets. `stale`: it does, by a policy this agent cannot name. `reason` says why.

    Not `durable`: what is in force could not be written down as such, and a boot would bring back the set before it.
    """

    state: Literal["none", "observing", "enforcing", "stale", "unavailable"]
    generation: int
    mode: Mode | None = None
    reason: str | None = None
    durable: bool = True
