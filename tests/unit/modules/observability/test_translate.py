from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from aegis._native import records
from aegis.model.event import (
    AcceptEvent,
    ConnectEvent,
    Event,
    ExecEvent,
    ExitEvent,
    ListenEvent,
    ProcessEvent,
)
from aegis.model.process import Cgroup, OwnerLabel, Process
from aegis.modules.observability.table import ProcessTable
from aegis.modules.observability.translate import KINDS, translate

START = 9_000_000_000_000
OFFSET = 1_790_000_000_000_000_000
CHILD: tuple[Any, ...] = (700, START)


def exec_record() -> tuple[Any, ...]:
    return (
        records.EXEC, START + 10, 1, 700, START, 5, 6, 1, 40, 1, 1, b"nc", b"/bin/nc", 0, b"nc\0", 3, (), b"/",
    )  # fmt: skip


def fork_record() -> tuple[Any, ...]:
    return (records.FORK, START, 0, 700, START, 5, 1, 2, 40, b"sh")


def exit_record() -> tuple[Any, ...]:
    return (records.EXIT, START + 999, 1, 700, START, 5, 40, 1, 3, 0, b"nc")


def socket_record(kind: int, pid: int = 700, label: int = 4) -> tuple[Any, ...]:
    return (
        kind, START + 20, 0, pid, START if pid else 0, 5, 40, 77, bytes(16), bytes(15) + b"\1", 1234, 80, 6, label,
        b"nc", errno.ETIMEDOUT if kind == records.CONNECT else 0,
    )  # fmt: skip


@pytest.fixture
def table() -> ProcessTable:
    return ProcessTable(lambda _id: None, lambda _pid: None, keep_ended=10)


def made(identity: int, path: bytes) -> Cgroup:
    return Cgroup(id=identity, path=path.decode(), unit=None)


def never(_identity: int, _path: bytes) -> Cgroup:
    raise AssertionError("no cgroup was made")


def test_one_life(table: ProcessTable) -> None:
    life = [
        fork_record(),
        exec_record(),
        socket_record(records.LISTEN),
        socket_record(records.CONNECT),
        socket_record(records.ACCEPT),
        exit_record(),
    ]
    events, forks, cgroups = translate(life, table, never, OFFSET)
    assert [type(event) for event in events] == [ExecEvent, ListenEvent, ConnectEvent, AcceptEvent, ExitEvent]
    assert (forks, cgroups) == (1, 0)
    assert [event.time_ns for event in events] == [OFFSET + START + at for at in (10, 20, 20, 20, 999)]
    owners = {id(event.owner) for event in events if isinstance(event, ProcessEvent)}
    assert len(owners) == 1, "one process, told once"
    connect, ended = events[2], events[4]
    assert isinstance(connect, ConnectEvent)
    assert connect.error == errno.ETIMEDOUT
    assert (connect.source_port, connect.destination_port, connect.cookie) == (1234, 80, 77)
    assert isinstance(ended, ExitEvent)
    assert (ended.code, ended.signal, ended.duration_ns) == (3, 0, 999)


def test_a_group_is_known_before_its_first_process(table: ProcessTable) -> None:
    group = (records.CGROUP, START - 5, 0, 40, b"/x.service")
    events, forks, cgroups = translate([group, exec_record()], table, made, OFFSET)
    (event,) = events
    assert isinstance(event, ExecEvent)
    assert isinstance(event.owner, Process)
    assert event.owner.cgroup == made(40, b"/x.service")
    assert (forks, cgroups) == (0, 1)


@pytest.mark.parametrize(("number", "label"), list(enumerate(OwnerLabel)))
def test_a_socket_without_a_process(table: ProcessTable, number: int, label: OwnerLabel) -> None:
    (event,) = translate([socket_record(records.ACCEPT, pid=0, label=number)], table, never, OFFSET).events
    assert isinstance(event, AcceptEvent)
    assert event.owner is label


def test_an_event_stays_what_it_was(table: ProcessTable) -> None:
    """Its process is frozen: what happens later makes another one."""
    (first,) = translate([exec_record()], table, never, OFFSET).events
    later = (*exec_record()[:12], b"/bin/later", *exec_record()[13:])
    (second,) = translate([later], table, never, OFFSET).events
    shown: Callable[[Event], Any] = lambda event: event.owner.exe  # type: ignore[attr-defined]  # noqa: E731
    assert (shown(first), shown(second)) == (b"/bin/nc", b"/bin/later")


def test_nothing_comes_of_nothing(table: ProcessTable) -> None:
    assert translate([], table, never, OFFSET) == ([], 0, 0)


def test_kinds_are_those_it_can_translate() -> None:
    assert len(set(KINDS)) == 7
    assert records.VERDICT not in KINDS
