"""Rows found page by page, whatever the tree above them says: one wrong bit in an inner page would hide every row below it.

A leaf of SQLite's table trees: type 13, u16 first free block, u16 cells, u16 begin of the cells, u8, then a u16 offset
for each cell. A cell: varint bytes of the record, varint id, the record's front, and where it is long u32 the page with the
rest. What a page says is believed as far as the seal of its row opens. Pages of the list of free pages hold rows
that were deleted, so without a sound list nothing is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from aegis.agent.outbox.database import PAGE, place
from aegis.agent.outbox.rows import Key
from aegis.errors import SpoolCorrupt
from aegis.model.block import Block, BlockClass

Spot = tuple[int, int]  # number of a page, offset of a cell in it

_LEAF: Final = 13
_HEAD: Final = 8
_MOST_LOCAL: Final = PAGE - 35  # bytes of a record that are all on its leaf
_LEAST_LOCAL: Final = (PAGE - 12) * 32 // 255 - 23
_REST: Final = PAGE - 4  # of a record, on a page it flows over to
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # kinds of values that are numbers, and their bytes
_COLUMNS: Final = 5


class Pages:
    """A database file without a log, read only. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._pages = os.fstat(self._number).st_size // PAGE

    def close(self) -> None:
        os.close(self._number)

    def rows(self, key: Key) -> Iterator[tuple[BlockClass, int, Spot]]:
        """Class, seq and spot of each row that opens, as its seal says."""
        free = self._free()
        for number in range(2, self._pages + 1 if free is not None else 0):
            page = self._page(number)
            if page[0] != _LEAF or (free is not None and number in free):
                continue
            begin = _u16(page, 5)
            for at in range(_HEAD, min(_HEAD + 2 * _u16(page, 3), PAGE - 1), 2):
                if (offset := _u16(page, at)) < begin:
                    continue  # what stands before the cells was deleted
                found = self.row(key, (number, offset))
                if found is not None:
                    yield found[0], found[1], (number, offset)

    def row(self, key: Key, spot: Spot) -> tuple[BlockClass, int, Block, int] | None:
        """Class, seq, block and `upto` of the row there; None where none opens."""
        try:
            identity, stream, first, sealed = self._cell(*spot)
            said = place(identity)
            return key.find(None if said is None else said[0], stream, first, sealed)
        except (IndexError, ValueError, SpoolCorrupt):
            return None

    def spots(self, spot: Spot) -> list[int]:
        """The pages with bytes of the row there. Raises ValueError, IndexError."""
        chain = [spot[0]]
        self._cell(*spot, chain)
        return chain

    def _cell(self, number: int, offset: int, chain: list[int] | None = None) -> tuple[int, int, int, bytes]:
        """Id, stream, first and seal. Raises ValueError, IndexError for what is no row's."""
        page = self._page(number)
        size, at = _varint(page, offset)
        identity, at = _varint(page, at)
        if size > self._pages * PAGE:
            raise ValueError("larger than the file")
        local = size
        if size > _MOST_LOCAL:
            local = _LEAST_LOCAL + (size - _LEAST_LOCAL) % _REST
            local = local if local <= _MOST_LOCAL else _LEAST_LOCAL
        if at + local > PAGE:
            raise ValueError("beyond the page")
        parts, left, next_ = (
            [page[at : at + local]],
            size - local,
            _u32(page, at + local) if size > local else 0,
        )
        while left > 0:
            rest = self._page(next_)
            if chain is not None:
                chain.append(next_)
            parts.append(rest[4 : 4 + left])
            left, next_ = left - _REST, _u32(rest, 0)
        return identity, *_values(b"".join(parts))

    def _free(self) -> set[int] | None:
        """The free pages; None where their list does not hold together."""
        head = self._page(1)
        trunk, count = _u32(head, 32), _u32(head, 36)
        free: set[int] = set()
        while trunk:
            if trunk in free or not 1 < trunk <= self._pages:
                return None
            page = self._page(trunk)
            leaves = [_u32(page, 8 + 4 * at) for at in range(min(_u32(page, 4), PAGE // 4 - 2))]
            free.update((trunk, *leaves))
            trunk = _u32(page, 0)
        return free if len(free) == count else None

    def _page(self, number: int) -> bytes:
        page = os.pread(self._number, PAGE, (number - 1) * PAGE) if 0 < number <= self._pages else b""
        if len(page) < PAGE:
            raise ValueError(f"no page {number}")
        return page


def _values(record: bytes) -> tuple[int, int, bytes]:
    """Stream, first and seal of a record."""
    head, at = _varint(record, 0)
    kinds = []
    for _ in range(_COLUMNS):
        kind, at = _varint(record, at)
        kinds.append(kind)
    at = head
    numbers = []
    for kind in kinds[:-1]:
        size = _INTEGERS.get(kind, 0)
        value = int.from_bytes(record[at : at + size], "big", signed=True) if size else int(kind == 9)
        numbers.append(value)
        at += size
    seal = kinds[-1]
    if seal < 12 or seal % 2:
        raise ValueError("no blob")
    return numbers[1], numbers[2], record[at : at + (seal - 12) // 2]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to nine bytes, seven bits each and all eight of the ninth, and where it ends."""
    value = 0
    for count in range(9):
        byte = data[at + count]
        if count == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    raise AssertionError


def _u16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
