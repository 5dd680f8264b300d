"""What a DNS answer teaches, in plain Python: the judge of the kernel's own reader, and the reader of our own lookups.

Written from RFC 1035 (messages, compression), RFC 2181 (TTL), RFC 3596 (AAAA) and RFC 4343 (case), and from the rules of
what is believed at all: an answer teaches all its addresses or none. It knows nothing of how the kernel does it.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

A: Final = 1
CNAME: Final = 5
AAAA: Final = 28
IN: Final = 1
HEADER: Final = 12
MOST_BYTES: Final = 4096  # of a message
MOST_NAME_BYTES: Final = 255  # RFC 1035, 2.3.4: lengths and the end included
MOST_RECORDS: Final = 64
MOST_ADDRESSES: Final = 32
MOST_STEPS: Final = 512  # labels, pointers and ends read in one message
MOST_TTL_S: Final = 604_800
AWAITED_S: Final = 20

Name = tuple[bytes, ...]  # labels in lower case, without the empty one at the end

# Never learnt: addresses of this host, this link and groups, and those of metadata services.
_FORBIDDEN: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
        "::/64",
        "fe80::/10",
        "ff00::/8",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/64")
_NAT64_PREFIX: Final = ipaddress.ip_network("64:ff9b::/96")


class Count(enum.StrEnum):
    """What a message counts as; the kernel counts by the same words (enum aegis_name_count)."""

    ASKED = "asked"
    ASKED_OTHER = "asked_other"
    ASKED_ELSEWHERE = "asked_elsewhere"
    ASKED_MALFORMED = "asked_malformed"
    LEARNT = "learnt"
    UNSOLICITED = "unsolicited"
    ELSEWHERE = "elsewhere"
    MISMATCH = "mismatch"
    TRUNCATED = "truncated"
    ERROR = "error"
    EMPTY = "empty"
    MALFORMED = "malformed"
    FOREIGN = "foreign"
    FORBIDDEN = "forbidden"
    TOO_MUCH = "too_much"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked: `type` is A or AAAA, the class IN."""

    name: Name
    type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an answer counts as and teaches: addresses (16 bytes, IPv4 mapped) with their TTLs, in its order."""

    count: Count
    addresses: tuple[tuple[bytes, int], ...] = ()


class _RefusedError(Exception):
    """The answer teaches nothing."""

    def __init__(self, count: Count) -> None:
        super().__init__(count)
        self.count = count


class _Message:
    """Bytes of a message and how many more steps may be taken in its names."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.steps = MOST_STEPS

    def name(self, at: int) -> tuple[Name, int]:
        """The name at `at` and where it ends there. Raises _RefusedError."""
        labels: list[bytes] = []
        size, begin, end = 1, at, None
        while True:
            if not self.steps:
                raise _RefusedError(Count.TOO_MUCH)
            self.steps -= 1
            if at >= len(self.data):
                raise _RefusedError(Count.MALFORMED)
            length = self.data[at]
            if length == 0:
                return tuple(labels), at + 1 if end is None else end
            if length >= 0xC0:
                if at + 1 >= len(self.data):
                    raise _RefusedError(Count.MALFORMED)
                target = (length & 0x3F) << 8 | self.data[at + 1]
                end = at + 2 if end is None else end
                # RFC 1035, 4.1.4: a prior occurrence; so every pointer leads before the piece that has it, and the name of
                # a question can have none.
                if not HEADER <= target < begin:
                    raise _RefusedError(Count.MALFORMED)
                at = begin = target
                continue
            size += length + 1
            if length > 63 or size > MOST_NAME_BYTES or at + 1 + length >= len(self.data):
                raise _RefusedError(Count.MALFORMED)
            labels.append(self.data[at + 1 : at + 1 + length].lower())
            at += 1 + length


def forbidden(address: bytes) -> bool:
    """Whether an address (16 bytes, IPv4 mapped) is never learnt."""
    found = ipaddress.IPv6Address(address)
    if found.ipv4_mapped is not None:
        return any(found.ipv4_mapped in net for net in _FORBIDDEN if net.version == 4)
    if found in _NAT64:
        return found not in _NAT64_PREFIX or forbidden(mapped(address[12:]))
    return any(found in net for net in _FORBIDDEN if net.version == 6)


def mapped(address: bytes) -> bytes:
    """An address of 4 or 16 bytes as 16."""
    return address if len(address) == 16 else bytes(10) + b"\xff\xff" + address


def read_question(data: bytes) -> Question | None:
    """What a query asks; None where it is no query of one question. Raises ValueError where it is no message."""
    if not HEADER <= len(data) <= MOST_BYTES:
        raise ValueError("no DNS message")
    _, flags, questions, answers, _, _ = struct.unpack_from("!6H", data)
    if flags & 0xF800 or questions != 1 or answers:
        raise ValueError("no query of one question")
    try:
        name, end = _Message(data).name(HEADER)
    except _RefusedError as error:
        raise ValueError("its name is malformed") from error
    if end + 4 > len(data):
        raise ValueError("its question is cut short")
    kind, number = struct.unpack_from("!HH", data, end)
    return Question(name=name, type=kind) if number == IN and kind in {A, AAAA} else None


def read_answer(data: bytes, question: Question) -> Outcome:
    """What a message teaches whoever asked `question`; its id is not looked at."""
    try:
        return Outcome(count=Count.LEARNT, addresses=_addresses(data, question))
    except _RefusedError as error:
        return Outcome(count=error.count)


