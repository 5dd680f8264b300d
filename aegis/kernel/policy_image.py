"""Compiles a set of policies into the block of bytes that the kernel reads (`bpf/include/aegis/policy.h`).

Addresses: nested prefixes are flattened into sorted disjoint intervals, each of which names a class. A class is one
prefix with its own rules only, as sorted disjoint cells over the service key; it names the class of the next wider
prefix, and the best choice of all wider ones, so that a walk outward ends early. Memory is linear in the rules.

Pure, total and deterministic: the same set gives the same bytes, whatever the order of its policies.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.model.net import Direction
from aegis.model.policy import (
    ANY_WITH_PORTS,
    ICMP,
    ICMPV6,
    LAST_PORT,
    MAX_RULES,
    AddressBlock,
    PolicySet,
    Prefix,
    RankedRule,
    Rule,
)

NONE: int = abi.enum("aegis_image")["AEGIS_CHOICE_NONE"]
DEPTH: int = abi.enum("aegis_image")["AEGIS_IMAGE_DEPTH"]
INDEX_BITS: int = abi.enum("aegis_image")["AEGIS_IMAGE_V4_BITS"]
DIRECTIONS = {Direction.EGRESS: abi.EGRESS, Direction.INGRESS: abi.INGRESS}

# The service key: direction | fragment | protocol | port.
DIRECTION_SHIFT, FRAGMENT_BIT, PROTOCOL_SHIFT = 25, 1 << 24, 16
_EVERYTHING = (1 << DIRECTION_SHIFT) - 1

Interval = tuple[int, int]  # first and last, both inside
Network = tuple[int, int]  # address and prefix length


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledImage:
    """`data` as the kernel reads it, its SHA-256 in hex, and the rules by rank."""

    data: bytes
    digest: str
    rules: tuple[RankedRule, ...]

    @property
    def enforced(self) -> int:
        """Rules of policies in mode enforce."""
        return sum(each.enforced for each in self.rules)


@dataclass(slots=True)
class _Class:
    """`ranks` are its own rules, best first; `above` and `above_enforced` the best choices of wider prefixes."""

    family: int
    ranks: tuple[int, ...]
    parent: int
    above: int
    above_enforced: int


def compile_policies(policies: PolicySet) -> CompiledImage:
    """Compile a set. Raises PolicyUnenforceable when it has too many rules, nests too deep or needs too many bytes."""
    rules = policies.ranked()
    if len(rules) > MAX_RULES:
        extra = rules[MAX_RULES]
        raise PolicyUnenforceable(
            f"spec.{extra.rule.path}",
            f"the policies of this host have {len(rules)} rules together, more than {MAX_RULES}",
            line=extra.rule.line,
        )
    classes = [_Class(0, (), 0, NONE, NONE)]
    data = _assemble(rules, classes, *(_flatten(rules, family, classes) for family in (4, 6)))
    if len(data) > abi.IMAGE_BYTES:
        raise PolicyUnenforceable(
            "spec", f"the compiled policies need {len(data)} bytes, more than {abi.IMAGE_BYTES}"
        )
    return CompiledImage(data=data, digest=hashlib.sha256(data).hexdigest(), rules=rules)


def choice(rank: int, *, deny: bool) -> int:
    """What cells and classes store of a rule: the smaller one decides."""
    return rank << 1 | deny


def service_key(direction: Direction, protocol: int, port: int, *, fragment: bool) -> int:
    """The key of a packet's service."""
    key = DIRECTIONS[direction] << DIRECTION_SHIFT | protocol << PROTOCOL_SHIFT | port
    return key | FRAGMENT_BIT if fragment else key


