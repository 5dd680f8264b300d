"""The process table by records as the kernel would send them; against its oracle: tests/property/test_processes.py."""

from __future__ import annotations

import errno
import gc
import random
import resource
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cbor2
import msgspec
import pytest

from aegis._native.processes import ProcessTable
from aegis._native.records import RecordBatch
from aegis.kernel import abi
from aegis.model.absent import Absent
from aegis.model.block import BlockClass, Encoded
from aegis.model.event import (
    AcceptEvent,
    ConnectEvent,
    Event,
    ExecEvent,
    ExitEvent,
    ListenEvent,
    ProcessEvent,
)
from aegis.model.process import Ancestor, Cgroup, Owner, OwnerLabel, Process, owner_key
from aegis.model.records import EncodedEvents, process_fields, read_owner
from tests.support.process_oracle import CGROUPS, NO_CGROUP, NOT_KEPT, UNSEEN
from tests.support.process_records import (
    START,
    Identity,
    Story,
    cgroup_record,
    exec_record,
    exit_record,
    fork_record,
    proc_process,
    socket_record,
    synthetic_record,
)

OFFSET = 1_790_000_000_000_000_000
UNIT = Cgroup(id=40, path="/system.slice/a.service", unit="a.service")
OTHER = Cgroup(id=41, path="/system.slice/b.service", unit="b.service")
INIT = (1, 5, 0)
PROCESS = (500, START)
CHILD = (501, START + 5000)


class World:
    """A table and the host it asks."""

    def __init__(
        self, read: Callable[[int], Process | None] = lambda _pid: None, keep_ended: int = 100
    ) -> None:
        self.asked: list[int] = []
        self.made: list[tuple[int, bytes]] = []
        self.groups = {40: UNIT, 41: OTHER}
        self.table = ProcessTable(self.cgroup_of, self.cgroup_made, read, keep_ended=keep_ended)

    def cgroup_of(self, identity: int) -> Cgroup | None:
        self.asked.append(identity)
        return self.groups.get(identity)

    def cgroup_made(self, identity: int, path: bytes) -> Cgroup:
        self.made.append((identity, path))
        return Cgroup(id=identity, path=path.decode(errors="surrogateescape"), unit=None)

    def take(self, *records: bytes, offset: int = OFFSET) -> list[Event]:
        chunks = self.table.take([RecordBatch.from_bytes(b"".join(records))], offset)[0]
        return [event for chunk in chunks for event in EncodedEvents(Encoded(BlockClass.EVENT, *chunk))]

    def owner(self, record: bytes) -> Owner:
        (event,) = self.take(record)
        assert isinstance(event, ProcessEvent)
        return event.owner

    def process(self, record: bytes) -> Process:
        """The process an event of this record is about."""
        owner = self.owner(record)
        assert isinstance(owner, Process)
        return owner

    def find(self, process: Identity, *note: Any) -> Process | None:
        fragment = self.table.owner(owner_key(*process), (*process, *note) if note else None)
        found = None if fragment is None else read_owner(fragment)
        assert not isinstance(found, OwnerLabel)
        assert found is None or fragment == cbor2.dumps(process_fields(found)), "byte by byte"
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_one_life(world: World) -> None:
    timed_out = {"error": errno.ETIMEDOUT, "at": START + 20, "source_port": 1234}
    events = world.take(
        fork_record(PROCESS, (1, 2)),
        exec_record(PROCESS, at=START + 10, ancestors=()),
        socket_record(PROCESS, kind=abi.KIND_LISTEN, at=START + 20),
        socket_record(PROCESS, kind=abi.KIND_CONNECT, **timed_out),
        socket_record(PROCESS, kind=abi.KIND_ACCEPT, at=START + 20),
        exit_record(PROCESS, at=START + 999, code=3),
    )
    assert [type(event) for event in events] == [ExecEvent, ListenEvent, ConnectEvent, AcceptEvent, ExitEvent]
    assert [event.time_ns for event in events] == [OFFSET + START + at for at in (10, 20, 20, 20, 999)]
    process = world.find(PROCESS)
    assert process == Process(
        pid=500,
        start_ns=START,
        ppid=1,
        uid=1000,
        gid=100,
        comm=b"program",
        exe=b"/bin/program",
        args=b"program\0",
        args_total=8,
        cwd=b"/srv",
        cgroup=UNIT,
        ancestors=(),
    )
    assert [event.owner for event in events if isinstance(event, ProcessEvent)] == [process] * 5
    assert events[2] == ConnectEvent(
        time_ns=OFFSET + START + 20,
        owner=process,
        protocol=6,
        source=bytes(range(16)),
        source_port=1234,
        destination=bytes(range(16, 32)),
        destination_port=443,
        cookie=77,
        error=errno.ETIMEDOUT,
    )
    assert events[4] == ExitEvent(
        time_ns=OFFSET + START + 999, owner=process, code=3, signal=0, duration_ns=999
    )


