"""The ring reader in plain Python: what the compiled one is compared with, for its results and for its speed."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from aegis._native.records import SYNTHETIC

PAGE = mmap.PAGESIZE
LENGTH = struct.Struct("=II")  # the kernel's header of a record: length with two flag bits, page offset
POSITION = struct.Struct("=Q")
RECORD = struct.Struct("=QIHHQQ")  # aegis_header, key, value: the fields an aggregate needs
BUSY, DISCARD = 1 << 31, 1 << 30
RING_HEADER = 8


class PureRing:
    """Reader of a ring of `size` bytes: consumer's page, producer's page, then the data twice in a row.

    The positions are read and written as whole words by CPython's memcpy, which orders nothing by itself: enough on x86,
    where loads and stores keep their order, and where the producer is this process. It is no reader for production.
    """

    def __init__(self, map_fd: int, size: int) -> None:
        self._size = size
        self._consumer = mmap.mmap(map_fd, PAGE)
        self._data = mmap.mmap(map_fd, PAGE + 2 * size, prot=mmap.PROT_READ, offset=PAGE)

    def records(self) -> Iterator[bytes]:
        """Each waiting record's bytes; a record is given back to the ring when the next one is asked for."""
        (at,) = POSITION.unpack_from(self._consumer)
        while at < POSITION.unpack_from(self._data)[0]:
            offset = PAGE + at % self._size
            (length, _) = LENGTH.unpack_from(self._data, offset)
            if length & BUSY:
                return
            size = length & ~DISCARD
            if not length & DISCARD:
                yield self._data[offset + RING_HEADER : offset + RING_HEADER + size]
            at += (size + RING_HEADER + 7) // 8 * 8
            POSITION.pack_into(self._consumer, 0, at)

    def tally(self) -> dict[int, tuple[int, int]]:
        """Count and total of the waiting synthetic records, by key."""
        found: dict[int, tuple[int, int]] = {}
        for record in self.records():
            _, size, kind, _, key, value = RECORD.unpack_from(record)
            if size == len(record) and kind == SYNTHETIC:
                count, total = found.get(key, (0, 0))
                found[key] = (count + 1, (total + value) % 2**64)
        return found

    def close(self) -> None:
        self._data.close()
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