def services(rule: Rule, family: int) -> list[Interval]:
    """The service keys a rule is about, for peers of one family; may overlap.

    A later fragment carries no ports: a denial takes it by protocol, an allowance only if it covers every port.
    """
    base = DIRECTIONS[rule.direction] << DIRECTION_SHIFT
    if not rule.ports and not rule.icmps:
        return [(base, base | _EVERYTHING)]
    found: list[Interval] = []

    def add(protocol: int, first: int, last: int, *, whole: bool) -> None:
        start = base | protocol << PROTOCOL_SHIFT
        found.append((start | first, start | last))
        if whole or rule.deny:
            found.append((start | FRAGMENT_BIT, start | FRAGMENT_BIT | LAST_PORT))

    for ports in rule.ports:
        if ports.first is not None and ports.last is not None:
            for protocol in ANY_WITH_PORTS if ports.protocol is None else (ports.protocol,):
                add(protocol, ports.first, ports.last, whole=False)
        elif ports.protocol is None:
            return [(base, base | _EVERYTHING)]
        else:
            add(ports.protocol, 0, LAST_PORT, whole=True)
    for each in rule.icmps:
        if each.family == family:
            add(ICMP if family == 4 else ICMPV6, each.type << 8, each.type << 8 | 255, whole=False)
    return found


def networks(blocks: tuple[AddressBlock, ...], family: int) -> list[Network]:
    """The prefixes of one family that make up the blocks, exceptions carved out; every address without blocks."""
    if not blocks:
        return [(0, 0)]
    found: list[Network] = []
    for block in blocks:
        if block.cidr.family == family:
            found += _carve(block.cidr, block.exceptions)
    return found


def _carve(cidr: Prefix, exceptions: tuple[Prefix, ...]) -> list[Network]:
    """`cidr` without the exceptions, as the fewest prefixes."""
    found: list[Network] = []
    reached = cidr.address
    for each in sorted(exceptions):
        if each.address > reached:
            found += _cover(reached, each.address - 1, cidr.bits)
        reached = max(reached, each.last + 1)
    if reached <= cidr.last:
        found += _cover(reached, cidr.last, cidr.bits)
    return found


def _cover(first: int, last: int, bits: int) -> list[Network]:
    """The fewest prefixes that hold exactly first to last."""
    found: list[Network] = []
    while first <= last:
        aligned = first & -first or 1 << bits
        size = min(aligned, 1 << ((last - first + 1).bit_length() - 1))
        found.append((first, bits - size.bit_length() + 1))
        first += size
    return found


def _flatten(
    rules: tuple[RankedRule, ...],
    family: int,
    classes: list[_Class],
) -> list[tuple[int, int]]:
    """Address intervals of a family as (start, class), the first at 0; adds the classes they need.

    Prefixes with the same rules and the same parent share a class.
    """
    known: dict[tuple[tuple[int, ...], int], int] = {}
    owners: dict[Network, list[int]] = {}
    for rank, each in enumerate(rules):
        if services(each.rule, family):
            for network in set(networks(each.rule.blocks, family)):
                owners.setdefault(network, []).append(rank)
    bits = 32 if family == 4 else 128
    starts: list[tuple[int, int]] = [(0, 0)]
    stack: list[tuple[int, int]] = []  # last address and class of every prefix around the present one

    def begin(address: int, number: int) -> None:
        if starts[-1][0] == address:
            starts.pop()
        if not starts or starts[-1][1] != number:
            starts.append((address, number))

    for (address, length), ranks in sorted(owners.items()):
        while stack and stack[-1][0] < address:
            last, _ = stack.pop()
            begin(last + 1, stack[-1][1] if stack else 0)
        if len(stack) == DEPTH:
            first = rules[ranks[0]]
            raise PolicyUnenforceable(
                f"spec.{first.rule.path}",
                f"{Prefix(family, address, length).text} (policy {first.policy.name}) lies in {DEPTH} other prefixes that"
                f" carry rules; at most {DEPTH} may nest",
                line=first.rule.line,
            )
        parent = stack[-1][1] if stack else 0
        key = (tuple(ranks), parent)
        if key not in known:
            known[key] = len(classes)
            classes.append(_class_in(classes[parent], parent, key[0], family, rules))
        number = known[key]
        begin(address, number)
        stack.append((address | ((1 << (bits - length)) - 1), number))
    while stack:
        last, _ = stack.pop()
        if last + 1 < 1 << bits:
            begin(last + 1, stack[-1][1] if stack else 0)
    return starts


def _class_in(
    wider: _Class, parent: int, ranks: tuple[int, ...], family: int, rules: tuple[RankedRule, ...]
) -> _Class:
    """A class with these rules whose next wider prefix is of class `wider`, number `parent`."""
    own = [(choice(rank, deny=rules[rank].rule.deny), rules[rank].enforced) for rank in wider.ranks]
    return _Class(
        family=family,
        ranks=ranks,
        parent=parent,
        above=min([wider.above, *(value for value, _ in own)]),
        above_enforced=min([wider.above_enforced, *(value for value, enforced in own if enforced)]),
    )


