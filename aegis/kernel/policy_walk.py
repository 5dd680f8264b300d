"""Reads a compiled image as the kernel does (`bpf/include/kern/verdict.bpf.h`), to explain a decision step by step."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aegis.errors import AbiMismatch
from aegis.kernel import abi
from aegis.kernel.policy_image import CHOICE_BITS, DEADLINE_SHIFT, DEPTH, NONE, service_key
from aegis.model.policy import Judgement, Packet

PAIR_BITS = 2 * CHOICE_BITS
_PAIR = (1 << PAIR_BITS) - 1
_WORDS = abi.enum("aegis_image_word")
_CLASS_SHIFT, _FAMILY_SHIFT = _WORDS["AEGIS_WORD_CLASS_SHIFT"], _WORDS["AEGIS_WORD_FAMILY_SHIFT"]
_NONE_PAIR = NONE << CHOICE_BITS | NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One class asked: its number, what its cell says, and the best choices of all wider prefixes.

    `enforced` and `any` are choices (rank << 1 | deny), AEGIS_CHOICE_NONE where no rule matches. `subject` is the bit of
    those it is about, `deadline` the number of the instant at which it ends (0: never), `named` whether it is about a
    name of the peer. `first` and `last` are the ends of the address interval the peer lies in, in text; empty for a name.
    """

    owner: int
    enforced: int
    any: int
    above: int
    ends: bool  # no wider prefix can decide better
    subject: int
    deadline: int
    first: str = ""
    last: str = ""

    @property
    def named(self) -> bool:
        return not self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """`parts`: subject bit, deadline and address interval of each part asked. `timed`: a rule that ends has a say."""

    parts: tuple[tuple[int, int, str, str], ...]
    steps: tuple[Step, ...]
    judgement: Judgement
    timed: bool


