"""The process table, by records as the kernel would send them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aegis._native import records
from aegis.kernel import abi
from aegis.model.absent import Absent
from aegis.model.process import Cgroup, OwnerLabel, Process, owner_key
from aegis.modules.observability.table import (
    CGROUPS,
    LABELS,
    NO_CGROUP,
    NOT_KEPT,
    UNSEEN,
    ProcessTable,
)

START = 7_000_000_000_000
UNIT = Cgroup(id=40, path="/system.slice/a.service", unit="a.service")
OTHER = Cgroup(id=41, path="/system.slice/b.service", unit="b.service")
INIT = (1, 5, 0)


def exec_record(pid: int, start: int, **fields: Any) -> tuple[Any, ...]:
    known: dict[str, Any] = {
        "kind": records.EXEC,
        "ktime_ns": start + 1000,
        "cpu": 0,
        "pid": pid,
        "start_ns": start,
        "uid": 1000,
        "gid": 100,
        "ppid": 1,
        "cgroup_id": 40,
        "inode": 77,
        "device": 8,
        "comm": b"program",
        "path": b"/bin/program",
        "flags": 0,
        "args": b"program\0",
        "args_total": 8,
        "ancestors": (INIT,),
        "cwd": b"/srv",
    }
    assert fields.keys() <= known.keys()
    return tuple((known | fields).values())


def fork_record(pid: int, start: int, parent: tuple[int, int], **fields: Any) -> tuple[Any, ...]:
    known: dict[str, Any] = {
        "kind": records.FORK,
        "ktime_ns": start,
        "cpu": 0,
        "pid": pid,
        "start_ns": start,
        "uid": 1000,
        "parent_pid": parent[0],
        "parent_start_ns": parent[1],
        "cgroup_id": 40,
        "comm": b"program",
    }
    return tuple((known | fields).values())


def exit_record(pid: int, start: int, **fields: Any) -> tuple[Any, ...]:
    known: dict[str, Any] = {
        "kind": records.EXIT,
        "ktime_ns": start + 9000,
        "cpu": 0,
        "pid": pid,
        "start_ns": start,
        "uid": 1000,
        "cgroup_id": 40,
        "ppid": 1,
        "code": 0,
        "signal": 0,
        "comm": b"program",
    }
    return tuple((known | fields).values())


def proc(pid: int, start_ns: int, **fields: Any) -> Process:
    """A process as /proc tells it: the start to the tick."""
    known: dict[str, Any] = {
        "pid": pid,
        "start_ns": start_ns // 10_000_000 * 10_000_000,
        "ppid": 1,
        "uid": 0,
        "gid": 0,
        "comm": b"old",
        "exe": b"/bin/old",
        "args": b"old\0",
        "args_total": 4,
        "cwd": b"/",
        "cgroup": UNIT,
        "ancestors": (),
    }
    return Process(**(known | fields))


def nobody(_pid: int) -> Process | None:
    return None


def table(read: Callable[[int], Process | None] = nobody, *, keep_ended: int = 100) -> ProcessTable:
    return ProcessTable({40: UNIT, 41: OTHER}.get, read, keep_ended=keep_ended)


def test_an_exec_is_told_as_it_was() -> None:
    process = table().exec(exec_record(500, START))
    assert (process.pid, process.start_ns, process.ppid, process.uid, process.gid) == (
        500,
        START,
        1,
        1000,
        100,
    )
    assert (process.exe, process.argv(), process.cwd) == (b"/bin/program", ["program"], b"/srv")
    assert process.cgroup == UNIT
    assert [each.pid for each in process.ancestors] == [1]
    assert not process.exe_deleted


def test_flags_and_what_is_missing() -> None:
    flags = records.PATH_TRUNCATED | records.CWD_TRUNCATED | records.EXE_DELETED
    process = table().exec(exec_record(500, START, flags=flags, cgroup_id=99))
    assert process.exe_deleted
    assert process.exe_truncated
    assert isinstance(process.cwd, Absent)
    assert process.cgroup is NO_CGROUP
    empty = table().exec(exec_record(500, START, path=b"", args=b"", args_total=30, cwd=b""))
    assert isinstance(empty.exe, Absent)
    assert isinstance(empty.args, Absent)
    assert isinstance(empty.cwd, Absent)
    none = table().exec(exec_record(500, START, args=b"", args_total=0))
    assert none.argv() == []


def test_a_fork_is_its_parent_until_it_executes() -> None:
    one = table()
    parent = one.exec(exec_record(500, START, ancestors=((400, 3, 0), INIT)))
    one.fork(fork_record(501, START + 5000, (500, START), uid=1001, comm=b"worker", cgroup_id=41))
    child = one.find(501, START + 5000)
    assert child is not None
    assert (child.exe, child.args, child.cwd) == (parent.exe, parent.args, parent.cwd)
    assert (child.pid, child.ppid, child.uid, child.comm, child.cgroup) == (501, 500, 1001, b"worker", OTHER)
    assert [each.pid for each in child.ancestors] == [500, 400, 1]
    later = one.exec(exec_record(501, START + 5000, path=b"/bin/other", ppid=500))
    assert one.find(501, START + 5000) is later


def test_a_fork_remembers_what_its_parent_was_then() -> None:
    one = table()
    one.exec(exec_record(500, START))
    one.fork(fork_record(501, START + 5000, (500, START)))
    one.exec(exec_record(500, START, path=b"/bin/later"))
    child = one.find(501, START + 5000)
    assert child is not None
    assert child.exe == b"/bin/program"


def test_ancestors_are_named_by_what_they_run_now() -> None:
    one = table()
    one.exec(exec_record(500, START, comm=b"shell", path=b"/bin/sh"))
    chain = ((500, START, 1000), INIT)
    first = one.exec(exec_record(600, START + 1, ancestors=chain))
    assert (first.ancestors[0].comm, first.ancestors[0].exe) == (b"shell", b"/bin/sh")
    one.exec(exec_record(500, START, comm=b"login", path=b"/bin/login"))
    second = one.exec(exec_record(601, START + 2, ancestors=chain))
    assert (second.ancestors[0].comm, second.ancestors[0].exe) == (b"login", b"/bin/login")
    assert first.ancestors[0].exe == b"/bin/sh"


def test_a_line_of_forks_has_at_most_eight_ancestors() -> None:
    one = table()
    one.exec(exec_record(500, START))
    for at in range(1, 30):
        one.fork(fork_record(500 + at, START + at * 2048, (499 + at, START + (at - 1) * 2048)))
    last = one.find(529, START + 29 * 2048)
    assert last is not None
    assert [each.pid for each in last.ancestors] == list(range(528, 520, -1))


def test_one_older_than_the_agent_gets_its_exact_start() -> None:
    start = START + 3_141_592
    one = table()
    one.snapshot([proc(300, start)])
    assert one.find(300, start - 20_000_000) is None, "the pid was another process's before"
    found = one.find(300, start)
    assert found is not None
    assert (found.start_ns, found.exe) == (start, b"/bin/old")
    assert one.find(300, start) is found


def test_one_the_snapshot_missed_is_read_once_and_only_if_it_is_the_same() -> None:
    asked: list[int] = []

    def read(pid: int) -> Process | None:
        asked.append(pid)
        return proc(pid, START)

    one = table(read)
    assert one.find(300, START + 50_000_000) is None
    found = one.find(300, START + 1)
    assert found is not None
    assert one.find(300, START + 1) is found
    assert asked == [300, 300]


def test_an_exit_ends_a_process_and_keeps_it_for_a_while() -> None:
    one = table(keep_ended=3)
    process = one.exec(exec_record(500, START))
    assert one.exit(exit_record(500, START)) is process
    assert one.find(500, START) is process
    for at in range(1, 4):
        one.exec(exec_record(500 + at, START + at * 2048))
        one.exit(exit_record(500 + at, START + at * 2048))
    assert one.find(500, START) is None
    assert one.find(501, START + 2048) is not None
    assert len(one) == 4, "three that ended, and the ancestor of all"


def test_an_exit_of_a_fork_that_executed_nothing() -> None:
    one = table()
    one.exec(exec_record(500, START))
    one.fork(fork_record(501, START + 5000, (500, START)))
    assert one.exit(exit_record(501, START + 5000, ppid=500)).exe == b"/bin/program"


def test_an_exit_of_nobody_known_is_not_looked_up() -> None:
    def read(_pid: int) -> Process | None:
        raise AssertionError("it has ended")

    process = table(read).exit(exit_record(500, START, comm=b"ghost"))
    assert (process.pid, process.ppid, process.comm) == (500, 1, b"ghost")
    assert process.exe is UNSEEN
    assert process.cgroup == UNIT


def test_a_socket_of_nobody_known_says_what_its_record_says() -> None:
    one = table()
    process = one.owner(500, START, uid=7, cgroup_id=40, comm=b"ghost")
    assert (process.uid, process.comm, process.cgroup, process.exe) == (7, b"ghost", UNIT, UNSEEN)
    assert one.unseen == 1
    assert one.owner(500, START, uid=7, cgroup_id=40, comm=b"ghost") is process


def test_a_process_that_moved_is_in_its_new_group() -> None:
    one = table()
    before = one.exec(exec_record(500, START))
    after = one.owner(500, START, uid=1000, cgroup_id=41, comm=b"program")
    assert before.cgroup == UNIT
    assert after == msgspec.structs.replace(before, cgroup=OTHER)
    assert one.find(500, START) is after


@pytest.mark.parametrize("uptime_days", [0, 1, 51, 53, 400])
def test_an_owner_id_finds_its_process(uptime_days: int) -> None:
    start = uptime_days * 86_400 * 10**9 + 123_456_789
    one = table()
    process = one.exec(exec_record(500, start))
    assert one.find_owner(owner_key(500, start)) is process
    assert one.find_owner(owner_key(500, start + 1024)) is None
    one.snapshot([proc(300, start)])
    older = one.find_owner(owner_key(300, start))
    assert isinstance(older, Process)
    assert older.pid == 300
    assert one.find_owner(owner_key(300, start + 30_000_000)) is None


def test_an_owner_id_of_a_fork() -> None:
    one = table()
    one.exec(exec_record(500, START))
    one.fork(fork_record(501, START + 5000, (500, START)))
    child = one.find_owner(owner_key(501, START + 5000))
    assert isinstance(child, Process)
    assert (child.pid, child.start_ns) == (501, START + 5000)


def test_labels_are_the_headers() -> None:
    one = table()
    for name, number in abi.enum("aegis_owner_label").items():
        if name != "AEGIS_OWNER_PROCESS":
            label = OwnerLabel(name.removeprefix("AEGIS_OWNER_").lower())
            assert one.find_owner(number << 22) is label
            assert LABELS[number] is label
    assert one.find_owner(abi.OWNER_PROCESS << 22) is None


def test_reconcile_forgets_only_what_neither_runs_nor_ended() -> None:
    one = table()
    for pid in (500, 501, 502):
        one.exec(exec_record(pid, START + pid * 2048, ancestors=()))
    one.exit(exit_record(502, START + 502 * 2048))
    one.snapshot([proc(300, START), proc(301, START)])
    assert one.reconcile([500, 300]) == 0
    assert one.find(501, START + 501 * 2048), "its exit may be on its way"
    assert one.reconcile([500, 300]) == 1
    assert one.find(500, START + 500 * 2048)
    assert one.find(501, START + 501 * 2048) is None
    assert one.find(502, START + 502 * 2048)
    assert one.find(300, START)
    assert one.find(301, START) is None


def test_an_exit_that_is_late_still_finds_its_process() -> None:
    one = table()
    process = one.exec(exec_record(500, START, ancestors=()))
    one.reconcile([])
    assert one.exit(exit_record(500, START)) is process
    assert one.reconcile([]) == 0
    assert one.find(500, START) is process


def test_reconcile_forgets_those_whose_number_another_has_now() -> None:
    one = table()
    for at in (2, 0, 1):  # the newest first and last would both be wrong to take for the running one
        one.exec(exec_record(500, START + at * 2048, ancestors=()))
    one.reconcile([500])
    assert one.reconcile([500]) == 2
    assert one.find(500, START + 2 * 2048)
    assert len(one) == 1


def test_sockets_of_processes_never_seen_leave_nothing_behind() -> None:
    one = table(keep_ended=50)
    for at in range(1000):
        one.owner(500 + at, START + at * 2048, uid=0, cgroup_id=40, comm=b"ghost")
    assert len(one) == 50
    assert one.exit(exit_record(1499, START + 999 * 2048)).comm == b"ghost"
    nothing = table(keep_ended=0)
    nothing.owner(500, START, uid=0, cgroup_id=99, comm=b"ghost")
    assert len(nothing) == 0


def test_what_only_the_kernel_remembers_is_told_and_not_kept() -> None:
    one = table(keep_ended=1)
    one.exec(exec_record(500, START, ancestors=()))
    one.exit(exit_record(500, START))

    def remembered(pid: int) -> Process:
        return one.remembered(pid, START, uid=7, cgroup_id=40, comm=b"ghost")

    assert remembered(500).exe == b"/bin/program"
    assert remembered(501).exe is UNSEEN, "nothing was forgotten yet"
    one.exec(exec_record(502, START, ancestors=()))
    one.exit(exit_record(502, START))
    for _ in range(10):
        process = remembered(500)
        assert (process.uid, process.comm, process.cgroup, process.exe) == (7, b"ghost", UNIT, NOT_KEPT)
    assert (len(one), one.unseen) == (1, 0)


def test_cgroups_are_kept_up_to_a_number() -> None:
    asked: list[int] = []

    def cgroup_of(identity: int) -> Cgroup | None:
        asked.append(identity)
        return UNIT

    one = ProcessTable(cgroup_of, nobody, keep_ended=1)
    for identity in range(3 * CGROUPS):
        one.learn_cgroup(Cgroup(id=identity, path=f"/{identity}", unit=None))
    assert len(one._cgroups) == CGROUPS
    assert one.cgroup(3 * CGROUPS - 1) != UNIT
    assert one.cgroup(0) is one.cgroup(0) is UNIT
    assert asked == [0]
    assert len(one._cgroups) == CGROUPS


def test_it_stays_small_whatever_happens() -> None:
    """Processes that end leave nothing behind but the last of them."""
    chance = random.Random(4)
    one = table(keep_ended=50)
    running: list[tuple[int, int]] = []
    for at in range(5000):
        start = START + at * 2048
        parent = chance.choice(running) if running else (1, 5)
        one.fork(fork_record(1000 + at, start, parent))
        if chance.random() < 0.7:
            one.exec(exec_record(1000 + at, start, ancestors=((*parent, 0), INIT)))
        running.append((1000 + at, start))
        if len(running) > 20:
            one.exit(exit_record(*running.pop(chance.randrange(20))))
    assert len(one) <= 50 + 20 + 1
    assert len(one._ancestors) <= len(one)
