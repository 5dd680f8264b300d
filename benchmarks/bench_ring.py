"""Drain, decode and aggregate 64-byte records over 10,000 keys: aegis._native.ringbuf, the C loop and plain Python.

A BPF program fills the agent's ring of 1 MiB before each reading, through the sensors' own emit function. All three
read the same ring in turns; the agent's form runs as the agent runs it, from Python at its budget a call. Times are of
the thread's own processor, so that neighbours on a shared machine do not count; ratios are medians of each turn's.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import ExitStack

from aegis._native import records
from aegis._native.ringbuf import RingReader
from aegis._native.tally import Tally
from aegis.kernel.constants import Constants
from aegis.kernel.object import BpfObject
from benchmarks.loops import load
from benchmarks.pure_ring import PureRing
from benchmarks.rows import Row, median

RING = 1 << 20
FILL = 13_999  # records of 64 + 8 bytes: most of the ring
KEYS = 10_000
BUDGET = 512
REPETITIONS = 101
DECLARATIONS = """
struct loop;
struct loop *ring_loop_new(int map_fd, uint64_t keys);
int ring_loop_drain(struct loop *loop);
uint64_t ring_loop_keys(const struct loop *loop);
void ring_loop_free(struct loop *loop);
"""


class Ring:
    """The ring and the program that fills it."""

    def __init__(self, stack: ExitStack) -> None:
        constants = Constants(agent_tgid=0, ring_bytes=RING, ring_reserved_bytes=0)
        self.object = stack.enter_context(
            BpfObject.open("probe_ring", constants=constants, map_sizes={"aegis_ring": RING})
        )
        self.object.load()
        self.fd = self.object.map("aegis_ring").fd
        self.reader = stack.enter_context(self.object.map("aegis_reader").mmap(writable=True))
        self._flood = self.object.program("probe_ring_flood")
        self._next = 0

    def fill(self) -> None:
        self._flood.run(ctx=struct.pack("=QQQQ", FILL, KEYS, self._next, 0))
        self._next += FILL


def nanoseconds(work: Callable[[], object]) -> float:
    """Processor time of `work` for each record of one filling."""
    start = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - start) / FILL


def run() -> list[Row]:
    ffi, library = load("ring_loop", DECLARATIONS, "bpf")
    tally = Tally(records.SYNTHETIC, KEYS)
    with ExitStack() as stack:
        ring = Ring(stack)
        reader = stack.enter_context(RingReader(ring.fd, ring.reader, [tally]))
        pure = stack.enter_context(PureRing(ring.fd, RING))
        loop = ffi.gc(library.ring_loop_new(ring.fd, KEYS), library.ring_loop_free)

        def agent() -> None:
            reader.drain(BUDGET)
            while reader.more:
                reader.drain(BUDGET)

        def copied() -> None:
            batch = plain_reader.drain(BUDGET)
            while plain_reader.more or len(batch):
                batch = plain_reader.drain(BUDGET)

        plain_reader = stack.enter_context(RingReader(ring.fd, ring.reader))
        turns: dict[str, Callable[[], object]] = {
            "agent": agent,
            "c": lambda: library.ring_loop_drain(loop),
            "copied": copied,
            "python": pure.tally,
        }
        readings: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(REPETITIONS):
            for name, work in turns.items():
                ring.fill()
                before = sum(reader.read_counts())
                readings[name].append(nanoseconds(work))
                if name in {"agent", "copied"}:
                    assert sum(reader.read_counts()) == before + FILL
        assert len(tally) == library.ring_loop_keys(loop) == KEYS
        assert tally.overflow == 0
    ours = readings["agent"]
    return [
        versus("ring_drain", ours, readings["c"], f"against the C loop, {KEYS:,} keys, budget {BUDGET}"),
        versus("ring_python", ours, readings["python"], "against plain Python"),
        Row(
            name="ring_rate",
            value=1e9 / median(ours),
            unit="records/s",
            samples=[1e9 / each for each in ours],
            note="as ring_drain",
        ),
        Row(
            name="ring_copy",
            value=median(readings["copied"]),
            unit="ns/record",
            samples=readings["copied"],
            note="drained into batches instead of a tally",
        ),
    ]


def versus(name: str, ours: list[float], peers: list[float], note: str) -> Row:
    return Row(
        name=name,
        value=median(ours),
        unit="ns/record",
        peer=median(peers),
        ratio=median([mine / theirs for mine, theirs in zip(ours, peers, strict=True)]),
        samples=ours,
        note=note,
    )
