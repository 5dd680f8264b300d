"""The ring reader on real rings: budgets, counts to the unit, wake-ups, bad records, and what it leaves behind."""

from __future__ import annotations

import gc
import os
import random
import select
import threading
import time
import tracemalloc

import pytest

from aegis._native import records
from aegis._native.records import decode
from aegis._native.ringbuf import RingReader
from aegis._native.tally import Tally
from aegis.kernel import abi
from benchmarks.pure_ring import PureRing
from tests.support.ring import ProbeRing
from tests.support.scale import scaled, seed

pytestmark = pytest.mark.require("bpf", "ringbuf")

WAKE_TIMEOUT_S = 30  # a lost wake-up is a failure, a busy machine is not


def drain_all(reader: RingReader, budget: int = 512) -> int:
    read = len(reader.drain(budget))
    while reader.more:
        read += len(reader.drain(budget))
    return read


def is_balanced(ring: ProbeRing, reader: RingReader) -> bool:
    """The identity as the agent's counters state it, from its terms."""
    counted = ring.counters()
    lost = counted["ring_full"] + counted["filtered"] + counted["rate_limited"]
    return (
        counted["attempted"] == counted["submitted"] + lost
        and reader.read_counts()[abi.KIND_SYNTHETIC] == counted["submitted"]
    )


def test_the_budget_is_exact_and_nothing_is_lost_or_reordered() -> None:
    with ProbeRing() as ring, RingReader(ring.fd, ring.shared) as reader:
        ring.flood(997)
        seen: list[int] = []
        sizes = []
        while True:
            batch = reader.drain(101)
            sizes.append(len(batch))
            seen += [record[4] for record in decode(batch)]
            if not reader.more:
                break
        assert seen == list(range(997))
        assert sizes == [101] * 9 + [88]
        assert len(reader.drain(101)) == 0


def test_a_budget_that_ends_with_the_last_record_asks_to_be_called_again() -> None:
    with ProbeRing() as ring, RingReader(ring.fd, ring.shared) as reader:
        ring.flood(13)
        assert len(reader.drain(13)) == 13
        assert reader.more
        assert len(reader.drain(13)) == 0
        assert not reader.more


def test_a_batch_keeps_its_bytes_when_the_ring_moves_on() -> None:
    with ProbeRing(1 << 14) as ring, RingReader(ring.fd, ring.shared) as reader:
        ring.flood(113)
        batch = reader.drain(512)
        before = bytes(memoryview(batch))
        for _ in range(7):
            ring.flood(ring.room)
            drain_all(reader)
        assert bytes(memoryview(batch)) == before
        assert memoryview(batch).readonly
        assert [record[4] for record in decode(batch)] == list(range(113))


def test_identities_hold_while_rings_overflow_and_the_reader_pauses() -> None:
    chance = random.Random(seed())
    for _ in range(scaled(7, 97)):
        with ProbeRing(1 << 16, reserved=1 << 13) as ring, RingReader(ring.fd, ring.shared) as reader:
            attempted = 0
            counts = [chance.randrange(1, 3 * ring.room) for _ in range(chance.randrange(3, 23))]
            counts.insert(chance.randrange(len(counts)), ring.room + 1)  # of small ones none would overflow
            for count in counts:
                attempted += count
                ring.flood(count, urgent=chance.random() < 0.3)
                if chance.random() < 0.7:  # otherwise the reader pauses
                    reader.drain(chance.randrange(1, 2 * ring.room))
            drain_all(reader)
            counted = ring.counters()
            assert counted["attempted"] == attempted
            assert counted["ring_full"] > 0
            assert is_balanced(ring, reader)


def test_identities_hold_with_two_producers_beside_the_reader() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with ProbeRing(1 << 16) as ring, RingReader(ring.fd, ring.shared) as reader:

        def produce(cpu: int) -> None:
            os.sched_setaffinity(0, {cpu})
            for _ in range(211):
                ring.flood(499, first=0)

        producers = [threading.Thread(target=produce, args=(cpu,)) for cpu in (cpus[0], cpus[-1])]
        for producer in producers:
            producer.start()
        while any(producer.is_alive() for producer in producers):
            drain_all(reader)
        for producer in producers:
            producer.join()
        drain_all(reader)
        assert ring.counters()["attempted"] == 2 * 211 * 499
        assert is_balanced(ring, reader)


