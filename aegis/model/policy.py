"""Policies: what a document says, what is asked of a set of them, and what is known about an applied one.

A rule matches a packet by the initiator's direction, the peer's address (remote for egress and ingress alike) or a name
it is known by, and the service: protocol and destination port, or ICMP type; and only packets of the policy's subject,
until the policy expires. Rules are ordered by (priority, deny before allow, local before gateway, policy name, place in the
document); the first that matches decides. Where none matches, the first policy (in the same order) that denies by default
for the packet's direction and subject does, and without one the packet is allowed. Policies in mode `observe`
never change what passes: they only say what would have happened.
"""

from __future__ import annotations

import enum
import ipaddress
import itertools
from collections.abc import Iterator
from typing import Literal

import msgspec

from aegis.errors import PolicyNotFound
from aegis.model.flow import Verdict
from aegis.model.net import MAPPED, Direction, address_text, protocol_name
from aegis.model.policy_selectors import NameSelector, Subject

LOCAL = "local"  # the origin of what is applied on the host; the other one is `gateway`
DEFAULT_PRIORITY = 1000
MAX_PRIORITY = 1_000_000
MAX_RULES = 131_072  # of the policies of a host together
MAX_SUBJECTS = 63  # different ones, beside everybody
MAX_EXPIRIES = 64  # different instants
EVERYBODY = 1  # the bit of a subject mask that every packet has

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
ANY_WITH_PORTS = (TCP, UDP, SCTP)  # what protocol ANY means beside a port
LAST_PORT = 65535


class Mode(enum.StrEnum):
    OBSERVE = "observe"  # deny is counted and reported as `audit`; the packet passes
    ENFORCE = "enforce"


class Prefix(msgspec.Struct, frozen=True, order=True, gc=False):
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


class AddressBlock(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of toCIDRSet or fromCIDRSet: a prefix without the exceptions, which all lie in it."""

    cidr: Prefix
    exceptions: tuple[Prefix, ...] = ()


class Ports(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of toPorts: `protocol` None is ANY; `first` None is every port, and what has no ports."""

    protocol: int | None
    first: int | None = None
    last: int | None = None


class IcmpType(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of icmps: a type of ICMP (family 4) or ICMPv6 (family 6), any code."""

    family: int
    type: int


class Rule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of egress, ingress, egressDeny or ingressDeny. `path` is its name: `egressDeny[0]`.

    Neither blocks nor names: every peer of both families; never both. Neither ports nor icmps: every service; never both.
    """

    path: str
    line: int
    direction: Direction
    deny: bool
    blocks: tuple[AddressBlock, ...] = ()
    names: tuple[NameSelector, ...] = ()
    ports: tuple[Ports, ...] = ()
    icmps: tuple[IcmpType, ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One HostNetworkPolicy. `document` is what it was read from.

    `subject` None is everybody. `default_deny`: the directions in which what no rule of any policy matches is denied to the
    subject; egress before ingress. `expires_ms`: from this instant on (Unix time) the policy says nothing; None: never.
    """

    name: str
    version: int
    mode: Mode
    priority: int
    rules: tuple[Rule, ...]
    origin: str = LOCAL
    document: bytes = b""
    subject: Subject | None = None
    subject_line: int = 0
    default_deny: tuple[Direction, ...] = ()
    default_line: int = 0
    expires_ms: int | None = None

    def default_rules(self) -> tuple[Rule, ...]:
        """Its defaults as rules: they match what their direction has, and stand behind all rules of all policies."""
        return tuple(
            Rule(path=f"default.{each.value}", line=self.default_line, direction=each, deny=True)
            for each in self.default_deny
        )


class RankedRule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A rule in the order that decides: its position in `PolicySet.ranked` is its rank."""

    policy: Policy
    rule: Rule
    default: bool = False

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
        """Every rule, the one that decides first at the front, and behind them the defaults of policies."""
        ordered = sorted(self.policies, key=lambda each: (each.priority, each.origin != LOCAL, each.name))
        ranked: list[RankedRule] = []
        for _, group in itertools.groupby(ordered, key=lambda each: each.priority):
            level = list(group)
            for deny in (True, False):
                ranked += [
                    RankedRule(policy=policy, rule=rule)
                    for policy in level
                    for rule in policy.rules
                    if rule.deny is deny
                ]
        ranked += [
            RankedRule(policy=policy, rule=rule, default=True)
            for policy in ordered
            for rule in policy.default_rules()
        ]
        return tuple(ranked)

    def subjects(self) -> tuple[Subject, ...]:
        """The different subjects: bit n + 1 of a subject mask is the one with index n, bit 0 is everybody."""
        return tuple(sorted({each.subject for each in self.policies if each.subject is not None}))

    def names(self) -> tuple[NameSelector, ...]:
        """The different entries of toFQDNs; a selector's number is its index."""
        return tuple(
            sorted({name for policy in self.policies for rule in policy.rules for name in rule.names})
        )


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """What policy judges, in the initiator's direction. `peer` has 16 bytes, IPv4 mapped.

    `port` is the destination port; of ICMP type << 8 | code; 0 where there is none, and in later fragments. `subjects` is
    the mask of those it belongs to (bits: `PolicySet.subjects`), `names` are those its peer is known by, `now_ms`
    is the time, as `expires_ms` has it.
    """

    direction: Direction
    peer: bytes
    protocol: int
    port: int = 0
    fragment: bool = False
    subjects: int = EVERYBODY
    names: tuple[str, ...] = ()
    now_ms: int = 0

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
    On `trial`: unless it is confirmed until `confirm_by_ms` (Unix), the kernel goes back to the set before it.
    """

    state: Literal["none", "observing", "enforcing", "trial", "stale", "unavailable"]
    generation: int
    mode: Mode | None = None
    reason: str | None = None
    durable: bool = True
    confirm_by_ms: int | None = None


class PastSet(msgspec.Struct, frozen=True, kw_only=True):
    """A set of policies that is or was in force: each policy's origin, name, version and SHA-256."""

    generation: int
    since_ms: int  # Unix time of its switch; 0: not known
    state: Literal["trial", "in_force", "past"]
    policies: tuple[tuple[str, str, int, str], ...]
