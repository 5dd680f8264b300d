"""Records of the kernel into events, in the order they happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aegis._native.records import ACCEPT, CGROUP, CONNECT, EXEC, EXIT, FORK, LISTEN
from aegis.model.event import (
    AcceptEvent,
    ConnectEvent,
    Event,
    ExecEvent,
    ExitEvent,
    ListenEvent,
    SocketEvent,
)
from aegis.model.process import Cgroup, Owner
from aegis.modules.observability.table import LABELS, ProcessTable

Record = tuple[Any, ...]

KINDS = (EXEC, EXIT, FORK, CONNECT, ACCEPT, LISTEN, CGROUP)
SOCKETS: dict[int, type[SocketEvent]] = {CONNECT: ConnectEvent, ACCEPT: AcceptEvent, LISTEN: ListenEvent}


class Translation(NamedTuple):
    """Events, and how many records changed what is known without being one: len(records) is their sum."""

    events: list[Event]
    forks: int
    cgroups: int


def translate(
    records: Iterable[Record],
    table: ProcessTable,
    learn_cgroup: Callable[[int, bytes], Cgroup],
    wall_offset_ns: int,
) -> Translation:
    """Keep `table` by the records, which are of `KINDS`, and make events of them.

    `wall_offset_ns` is the wall clock minus CLOCK_BOOTTIME. `learn_cgroup` takes the id and path of a new cgroup.
    """
    events: list[Event] = []
    forks = cgroups = 0
    add, take_exec, take_exit, take_fork = events.append, table.exec, table.exit, table.fork
    for record in records:
        kind = record[0]
        if kind == EXEC:
            add(ExecEvent(time_ns=record[1] + wall_offset_ns, owner=take_exec(record)))
        elif kind == FORK:
            take_fork(record)
            forks += 1
        elif kind == EXIT:
            add(
                ExitEvent(
                    time_ns=record[1] + wall_offset_ns,
                    owner=take_exit(record),
                    code=record[8],
                    signal=record[9],
                    duration_ns=record[1] - record[4],
                )
            )
        elif kind == CGROUP:
            table.learn_cgroup(learn_cgroup(record[3], record[4]))
            cgroups += 1
        else:
            add(_socket(record, table, wall_offset_ns))
    return Translation(events, forks, cgroups)


def _socket(record: Record, table: ProcessTable, wall_offset_ns: int) -> SocketEvent:
    (
        kind, ktime_ns, _, pid, start_ns, uid, cgroup_id, cookie, source, destination, source_port, destination_port,
        protocol, label, comm, error,
    ) = record  # fmt: skip
    owner: Owner = (
        table.owner(pid, start_ns, uid=uid, cgroup_id=cgroup_id, comm=comm) if pid else LABELS[label]
    )
    return SOCKETS[kind](
        time_ns=ktime_ns + wall_offset_ns,
        owner=owner,
        protocol=protocol,
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        cookie=cookie,
        error=error,
    )
