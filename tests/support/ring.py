"""A ring of the tests' own, filled through the sensors' emit function by a program that runs when told to."""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Self

from aegis.kernel import abi
from aegis.kernel.constants import Constants
from aegis.kernel.object import BpfObject

RAW_BYTES = 248
OVERHEAD = 8  # the kernel's header before each record of the ring


class ProbeRing:
    """Object `probe_ring`, loaded: `flood()` and `raw()` fill the ring, `shared` is its struct aegis_reader."""

    def __init__(self, ring_bytes: int = 1 << 20, *, reserved: int = 0) -> None:
        constants = Constants(agent_tgid=0, ring_bytes=ring_bytes, ring_reserved_bytes=reserved)
        self.ring_bytes = ring_bytes
        self.room = ring_bytes // (abi.struct("aegis_synthetic").size + OVERHEAD)
        self._next = 0
        self._object = BpfObject.open("probe_ring", constants=constants, map_sizes={"aegis_ring": ring_bytes})
        try:
            self._object.load()
            self.fd = self._object.map("aegis_ring").fd
            self.shared = self._object.map("aegis_reader").mmap(writable=True)
        except BaseException:
            self._object.close()
            raise

    def flood(
        self, count: int, *, keys: int = 10_007, urgent: bool = False, first: int | None = None
    ) -> None:
        """Attempt `count` synthetic records on the calling CPU; values go on from the last call's, or from `first`."""
        start = self._next if first is None else first
        self._next = start + count
        context = struct.pack("=QQQQ", count, keys, start, urgent)
        assert self._object.program("probe_ring_flood").run(ctx=context).retval == 0

    def raw(self, record: bytes) -> None:
        """Put bytes into the ring as they are, uncounted."""
        context = struct.pack("=Q", len(record)) + record.ljust(RAW_BYTES, b"\0")
        assert self._object.program("probe_ring_raw").run(ctx=context).retval == 0

    def counters(self) -> dict[str, int]:
        """What the producers counted for synthetic records, by the names of struct aegis_record_counters."""
        key = struct.pack("=I", abi.KIND_SYNTHETIC)
        sums = self._object.map("aegis_record_counters").sum_u64(key)
        return dict(zip(abi.struct("aegis_record_counters").offsets, sums, strict=True))

    def close(self) -> None:
        self.shared.close()
        self._object.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