class _Part:
    """One part, its sections as arrays."""

    def __init__(self, view: memoryview, word: int, part: Any) -> None:
        self.word = word
        self.defaults = tuple(part.defaults)
        v4 = view[part.v4 : part.v4 + part.v4_count * 8].cast("I").tolist()
        v6 = view[part.v6 : part.v6 + part.v6_count * 24].cast("Q").tolist()
        self.v4 = (v4[0::2], v4[1::2])
        self.bits = part.v4_bits
        self.index = view[part.v4_index : part.v4_index + 4 * ((1 << part.v4_bits) + 1)].cast("I").tolist()
        self.v6 = ([high << 64 | low for high, low in zip(v6[0::3], v6[1::3], strict=True)], v6[2::3])

    def place(self, family: int, address: int) -> tuple[int, int, int]:
        """The interval an address lies in: its start, the start of the next one, and its class."""
        starts, owners = self.v4 if family == 4 else self.v6
        low, high = 0, len(starts) - 1
        if family == 4:
            bucket = address >> (32 - self.bits)
            low, high = self.index[bucket], self.index[bucket + 1]
        at = bisect_right(starts, address, low, high + 1) - 1
        end = starts[at + 1] if at + 1 < len(starts) else 1 << (32 if family == 4 else 128)
        return starts[at], end, owners[at]


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
        self._view = memoryview(data)
        self._header = header
        self.rules: int = header.rules
        self.enforced: int = header.enforced
        self.bytes: int = header.bytes
        self.subjects: int = header.subjects
        self.deadlines = self._words(header.deadlines, header.deadline_count)
        self._classes = self._words(header.classes, 2 * header.class_count)
        self._cells = self._words(header.cells, header.cell_count)
        self._names = self._words(header.names, header.name_count)
        self._name_words = self._words(header.name_words, header.name_word_count)

    def _words(self, at: int, count: int) -> list[int]:
        return self._view[at : at + 8 * count].cast("Q").tolist()

    @cached_property
    def _parts(self) -> list[_Part]:
        header = self._header
        size = abi.struct("aegis_image_part").size
        directory = self._words(header.parts, header.part_count)
        first = header.parts + 8 * header.part_count
        return [
            _Part(
                self._view,
                word,
                abi.unpack(
                    "aegis_image_part", self._view[first + number * size : first + (number + 1) * size]
                ),
            )
            for number, word in enumerate(directory)
        ]

    def judge(self, packet: Packet, *, names: int = 0, boot_epoch_ms: int = 0) -> Judgement:
        """What the kernel decides about the packet; `names` are the name classes of its peer."""
        return self.walk(packet, names=names, boot_epoch_ms=boot_epoch_ms).judgement

    def expired(self, boot_ms: int) -> int:
        """How many of the instants at which rules end have passed."""
        return bisect_right(self.deadlines, boot_ms)

    def walk(self, packet: Packet, *, names: int = 0, boot_epoch_ms: int = 0) -> Walk:
        """The same with every step."""
        family, address = packet.peer_number
        key = service_key(packet.direction, packet.protocol, packet.port, fragment=packet.fragment)
        expired = self.expired(packet.now_ms - boot_epoch_ms)
        steps: list[Step] = []
        parts = []
        best, timed = _NONE_PAIR, False

        def applies(word: int) -> bool:
            deadline = word >> DEADLINE_SHIFT & 0xFF
            only = word >> _FAMILY_SHIFT & 3
            if only and only != (1 if family == 4 else 2):
                return False
            return bool((packet.subjects | 1) >> (word & 63) & 1) and (not deadline or deadline > expired)

        for part in self._parts:
            if not applies(part.word):
                continue
            start, end, owner = part.place(family, address)
            ends = _text(family, start), _text(family, end - 1)
            parts.append((part.word & 63, part.word >> DEADLINE_SHIFT & 0xFF, *ends))
            before, depth = best, 0
            while owner and depth < DEPTH:
                step, best, owner = self._step(owner, key, best, part.word, ends)
                steps.append(step)
                depth += 1
            best = _better(best, part.defaults[key >> 25])
            timed |= before != best and bool(part.word >> DEADLINE_SHIFT & 0xFF)
        while names:
            number, names = names & 0xFFFF, names >> 16
            if not 0 < number <= len(self._names):
                continue
            first, count = self._names[number - 1] >> 32, self._names[number - 1] & 0xFFFFFFFF
            for word in filter(applies, self._name_words[first : first + count]):
                before = best
                step, best, _ = self._step(word >> _CLASS_SHIFT & 0xFFFFFFFF, key, best, word, ("", ""))
                steps.append(step)
                timed |= before != best and bool(word >> DEADLINE_SHIFT & 0xFF)
        enforced, any_ = best & NONE, best >> CHOICE_BITS
        return Walk(
            parts=tuple(parts),
            steps=tuple(steps),
            timed=timed,
            judgement=Judgement(
                enforced=None if enforced == NONE else enforced >> 1,
                any=None if any_ == NONE else any_ >> 1,
                enforced_denies=enforced != NONE and bool(enforced & 1),
                any_denies=any_ != NONE and bool(any_ & 1),
            ),
        )

    def _step(
        self, owner: int, key: int, best: int, word: int, ends: tuple[str, str]
    ) -> tuple[Step, int, int]:
        """Ask one class; the best pair then and the class to ask next."""
        where, above = self._classes[2 * owner : 2 * owner + 2]
        cell, parent = where & 0xFFFFFFFF, where >> 32
        count, above = above >> PAIR_BITS, above & _PAIR
        last = (key << PAIR_BITS) | _PAIR
        pair = self._cells[bisect_right(self._cells, last, cell, cell + count) - 1] & _PAIR
        best = _better(best, pair)
        over = _better(best, above) == best
        step = Step(
            owner=owner,
            enforced=pair & NONE,
            any=pair >> CHOICE_BITS,
            above=above >> CHOICE_BITS,
            ends=over,
            subject=word & 63,
            deadline=word >> DEADLINE_SHIFT & 0xFF,
            first=ends[0],
            last=ends[1],
        )
        return step, best, 0 if over else parent


def _better(one: int, other: int) -> int:
    """The better of both halves of two pairs."""
    return min(one >> CHOICE_BITS, other >> CHOICE_BITS) << CHOICE_BITS | min(one & NONE, other & NONE)


def _text(family: int, address: int) -> str:
    if family == 4:
        return str(ipaddress.IPv4Address(address))
    return str(ipaddress.IPv6Address(address))