def test_a_process_is_written_as_the_model_writes_it(world: World) -> None:
    for process in Story(5, pids=400).older():
        world.table.snapshot([process])
        assert world.find((process.pid, process.start_ns)) == process


def test_flags_and_what_is_missing(world: World) -> None:
    process = world.process(exec_record(PROCESS, flags=7, cgroup_id=99))
    assert process.exe_deleted
    assert process.exe_truncated
    assert isinstance(process.cwd, Absent)
    assert process.cgroup == NO_CGROUP
    empty = world.process(exec_record(PROCESS, path=b"", args=b"", args_total=30, cwd=b""))
    assert isinstance(empty.exe, Absent)
    assert isinstance(empty.args, Absent)
    assert isinstance(empty.cwd, Absent)
    assert not empty.exe_deleted
    none = world.process(exec_record(PROCESS, args=b"", args_total=0))
    assert none.argv() == []


def test_a_fork_is_its_parent_until_it_executes(world: World) -> None:
    parent = world.process(exec_record(PROCESS, ancestors=((400, 3, 0), INIT)))
    assert world.take(fork_record(CHILD, PROCESS, uid=1001, comm=b"worker", cgroup_id=41)) == []
    child = world.find(CHILD)
    assert child is not None
    assert child == msgspec.structs.replace(
        parent,
        pid=501,
        start_ns=START + 5000,
        ppid=500,
        uid=1001,
        comm=b"worker",
        cgroup=OTHER,
        ancestors=(parent.as_ancestor(), *parent.ancestors),
    )
    later = world.process(exec_record(CHILD, path=b"/bin/other", parent_pid=500))
    assert world.find(CHILD) == later
    assert later.exe == b"/bin/other"


def test_a_fork_remembers_what_its_parent_was_then(world: World) -> None:
    world.take(
        exec_record(PROCESS),
        fork_record(CHILD, PROCESS),
        exec_record(PROCESS, path=b"/bin/later", at=START + 6000),
    )
    child = world.find(CHILD)
    assert child is not None
    assert child.exe == b"/bin/program"


def test_ancestors_are_named_by_what_they_run_now(world: World) -> None:
    world.take(exec_record(PROCESS, comm=b"shell", path=b"/bin/sh"))
    chain = ((*PROCESS, 1000), INIT)
    first = world.process(exec_record((600, START + 1), ancestors=chain))
    assert (first.ancestors[0].comm, first.ancestors[0].exe) == (b"shell", b"/bin/sh")
    world.take(exec_record(PROCESS, comm=b"login", path=b"/bin/login"))
    second = world.process(exec_record((601, START + 2), ancestors=chain))
    assert (second.ancestors[0].comm, second.ancestors[0].exe) == (b"login", b"/bin/login")
    assert world.find((600, START + 1)) == first


def test_an_ancestor_that_is_not_kept_any_more_is_made_up_again() -> None:
    world = World(keep_ended=0)
    chain = ((*PROCESS, 1000),)
    world.take(exec_record(PROCESS))
    assert world.process(exec_record((600, START + 1), ancestors=chain)).ancestors[0].exe == b"/bin/program"
    world.take(exit_record(PROCESS))
    assert world.process(exec_record((601, START + 2), ancestors=chain)).ancestors[0].exe == NOT_KEPT


def test_a_line_of_forks_has_at_most_eight_ancestors(world: World) -> None:
    line = [(500 + at, START + at * 2048) for at in range(30)]
    world.take(
        exec_record(line[0], at=START), *(fork_record(child, parent) for parent, child in pairwise(line))
    )
    last = world.find(line[29])
    assert last is not None
    assert [each.pid for each in last.ancestors] == list(range(528, 520, -1))