def test_ordinary_records_leave_the_reserve_to_urgent_ones() -> None:
    with ProbeRing(1 << 16, reserved=1 << 14) as ring, RingReader(ring.fd, ring.shared) as reader:
        ring.flood(2 * ring.room)
        ordinary = ring.counters()["submitted"]
        ring.flood(2 * ring.room, urgent=True)
        urgent = ring.counters()["submitted"] - ordinary
        assert ordinary <= ring.room * 3 // 4 <= ordinary + 2
        assert ordinary + urgent == ring.room
        assert drain_all(reader) == ring.room


def test_one_record_dropped_on_the_way_is_seen() -> None:
    with (
        ProbeRing() as ring,
        RingReader(ring.fd, ring.shared) as reader,
        RingReader(ring.fd, bytearray(len(ring.shared))) as thief,
    ):
        ring.flood(997)
        assert len(reader.drain(401)) == 401
        assert len(thief.drain(1)) == 1
        assert drain_all(reader) == 595
        assert not is_balanced(ring, reader)


def test_a_tally_is_what_plain_python_finds() -> None:
    with ProbeRing() as ring:
        tally = Tally(records.SYNTHETIC, 1009)
        with RingReader(ring.fd, ring.shared, [tally]) as reader, PureRing(ring.fd, ring.ring_bytes) as pure:
            ring.flood(9973, keys=1009, first=31)
            expected = pure.tally()
            ring.flood(9973, keys=1009, first=31)
            assert drain_all(reader) == 0  # counted, not copied
            assert {key: (count, total) for key, count, total in tally.items()} == expected
            assert reader.read_counts()[records.SYNTHETIC] == 9973
            assert tally.overflow == 0


def test_records_no_sensor_would_send_are_counted_and_left_out() -> None:
    whole = abi.pack("aegis_exit", header={"size": 72, "kind": abi.KIND_EXIT})
    with ProbeRing() as ring, RingReader(ring.fd, ring.shared) as reader:
        ring.raw(whole)
        ring.raw(whole[:-8])  # shorter than it says
        ring.raw(b"\xff" * 24)  # of kind 65,535
        ring.raw(abi.pack("aegis_header", size=16, kind=abi.KINDS - 1))  # of no kind in use
        ring.raw(b"seven..")
        ring.raw(whole)
        batch = reader.drain(512)
        assert len(batch) == 2
        assert (batch.unknown, batch.malformed) == (1, 3)
        counts = reader.read_counts()
        assert sum(counts) == 6
        assert counts[abi.KIND_EXIT] == 3
        assert counts[abi.KINDS - 1] == 1


def test_arming_after_the_last_look_sleeps_on_a_waiting_record() -> None:
    """Why the order is arm, then drain: the wrong one is shown to lose the wake-up."""
    with ProbeRing() as ring, RingReader(ring.fd, ring.shared) as reader, select.epoll() as poll:
        poll.register(reader.epoll_fd, select.EPOLLIN)
        assert len(reader.drain(512)) == 0
        ring.flood(1)  # nobody asked to be woken
        reader.arm()
        assert poll.poll(0) == []
        assert len(reader.drain(512)) == 1


def test_the_producer_takes_the_word_and_wakes_once() -> None:
    with ProbeRing() as ring, RingReader(ring.fd, ring.shared) as reader, select.epoll() as poll:
        poll.register(reader.epoll_fd, select.EPOLLIN)
        reader.arm()
        assert reader.armed()
        ring.flood(1)
        assert not reader.armed()
        assert [fd for fd, _ in poll.poll(WAKE_TIMEOUT_S)] == [reader.epoll_fd]
        drain_all(reader)
        assert poll.poll(0) == []
        reader.arm()
        reader.disarm()
        ring.flood(1)
        assert poll.poll(0) == []


