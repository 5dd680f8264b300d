"""Blocks: runs of one class of records, the unit that is stored, sent and acknowledged.

    content = [format 1, class, stream, first, boot_id (16), base_ns, [record...], [loss...]]
    loss    = [stage, kind, reason, count]

The records are CBOR already when they get here (`aegis.model.records`) and stay as they are.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import msgspec

FORMAT = 1
BOOT_ID_BYTES = 16
_RECORDS = 6  # where the records stand in the content
_MEMBERS = 8
_ARRAY = 0x80
_LIMIT = 1 << 63
_BASE_NS = 1 << 32  # an instant that is this near to its base has at most five bytes
_FOLLOWING = {24: 1, 25: 2, 26: 4, 27: 8}  # bytes of the length behind a head, by its low five bits

Loss = tuple[str, str, str, int]  # stage, kind, reason, count
EndOf = Callable[[bytes, int, int], int]


class BlockClass(enum.StrEnum):
    """What a block holds; the first goes first."""

    FINDING = "finding"
    VERDICT = "verdict"
    EVENT = "event"
    FLOW = "flow"
    SAMPLE = "sample"


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """`count` records of one class, one CBOR item behind the other; their instants count from `base_ns` (wall clock)."""

    cls: BlockClass
    base_ns: int
    count: int
    records: bytes

    def __len__(self) -> int:
        return self.count


class Block(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Records `first` to `next` of one class in one `stream`, and what is known to be lost between them."""

    cls: BlockClass
    stream: int
    first: int
    count: int
    boot_id: bytes
    base_ns: int
    records: bytes
    losses: tuple[Loss, ...] = ()

    @property
    def next(self) -> int:
        """Sequence number of the first record behind it."""
        return self.first + self.count

    def content(self) -> bytes:
        """The whole block as one CBOR item."""
        import cbor2  # noqa: PLC0415  an agent without a gateway never needs it

        return b"".join(
            (
                head(_ARRAY, _MEMBERS),
                cbor2.dumps(FORMAT),
                *map(
                    cbor2.dumps, (self.cls.value, self.stream, self.first, bytes(self.boot_id), self.base_ns)
                ),
                head(_ARRAY, self.count),
                self.records,
                cbor2.dumps([list(loss) for loss in self.losses]),
            )
        )


def base_of(wall_ns: int) -> int:
    """The base for runs made now. Runs of one class with one base can stand in one block, others cannot."""
    return wall_ns - wall_ns % _BASE_NS


def head(major: int, value: int) -> bytes:
    """The shortest CBOR head: `major` is the type in the upper three bits, `value` a length or number."""
    if value < 24:
        return bytes((major | value,))
    for low, size in _FOLLOWING.items():
        if value < 1 << 8 * size:
            return bytes((major | low,)) + value.to_bytes(size, "big")
    raise OverflowError(f"{value} does not fit a head")


def end_of(data: bytes, offset: int, count: int) -> int:
    """Where `count` CBOR items from `offset` on end, by decoding them. Raises ValueError."""
    import io  # noqa: PLC0415

    import cbor2  # noqa: PLC0415

    stream = io.BytesIO(data)
    stream.seek(offset)
    decoder = cbor2.CBORDecoder(stream)
    try:
        for _ in range(count):
            decoder.decode()
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise ValueError(f"not CBOR between byte {offset} and {stream.tell()}: {error}") from error
    return stream.tell()


def parse(content: bytes, *, end_of: EndOf = end_of) -> Block:
    """The block of a content. Raises ValueError for anything else, with the reason in words.

    `end_of(data, offset, count)` tells where `count` CBOR items end; a native one may be given
    (`aegis._native.transcode.end_of`). That the records are CBOR is looked at, what they mean is not.
    """
    if content[:1] != head(_ARRAY, _MEMBERS):
        raise ValueError("a block is an array of eight")
    records_head = end_of(content, 1, _RECORDS)
    form, name, stream, first, boot_id, base_ns = _loads(content, 1, records_head, _RECORDS)
    if form != FORMAT:
        raise ValueError(f"a block of format {form!r}, not {FORMAT}")
    count, start = _array(content, records_head)
    losses_at = end_of(content, start, count)
    end = end_of(content, losses_at, 1)
    if end != len(content):
        raise ValueError(f"{len(content) - end} bytes behind the block")
    return Block(
        cls=BlockClass(name),
        stream=_number("stream", stream, 0),
        first=_number("first", first, 0),
        count=count,
        boot_id=_boot_id(boot_id),
        base_ns=_number("base_ns", base_ns, -_LIMIT),
        records=content[start:losses_at],
        losses=_losses(_loads(content, losses_at, end, 1)[0]),
    )


def _loads(content: bytes, start: int, end: int, count: int) -> list[Any]:
    """The `count` items between two offsets, fewer than 24."""
    import cbor2  # noqa: PLC0415

    try:
        found: list[Any] = cbor2.loads(head(_ARRAY, count) + content[start:end])
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise ValueError(f"not CBOR between byte {start} and {end}: {error}") from error
    return found


def _array(content: bytes, at: int) -> tuple[int, int]:
    """Members of the array whose head is there, and where the first begins."""
    lead = content[at] if at < len(content) else 0
    low = lead & 0x1F
    if lead & 0xE0 != _ARRAY or (low >= 24 and low not in _FOLLOWING):
        raise ValueError(f"no array of definite length at byte {at}")
    behind = at + 1 + _FOLLOWING.get(low, 0)
    if behind > len(content):
        raise ValueError(f"cut short at byte {at}")
    return (low if low < 24 else int.from_bytes(content[at + 1 : behind], "big")), behind


def _number(what: str, value: object, least: int) -> int:
    if type(value) is not int or not least <= value < _LIMIT:
        raise ValueError(f"{what} is {value!r}")
    return value


def _boot_id(value: object) -> bytes:
    if type(value) is not bytes or len(value) != BOOT_ID_BYTES:
        raise ValueError(f"the boot id is not {BOOT_ID_BYTES} bytes")
    return value


def _losses(found: object) -> tuple[Loss, ...]:
    try:
        return msgspec.convert(found, tuple[Loss, ...])
    except msgspec.ValidationError as error:
        raise ValueError(f"losses: {error}") from error