def test_a_line_of_eight_out_of_proc_is_cut_at_the_eighth(world: World) -> None:
    """Of all lengths that a number, a name or a reason can have: the cut counts their bytes."""
    widths = (1, 23, 24, 255, 256, 65_535, 65_536, 2**32)
    line = tuple(
        Ancestor(pid=at + 1, start_ns=width, comm=b"c" * (width % 300), exe=Absent("r" * (width % 70_000)))
        for at, width in enumerate(widths)
    )
    world.table.snapshot([proc_process(300, START, ancestors=line)])
    world.take(fork_record(PROCESS, (300, START)), fork_record(CHILD, PROCESS))
    child = world.find(CHILD)
    assert child is not None
    assert child.ancestors[2:] == line[:6]
    assert world.find(PROCESS) == msgspec.structs.replace(
        child, pid=500, start_ns=START, ppid=300, ancestors=child.ancestors[1:] + line[6:7]
    )


def test_one_older_than_the_agent_gets_its_exact_start(world: World) -> None:
    start = START + 3_141_592
    world.table.snapshot([proc_process(300, start)])
    ghost = world.process(exit_record((300, start - 20_000_000)))
    assert ghost.exe == UNSEEN, "the pid was another process's before"
    found = world.process(socket_record((300, start)))
    assert (found.start_ns, found.exe) == (start, b"/bin/old")
    assert world.find((300, start)) == found
    assert len(world.table) == 2, "it moved over"


def test_one_the_snapshot_missed_is_read_once_and_only_if_it_is_the_same() -> None:
    asked: list[int] = []

    def read(pid: int) -> Process | None:
        asked.append(pid)
        return proc_process(pid, START)

    world = World(read)
    assert world.process(socket_record((300, START + 50_000_000))).exe == UNSEEN
    assert world.process(socket_record((300, START + 1))).exe == b"/bin/old"
    assert world.process(socket_record((300, START + 1))).exe == b"/bin/old"
    assert asked == [300, 300]


def test_an_exit_ends_a_process_and_keeps_it_for_a_while() -> None:
    world = World(keep_ended=3)
    process = world.process(exec_record(PROCESS))
    assert world.process(exit_record(PROCESS)) == process
    assert world.find(PROCESS) == process
    for at in range(1, 4):
        each = (500 + at, START + at * 2048)
        world.take(exec_record(each), exit_record(each))
    assert world.find(PROCESS) is None
    assert world.find((501, START + 2048)) is not None
    assert len(world.table) == 4, "three that ended, and the ancestor of all"
    assert world.table.running == 1


def test_an_exit_of_nobody_known_is_not_looked_up() -> None:
    def read(_pid: int) -> Process | None:
        raise AssertionError("it has ended")

    world = World(read)
    process = world.process(exit_record(PROCESS, comm=b"ghost", code=9, signal=11))
    assert (process.pid, process.ppid, process.comm) == (500, 1, b"ghost")
    assert (process.exe, process.cgroup, process.ancestors) == (UNSEEN, UNIT, ())


def test_a_socket_of_nobody_known_says_what_its_record_says(world: World) -> None:
    ghost = socket_record(PROCESS, uid=7, comm=b"ghost")
    process = world.process(ghost)
    assert (process.uid, process.comm, process.cgroup) == (7, b"ghost", UNIT)
    assert {process.exe, process.ppid, process.gid, process.args, process.cwd} == {UNSEEN}
    assert world.process(ghost) == process
    assert world.table.unseen == 1


def test_a_process_that_moved_is_in_its_new_group(world: World) -> None:
    before = world.process(exec_record(PROCESS))
    after = world.process(socket_record(PROCESS, cgroup_id=41))
    assert (before.cgroup, after) == (UNIT, msgspec.structs.replace(before, cgroup=OTHER))
    assert world.find(PROCESS) == after
    assert world.process(socket_record(PROCESS, cgroup_id=99)).cgroup == NO_CGROUP
    assert world.process(socket_record(PROCESS, cgroup_id=40)).cgroup == UNIT
    assert world.asked == [40, 41, 99]


@pytest.mark.parametrize("uptime_days", [0, 1, 51, 53, 400])
def test_an_owner_id_finds_its_process(world: World, uptime_days: int) -> None:
    start = uptime_days * 86_400 * 10**9 + 123_456_789
    process = world.process(exec_record((500, start)))
    assert world.find((500, start)) == process
    assert world.find((500, start + 1024)) is None
    world.table.snapshot([proc_process(300, start)])
    older = world.find((300, start))
    assert older is not None
    assert older.pid == 300
    assert world.find((300, start + 30_000_000)) is None


