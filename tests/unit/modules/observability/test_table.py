"""What the module adds to the native table: events that are made when looked at, owners as values."""

from __future__ import annotations

from typing import Any

import pytest

from aegis._native.records import RecordBatch
from aegis.kernel.flows import SocketOwner
from aegis.model.event import ExecEvent, ExitEvent
from aegis.model.process import Cgroup, OwnerLabel, Process, owner_key
from aegis.modules.observability.table import Table
from tests.support.process_records import START, exec_record, exit_record, fork_record, proc_process

UNIT = Cgroup(id=40, path="/system.slice/a.service", unit="a.service")
OTHER = Cgroup(id=41, path="/system.slice/b.service", unit="b.service")
PROCESS = (500, START)


def made(identity: int, path: bytes) -> Cgroup:
    return Cgroup(id=identity, path=path.decode(), unit=None)


@pytest.fixture
def table() -> Table:
    return Table({40: UNIT, 41: OTHER}.get, made, lambda _pid: None, keep_ended=1)


def told(**fields: Any) -> SocketOwner:
    known: dict[str, Any] = {"pid": 500, "start_ns": START, "uid": 7, "cgroup_id": 41, "comm": b"ghost"}
    return SocketOwner(label="process", **(known | fields))


def test_records_become_runs_of_events(table: Table) -> None:
    records = fork_record(PROCESS, (1, 2)) + exec_record(PROCESS, ancestors=()) + exit_record(PROCESS)
    runs, decoded, events, forks, cgroups = table.take(RecordBatch.from_bytes(records), 1000)
    (run,) = runs
    assert [type(event) for event in run] == [ExecEvent, ExitEvent]
    assert [event.time_ns for event in run] == [START + 2000, START + 10_000]
    assert (decoded, events, forks, cgroups) == (3, 2, 1, 0)
    assert (len(table), table.running) == (1, 0)
    assert table.take(RecordBatch.from_bytes(b""), 1000) == ([], 0, 0, 0, 0)


def test_an_owner_is_a_process_a_label_or_nobody(table: Table) -> None:
    table.take(RecordBatch.from_bytes(exec_record(PROCESS, ancestors=())), 0)
    found = table.find_owner(owner_key(*PROCESS))
    assert isinstance(found, Process)
    assert (found.pid, found.exe, found.cgroup) == (500, b"/bin/program", UNIT)
    assert table.find_owner(3 << 22) is OwnerLabel.FORWARDED
    assert table.find_owner(owner_key(501, START)) is None


def test_the_kernels_note_counts_only_when_it_is_whole(table: Table) -> None:
    table.take(RecordBatch.from_bytes(exec_record(PROCESS, ancestors=())), 0)
    owner = owner_key(*PROCESS)
    found = table.find_owner(owner, told())
    assert isinstance(found, Process)
    assert (found.cgroup, found.comm) == (OTHER, b"program")
    for missing in ("pid", "start_ns", "cgroup_id"):
        found = table.find_owner(owner, told(**{missing: None}))
        assert isinstance(found, Process)
        assert found.cgroup == UNIT
    ghost = table.find_owner(owner_key(501, START), told(pid=501, uid=None, comm=None))
    assert isinstance(ghost, Process)
    assert (ghost.pid, ghost.uid, ghost.comm, ghost.cgroup) == (501, 0, b"", OTHER)
    assert table.find_owner(1 << 22, told()) is OwnerLabel.KERNEL


def test_what_was_lost_is_found_by_looking_twice(table: Table) -> None:
    table.snapshot([proc_process(300, START)])
    table.take(RecordBatch.from_bytes(exec_record(PROCESS, ancestors=())), 0)
    assert [table.reconcile([300]) for _ in range(3)] == [0, 1, 0]
    assert len(table) == 1