def test_a_record_read_before_its_wakeup_leaves_a_sleeper_unless_the_word_is_looked_at() -> None:
    """The race in slow motion: the word is taken, the record drained, and only then the wake-up finds nothing."""
    with ProbeRing() as ring, RingReader(ring.fd, ring.shared) as reader, select.epoll() as poll:
        poll.register(reader.epoll_fd, select.EPOLLIN)
        reader.arm()
        ring.flood(1)
        assert drain_all(reader) == 1
        assert poll.poll(0) == []  # who sleeps now ...
        ring.flood(1)
        assert poll.poll(0) == []  # ... sleeps on waiting records for ever
        assert not reader.armed()  # and this is how it can be known
        reader.arm()
        assert drain_all(reader) == 1
        assert reader.armed()
        ring.flood(1)
        assert poll.poll(WAKE_TIMEOUT_S)


def test_no_wakeup_is_lost_between_taking_the_word_and_waking() -> None:
    """Producers in bursts, a reader that sleeps without any timer: it must be woken for every last record."""
    chance = random.Random(seed())
    total = scaled(20_011, 2_000_003)
    bursts = [chance.randrange(1, 60) for _ in range(1009)]
    read = wakeups = 0

    with ProbeRing() as ring, RingReader(ring.fd, ring.shared) as reader, select.epoll() as poll:
        poll.register(reader.epoll_fd, select.EPOLLIN)

        def produce() -> None:
            sent = turn = 0
            while sent < total:
                if sent - read > ring.room // 2:
                    time.sleep(0)  # the ring must not overflow, or there is nothing to wait for
                    continue
                count = min(bursts[turn % len(bursts)], total - sent)
                ring.flood(count)
                sent += count
                turn += 1

        producer = threading.Thread(target=produce)
        producer.start()
        try:
            while read < total:
                while True:
                    reader.arm()
                    read += drain_all(reader)
                    if reader.armed():
                        break
                if read < total:
                    assert poll.poll(WAKE_TIMEOUT_S), f"asleep after {read} of {total}: {ring.counters()}"
                    wakeups += 1
        finally:
            total = 0 if read < total else total
            producer.join()
        assert read == total
        assert wakeups > 0
        assert is_balanced(ring, reader)


def test_a_closed_reader_says_so_and_closing_twice_is_harmless() -> None:
    with ProbeRing() as ring:
        reader = RingReader(ring.fd, ring.shared)
        reader.close()
        reader.close()
        assert reader.epoll_fd == -1
        for use in (reader.arm, reader.armed, reader.read_counts, lambda: reader.drain(1)):
            with pytest.raises(ValueError, match="closed"):
                use()


def test_a_reader_dropped_open_warns() -> None:
    with ProbeRing() as ring:
        reader = RingReader(ring.fd, ring.shared)
        with pytest.warns(ResourceWarning, match="unclosed <RingReader"):
            del reader


def test_what_cannot_be_read_is_refused() -> None:
    with ProbeRing() as ring, open("/dev/null", "rb") as other:
        with pytest.raises(OSError):
            RingReader(other.fileno(), ring.shared)
        with pytest.raises(ValueError, match="bytes"):
            RingReader(ring.fd, bytearray(64))
        with pytest.raises((BufferError, TypeError)):
            RingReader(ring.fd, bytes(4096))
        two = [Tally(records.SYNTHETIC, 1), Tally(records.SYNTHETIC, 1)]
        with pytest.raises(ValueError, match="two tallies"):
            RingReader(ring.fd, ring.shared, two)
        with RingReader(ring.fd, ring.shared) as reader, pytest.raises(ValueError, match="budget"):
            reader.drain(0)


def test_batches_and_readers_leave_no_memory_behind() -> None:
    with ProbeRing() as ring:

        def use() -> None:
            with RingReader(ring.fd, ring.shared, [Tally(records.SYNTHETIC, 7)]) as reader:
                drain_all(reader)
            with RingReader(ring.fd, ring.shared) as reader:
                for _ in range(5):
                    ring.flood(401)
                    decode(reader.drain(512))

        use()
        gc.collect()
        tracemalloc.start()
        try:
            use()
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(29):
                use()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 16_384  # one lost batch is 25,664