def test_the_kernels_note_says_the_cgroup_and_what_is_not_kept() -> None:
    world = World(keep_ended=1)
    process = world.process(exec_record(PROCESS, ancestors=()))
    world.take(exit_record(PROCESS))
    assert world.find(PROCESS, 7, 41, b"ghost") == msgspec.structs.replace(process, cgroup=OTHER)
    assert world.find(PROCESS) == process, "the note is of the socket, not of the process"
    ghost = world.find((501, START), 7, 40, b"ghost")
    assert ghost is not None
    assert ghost.exe == UNSEEN, "nothing was forgotten yet"
    other = (502, START)
    world.take(exec_record(other, ancestors=()), exit_record(other))
    for _ in range(10):
        found = world.find(PROCESS, 7, 40, b"ghost")
        assert found is not None
        assert (found.uid, found.comm, found.cgroup, found.exe) == (7, b"ghost", UNIT, NOT_KEPT)
    assert (len(world.table), world.table.unseen) == (1, 0)


def test_labels_are_the_headers(world: World) -> None:
    for name, number in abi.enum("aegis_owner_label").items():
        fragment = world.table.owner(number << 22)
        if name == "AEGIS_OWNER_PROCESS":
            assert fragment is None
            continue
        label = OwnerLabel(name.removeprefix("AEGIS_OWNER_").lower())
        assert fragment is not None
        assert read_owner(fragment) is label
        assert world.owner(socket_record((0, 0), owner_label=number)) is label
    assert world.owner(socket_record((0, 0), owner_label=200)) is OwnerLabel.UNKNOWN


def test_reconcile_forgets_only_what_neither_runs_nor_ended(world: World) -> None:
    running, lost, ended = ((pid, START + pid * 2048) for pid in (500, 501, 502))
    world.take(*(exec_record(each, ancestors=()) for each in (running, lost, ended)), exit_record(ended))
    world.table.snapshot([proc_process(300, START), proc_process(301, START)])
    assert world.table.reconcile([500, 300]) == 0
    assert world.find(lost), "its exit may be on its way"
    assert world.table.reconcile([500, 300]) == 1
    assert world.find(running)
    assert world.find(lost) is None
    assert world.find(ended)
    assert world.find((300, START))
    assert world.find((301, START)) is None


def test_an_exit_that_is_late_still_finds_its_process(world: World) -> None:
    process = world.process(exec_record(PROCESS, ancestors=()))
    world.table.reconcile([])
    assert world.process(exit_record(PROCESS)) == process
    assert world.table.reconcile([]) == 0
    assert world.find(PROCESS) == process


def test_reconcile_forgets_those_whose_number_another_has_now(world: World) -> None:
    for at in (2, 0, 1):  # the newest first and last would both be wrong to take for the running one
        world.take(exec_record((500, START + at * 2048), ancestors=()))
    world.table.reconcile([500])
    assert world.table.reconcile([500]) == 2
    assert world.find((500, START + 2 * 2048))
    assert len(world.table) == 1


def test_cgroups_are_known_before_their_first_process_and_kept_up_to_a_number(world: World) -> None:
    records = [cgroup_record(at, b"/%d" % at, at=START + at) for at in range(3 * CGROUPS)]
    chunks, decoded, events, forks, cgroups = world.table.take(
        [RecordBatch.from_bytes(b"".join(records))], OFFSET
    )
    assert (chunks, decoded, events, forks, cgroups) == ([], 3 * CGROUPS, 0, 0, 3 * CGROUPS)
    assert world.table.cgroups == CGROUPS
    last = 3 * CGROUPS - 1
    assert world.made[-1] == (last, b"/%d" % last)
    assert world.process(exec_record(PROCESS, cgroup_id=last)).cgroup == Cgroup(
        id=last, path=f"/{last}", unit=None
    )
    assert world.asked == []
    for _ in range(2):
        assert world.process(exec_record(PROCESS, cgroup_id=40)).cgroup == UNIT
    assert world.asked == [40]
    assert world.table.cgroups == CGROUPS


