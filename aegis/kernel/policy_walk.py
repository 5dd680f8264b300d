"""Reads a compiled image as the kernel does (`bpf/include/kern/verdict.bpf.h`), to explain a decision step by step."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from dataclasses import dataclass

from aegis.errors import AbiMismatch
from aegis.kernel import abi
from aegis.kernel.policy_image import DEPTH, NONE, service_key
from aegis.model.policy import Judgement, Packet


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One class asked: its number, what its cell says, and the best choices of all wider prefixes.

    `enforced` and `any` are choices (rank << 1 | deny), AEGIS_CHOICE_NONE where no rule matches.
    """

    owner: int
    enforced: int
    any: int
    above: int
    ends: bool  # no wider prefix can decide better


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """`first` and `last` are the ends of the address interval the peer lies in, in text."""

    first: str
    last: str
    steps: tuple[Step, ...]
    judgement: Judgement


class ImageReader:
    """A compiled image, sections as arrays."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Raises AbiMismatch when the bytes are no image of this format."""
        names = abi.enum("aegis_image")
        if len(data) < abi.struct("aegis_image_header").size:
            raise AbiMismatch("read", "policy image", detail=f"{len(data)} bytes")
        header = abi.unpack("aegis_image_header", data)
        if header.magic != names["AEGIS_IMAGE_MAGIC"] or header.format != names["AEGIS_IMAGE_FORMAT"]:
            raise AbiMismatch("read", "policy image", detail="neither magic nor format agree")
        view = memoryview(data)

        self.rules: int = header.rules
        self.enforced: int = header.enforced
        self.bytes: int = header.bytes
        v4 = view[header.v4 : header.v4 + header.v4_count * 8].cast("I").tolist()
        v6 = view[header.v6 : header.v6 + header.v6_count * 24].cast("Q").tolist()
        self._v4 = (v4[0::2], v4[1::2])
        self._v6 = ([high << 64 | low for high, low in zip(v6[0::3], v6[1::3], strict=True)], v6[2::3])
        classes = view[header.classes : header.classes + header.class_count * 16].cast("I").tolist()
        self._classes = list(zip(*(classes[part::4] for part in range(4)), strict=True))
        cells = view[header.cells : header.cells + header.cell_count * 8].cast("I").tolist()
        self._starts, self._choices = cells[0::2], cells[1::2]

    def judge(self, packet: Packet) -> Judgement:
        """What the kernel decides about the packet."""
        return self.walk(packet).judgement

    def walk(self, packet: Packet) -> Walk:
        """The same with every step."""
        family, address = packet.peer_number
        starts, owners = self._v4 if family == 4 else self._v6
        at = bisect_right(starts, address) - 1
        end = starts[at + 1] if at + 1 < len(starts) else 1 << (32 if family == 4 else 128)
        key = service_key(packet.direction, packet.protocol, packet.port, fragment=packet.fragment)
        steps: list[Step] = []
        enforced = best = NONE
        owner = owners[at]
        while owner and len(steps) < DEPTH:
            cell, count, parent, above = self._classes[owner]
            found = self._choices[bisect_right(self._starts, key, cell, cell + count) - 1]
            enforced = min(enforced, found & NONE)
            best = min(best, found >> 16)
            ends = above & NONE >= best and above >> 16 >= enforced
            steps.append(
                Step(owner=owner, enforced=found & NONE, any=found >> 16, above=above & NONE, ends=ends)
            )
            owner = 0 if ends else parent
        return Walk(
            first=_text(family, starts[at]),
            last=_text(family, end - 1),
            steps=tuple(steps),
            judgement=Judgement(
                enforced=None if enforced == NONE else enforced >> 1,
                any=None if best == NONE else best >> 1,
                enforced_denies=enforced != NONE and bool(enforced & 1),
                any_denies=best != NONE and bool(best & 1),
            ),
        )


def _text(family: int, address: int) -> str:
    if family == 4:
        return str(ipaddress.IPv4Address(address))
    return str(ipaddress.IPv6Address(address))