def _cells(ranks: tuple[int, ...], family: int, rules: tuple[RankedRule, ...]) -> list[tuple[int, int, int]]:
    """Cells of one class as (start key, best enforced choice, best choice), the first at key 0."""
    spans = [(rank, interval) for rank in ranks for interval in services(rules[rank].rule, family)]
    points = sorted({0, *(first for _, (first, _) in spans), *(last + 1 for _, (_, last) in spans)})
    everything = _paint(points, spans, rules)
    enforced = _paint(points, [span for span in spans if rules[span[0]].enforced], rules)
    cells: list[tuple[int, int, int]] = []
    for start, one, other in zip(points, enforced, everything, strict=True):
        if not cells or cells[-1][1:] != (one, other):
            cells.append((start, one, other))
    return cells


def _paint(points: list[int], spans: list[tuple[int, Interval]], rules: tuple[RankedRule, ...]) -> list[int]:
    """The best choice from each point to the next. Spans come best first, so each paints only what is still bare."""
    bare = list(range(len(points) + 1))  # bare[i]: i where it is bare, else nearer to the next bare one
    painted = [NONE] * len(points)
    for rank, (first, last) in spans:
        value = choice(rank, deny=rules[rank].rule.deny)
        end = bisect_left(points, last + 1)
        at = bisect_left(points, first)
        while True:
            while bare[at] != at:
                bare[at] = bare[bare[at]]
                at = bare[at]
            if at >= end:
                break
            painted[at] = value
            bare[at] = at + 1
    return painted


def _index(v4: list[tuple[int, int]]) -> tuple[int, list[int]]:
    """Leading bits of the index over the IPv4 intervals, and its entries."""
    bits = min(INDEX_BITS, (len(v4) - 1).bit_length())
    starts = [start for start, _ in v4]
    entries = [bisect_right(starts, bucket << (32 - bits)) - 1 for bucket in range(1 << bits)]
    return bits, [*entries, len(v4) - 1]


def _assemble(
    rules: tuple[RankedRule, ...],
    classes: list[_Class],
    v4: list[tuple[int, int]],
    v6: list[tuple[int, int]],
) -> bytes:
    """Lay the sections out behind the header, each on a multiple of 8 bytes."""
    cells = array("I")
    count = 0
    placed: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}
    table = array("I")
    for each in classes:
        # Only ICMP means something else in the other family.
        apart = any(rules[rank].rule.icmps for rank in each.ranks)
        key = (each.family if apart else 0, each.ranks)
        if key not in placed:
            found = _cells(each.ranks, each.family, rules)
            placed[key] = (count, len(found))
            count += len(found)
            for start, enforced, best in found:
                cells.extend((start, enforced | best << 16))
        table.extend((*placed[key], each.parent, each.above | each.above_enforced << 16))
    bits, index = _index(v4)
    sections = {
        "v4_index": array("I", index).tobytes(),
        "v4": array("I", [word for pair in v4 for word in pair]).tobytes(),
        "v6": array(
            "Q", [word for start, number in v6 for word in (start >> 64, start & (1 << 64) - 1, number)]
        ).tobytes(),
        "classes": table.tobytes(),
        "cells": cells.tobytes(),
    }
    offsets: dict[str, int] = {}
    at = abi.struct("aegis_image_header").size
    body = b""
    for name, data in sections.items():
        offsets[name] = at
        padded = data + bytes(-len(data) % 8)
        body += padded
        at += len(padded)
    header = abi.pack(
        "aegis_image_header",
        magic=abi.enum("aegis_image")["AEGIS_IMAGE_MAGIC"],
        format=abi.enum("aegis_image")["AEGIS_IMAGE_FORMAT"],
        bytes=at,
        rules=len(rules),
        enforced=sum(each.enforced for each in rules),
        v4_bits=bits,
        v4_count=len(v4),
        v6_count=len(v6),
        class_count=len(classes),
        cell_count=count,
        **offsets,
    )
    return header + body