def test_a_path_that_is_not_utf8_is_shown(world: World) -> None:
    world.take(cgroup_record(50, b"/a\xff", at=START))
    assert world.process(exec_record(PROCESS, cgroup_id=50)).cgroup == Cgroup(
        id=50, path=r"/a\xff", unit=None
    )


# Chunks


def test_a_chunk_has_at_most_512_events_of_one_second_and_48_kib(world: World) -> None:
    step = 5_000_000
    small = [socket_record((0, 0), at=START + at * step) for at in range(1000)]
    chunks = world.table.take([RecordBatch.from_bytes(b"".join(small))], OFFSET)[0]
    assert [count for _, count, _ in chunks] == [200] * 5
    assert [base for base, _, _ in chunks] == [OFFSET + START + at * 1_000_000_000 for at in range(5)]
    many = [socket_record((0, 0), at=START + at) for at in range(1500)]
    chunks = world.table.take([RecordBatch.from_bytes(b"".join(many))], OFFSET)[0]
    assert [count for _, count, _ in chunks] == [512, 512, 476]
    assert len({base for base, _, _ in chunks}) == 1
    large = [exec_record((9, START + at), ancestors=(), args=bytes(9000)) for at in range(12)]
    chunks = world.table.take([RecordBatch.from_bytes(b"".join(large))], OFFSET)[0]
    assert [count for _, count, _ in chunks] == [5, 5, 2]
    assert all(len(data) <= 48 * 1024 for _, _, data in chunks)
    alone = exec_record((9, START), ancestors=(), args=bytes(60_000))
    chunks = world.table.take([RecordBatch.from_bytes(b"".join([many[0], alone, many[1]]))], OFFSET)[0]
    assert [count for _, count, _ in chunks] == [2, 1]
    assert len(chunks[1][2]) > 48 * 1024


def test_chunks_of_one_base_can_be_joined(world: World) -> None:
    first = world.table.take([RecordBatch.from_bytes(socket_record((0, 0), at=START))], OFFSET)[0]
    second = world.table.take([RecordBatch.from_bytes(socket_record((0, 0), at=START - 999))], OFFSET)[0]
    ((base, _, one),) = first
    assert [second[0][0]] == [base]
    joined = EncodedEvents(Encoded(BlockClass.EVENT, base, 2, one + second[0][2]))
    assert [event.time_ns for event in joined] == [OFFSET + START, OFFSET + START - 999]


# Order


def test_records_come_by_time_each_batch_once_and_other_kinds_not(world: World) -> None:
    one = RecordBatch.from_bytes(
        socket_record((0, 0), at=START + 5, cookie=5)
        + synthetic_record(START)
        + socket_record((0, 0), at=START + 2, cookie=2)
    )
    equal = [RecordBatch.from_bytes(socket_record((0, 0), at=START + 3, cookie=cookie)) for cookie in (3, 4)]
    chunks, decoded, *_ = world.table.take([one, one, *equal, one], OFFSET)
    events = EncodedEvents(Encoded(BlockClass.EVENT, *chunks[0]))
    assert [getattr(event, "cookie", None) for event in events] == [2, 3, 4, 5]
    assert decoded == 4
    assert world.table.take([], OFFSET) == ([], 0, 0, 0, 0)


def test_any_disorder_is_put_right(world: World) -> None:
    chance = random.Random(3)
    instants = [chance.randrange(300) for _ in range(777)]
    records = [socket_record((0, 0), at=START + at, cookie=number) for number, at in enumerate(instants)]
    events = world.take(*records)
    wanted = sorted(range(777), key=lambda number: instants[number])
    assert [getattr(event, "cookie", None) for event in events] == wanted


# What goes wrong


def test_what_the_host_raises_ends_the_call_and_breaks_nothing() -> None:
    def read(_pid: int) -> Process | None:
        raise LookupError("no /proc")

    world = World(read)
    for record in (
        socket_record(PROCESS),
        exec_record(PROCESS, ancestors=((400, 3, 0),)),
        fork_record(CHILD, PROCESS),
    ):
        with pytest.raises(LookupError, match="no /proc"):
            world.take(record)
    assert len(world.table) == 0
    world.groups = None  # type: ignore[assignment]
    for record in (exec_record(PROCESS, ancestors=()), exit_record(PROCESS)):
        with pytest.raises(AttributeError):
            world.take(record)
    world.groups = {40: UNIT}
    assert world.process(exec_record(PROCESS, ancestors=())).cgroup == UNIT