def _addresses(data: bytes, question: Question) -> tuple[tuple[bytes, int], ...]:
    if len(data) < HEADER:
        raise _RefusedError(Count.MALFORMED)
    if len(data) > MOST_BYTES:
        raise _RefusedError(Count.TOO_MUCH)
    message = _Message(data)
    _, flags, questions, answers, _, _ = struct.unpack_from("!6H", data)
    at = _past_question(message, flags, questions, question)
    if flags & 0x0200:
        raise _RefusedError(Count.TRUNCATED)
    if flags & 0x000F:
        raise _RefusedError(Count.ERROR)
    if answers > MOST_RECORDS:
        raise _RefusedError(Count.TOO_MUCH)
    answer = _Answer(message, question)
    for _ in range(answers):
        at = answer.record(at)
    if not answer.found:
        raise _RefusedError(Count.EMPTY)
    return tuple(answer.found)


class _Answer:
    """The records of an answer, one after the other."""

    def __init__(self, message: _Message, question: Question) -> None:
        self.message, self.type = message, question.type
        self.expected = question.name  # whose records are next: the name asked for, then its aliases
        self.least_ttl = MOST_TTL_S
        self.found: list[tuple[bytes, int]] = []

    def record(self, at: int) -> int:
        """Read the record at `at`; where the next one begins."""
        data = self.message.data
        owner, at = self.message.name(at)
        if at + 10 > len(data):
            raise _RefusedError(Count.MALFORMED)
        kind, number, ttl, length = struct.unpack_from("!HHIH", data, at)
        begin, end = at + 10, at + 10 + int(length)
        if end > len(data):
            raise _RefusedError(Count.MALFORMED)
        if kind not in {A, AAAA, CNAME}:
            return end
        if number != IN:
            raise _RefusedError(Count.MALFORMED)
        if owner != self.expected:
            raise _RefusedError(Count.FOREIGN)
        ttl = min(0 if ttl >= 1 << 31 else ttl, self.least_ttl)
        if kind == CNAME:
            self.alias(begin, end, ttl)
        elif length != (4 if kind == A else 16):
            raise _RefusedError(Count.MALFORMED)
        elif kind == self.type:
            self.found.append((_address(data[begin:end]), ttl))
            if len(self.found) > MOST_ADDRESSES:
                raise _RefusedError(Count.TOO_MUCH)
        return end

    def alias(self, begin: int, end: int, ttl: int) -> None:
        if self.found:
            raise _RefusedError(Count.FOREIGN)
        self.expected, behind = self.message.name(begin)
        if behind != end:
            raise _RefusedError(Count.MALFORMED)
        self.least_ttl = ttl


def _past_question(message: _Message, flags: int, questions: int, question: Question) -> int:
    """Where the answer section begins, when the message is a response to the question."""
    if flags & 0xF800 != 0x8000 or questions != 1:
        raise _RefusedError(Count.MISMATCH)
    try:
        name, at = message.name(HEADER)
    except _RefusedError as error:
        raise _RefusedError(Count.MISMATCH) from error
    if len(message.data) < at + 4:
        raise _RefusedError(Count.MISMATCH)
    if (name, *struct.unpack_from("!HH", message.data, at)) != (question.name, question.type, IN):
        raise _RefusedError(Count.MISMATCH)
    return at + 4


def _address(data: bytes) -> bytes:
    address = mapped(data)
    if forbidden(address) or (len(data) == 16 and ipaddress.IPv6Address(data).ipv4_mapped):
        raise _RefusedError(Count.FORBIDDEN)
    return address


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Who talks to whom: addresses of 16 bytes, the client's port, the IP protocol. The server's port is 53."""

    client: bytes
    server: bytes
    port: int
    protocol: int


class Watcher:
    """Questions that leave and answers that come back, as the kernel's hooks see them."""

    def __init__(self, resolvers: Collection[bytes], classify: Callable[[Name], int]) -> None:
        """`resolvers` are those whose answers are believed; `classify` gives a name's class, 0: of no interest."""
        self._resolvers = frozenset(resolvers)
        self._classify = classify
        self._awaited: dict[tuple[Ends, bytes], tuple[Question, int, int]] = {}

    def query(self, ends: Ends, data: bytes, now_s: int = 0) -> Count:
        """A message on its way to a server."""
        if len(data) < HEADER:
            return Count.ASKED_MALFORMED
        if ends.server not in self._resolvers:
            return Count.ASKED_ELSEWHERE
        try:
            question = read_question(data)
        except ValueError:
            return Count.ASKED_MALFORMED
        class_ = 0 if question is None else self._classify(question.name)
        if question is None or not class_:
            return Count.ASKED_OTHER
        self._awaited[ends, data[:2]] = question, class_, now_s + AWAITED_S
        return Count.ASKED

    def answer(self, ends: Ends, data: bytes, now_s: int = 0) -> tuple[Outcome, int]:
        """A message from a server, and the class its addresses are bound to."""
        if len(data) < HEADER:
            return Outcome(count=Count.MALFORMED), 0
        awaited = self._awaited.get((ends, data[:2]))
        if awaited is None or awaited[2] <= now_s:
            known = ends.server in self._resolvers
            return Outcome(count=Count.UNSOLICITED if known else Count.ELSEWHERE), 0
        outcome = read_answer(data, awaited[0])
        if outcome.count is not Count.MISMATCH and len(data) <= MOST_BYTES:
            del self._awaited[ends, data[:2]]
        return outcome, awaited[1] if outcome.count is Count.LEARNT else 0