def test_a_callback_must_not_come_back() -> None:
    def read(_pid: int) -> Process | None:
        return one.find(CHILD)

    one = World(read)
    with pytest.raises(RuntimeError, match="in use"):
        one.take(socket_record(PROCESS))
    one.take(exec_record(PROCESS, ancestors=()))
    assert one.find(PROCESS), "the table can be used again"


@pytest.mark.parametrize("wrong", [None, 7, b"bytes"])
def test_what_is_no_batch_is_refused(world: World, wrong: Any) -> None:
    with pytest.raises(TypeError):
        world.table.take([wrong], OFFSET)
    assert world.table.take([], OFFSET)[1] == 0


# Memory


def test_it_stays_small_whatever_happens() -> None:
    """Processes that end leave nothing behind but the last of them."""
    chance = random.Random(4)
    world = World(keep_ended=50)
    running: list[Identity] = []
    for at in range(5000):
        each = (1000 + at, START + at * 2048)
        parent = chance.choice(running) if running else (1, 5)
        world.take(fork_record(each, parent))
        if chance.random() < 0.7:
            world.take(exec_record(each, ancestors=((*parent, 0), INIT)))
        running.append(each)
        if len(running) > 20:
            world.take(exit_record(running.pop(chance.randrange(20))))
    assert len(world.table) <= 50 + 20 + 1


def test_those_with_long_arguments_are_fewer() -> None:
    """What has ended takes 1 KiB on average at most, and what just ended is kept whatever it takes."""
    world = World(keep_ended=50)
    for at in range(300):
        each = (1000 + at, START + at * 2048)
        world.take(exec_record(each, args=b"x" * 16_000, ancestors=()))
        world.take(exit_record(each))
        assert len(world.table) == min(at + 1, 3)
    for at in range(300, 600):
        each = (1000 + at, START + at * 2048)
        world.take(exec_record(each, ancestors=()))
        world.take(exit_record(each))
    assert len(world.table) == 50
    large = World(keep_ended=1)
    large.take(exec_record(PROCESS, args=b"x" * 16_000, ancestors=()))
    large.take(exit_record(PROCESS))
    assert len(large.table) == 1


def test_sockets_of_processes_never_seen_leave_nothing_behind() -> None:
    world = World(keep_ended=50)
    for at in range(1000):
        world.take(socket_record((500 + at, START + at * 2048), comm=b"ghost"))
    assert len(world.table) == 50
    assert world.process(exit_record((1499, START + 999 * 2048), comm=b"other")).comm == b"ghost"
    nothing = World(keep_ended=0)
    nothing.take(socket_record(PROCESS))
    assert len(nothing.table) == 0


def test_a_story_again_and_again_takes_no_more_memory() -> None:
    batches = [RecordBatch.from_bytes(b"".join(Story(seed, pids=60).records(3000))) for seed in (1, 2)]
    older = Story(1, pids=60).older()

    def live() -> None:
        world = World(lambda pid: proc_process(pid, START) if pid % 3 else None, keep_ended=100)
        world.groups |= {at: Cgroup(id=at, path=f"/{at}" * 9, unit=None) for at in range(9)}
        world.table.snapshot(older)
        for batch in batches:
            world.table.take([batch], OFFSET)
            for pid in range(60):
                world.find((pid, START + pid * 1000), 1, pid % 12, b"x")
            world.table.reconcile(range(0, 60, 2))
            world.table.reconcile(range(0, 60, 2))

    live()
    gc.collect()
    tracemalloc.start()
    try:
        live()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            live()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(50):
        live()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 4096  # KiB


def test_a_process_is_small() -> None:
    tracemalloc.start()
    try:
        world = World(keep_ended=4096)
        chain = tuple((each, 5, 0) for each in range(1, 9))
        records = [
            exec_record((500 + at, START + at * 2048), ancestors=chain, args=b"a" * 60) for at in range(4096)
        ]
        batch = RecordBatch.from_bytes(b"".join(records))
        before = tracemalloc.get_traced_memory()[0]
        world.table.take([batch], OFFSET)
        each = (tracemalloc.get_traced_memory()[0] - before) / 4096
    finally:
        tracemalloc.stop()
    assert each < 350
