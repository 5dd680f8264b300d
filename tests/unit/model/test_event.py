"""Events as JSON: the keys of each type, null beside a reason, and nothing a process can put in breaks it."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.model.absent import Absent
from aegis.model.event import (
    TYPES,
    AcceptEvent,
    ConnectEvent,
    Event,
    ExecEvent,
    ExitEvent,
    ListenEvent,
    LossEvent,
    VerdictEvent,
    encode,
)
from aegis.model.flow import Verdict
from aegis.model.net import MAPPED, Direction
from aegis.model.process import Ancestor, Cgroup, OwnerLabel, Process

HEAD = ["schema", "version", "time", "time_ns", "type"]
PROCESS = [
    "pid", "start_ns", "ppid", "uid", "comm", "exe", "args", "args_truncated", "cwd", "cgroup", "unit", "ancestors",
]  # fmt: skip
SOCKET = ["protocol", "src", "src_port", "dst", "dst_port", "name"]
ENDS: dict[str, Any] = {
    "protocol": 6,
    "source": MAPPED + bytes([127, 0, 0, 1]),
    "source_port": 40_001,
    "destination": bytes(15) + b"\x01",
    "destination_port": 22,
    "cookie": 9,
}

BASH = Process(
    pid=71,
    start_ns=5_000_000_123,
    ppid=1,
    uid=1000,
    gid=1000,
    comm=b"bash",
    exe=b"/bin/bash",
    args=b"bash\0-c\0\0",
    args_total=9,
    cwd=b"/home",
    cgroup=Cgroup(id=5, path="/system.slice/x.service", unit="x.service"),
    ancestors=(Ancestor(pid=1, start_ns=2, comm=b"init", exe=Absent("not seen")),),
)


def rendered(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(event))
    assert list(found)[:5] == HEAD
    assert found["schema"] == "aegis.event"
    assert found["type"] == event.type
    for key, value in found.items():
        if not key.endswith("_reason"):
            assert (value is None) == (f"{key}_reason" in found), key
    return found


def test_exec() -> None:
    found = rendered(ExecEvent(time_ns=1_500_000_000, owner=BASH))
    assert set(HEAD + PROCESS) <= found.keys()
    assert found["time"] == "1970-01-01T00:00:01.500000000Z"
    assert found["time_ns"] == 1_500_000_000
    assert found["pid"] == 71
    assert found["args"] == ["bash", "-c", ""]
    assert found["args_truncated"] is False
    assert found["args_bytes"] == 9
    assert found["unit"] == "x.service"
    assert found["owner"] == "process"
    assert found["ancestors"] == [
        {"pid": 1, "start_ns": 2, "comm": "init", "exe": None, "exe_reason": "not seen"}
    ]


@pytest.mark.parametrize(
    ("code", "signal", "shown"), [(3, 0, (3, None)), (0, 9, (None, 9)), (0, 0, (0, None))]
)
def test_exit(code: int, signal: int, shown: tuple[int | None, int | None]) -> None:
    found = rendered(ExitEvent(time_ns=1, owner=BASH, code=code, signal=signal, duration_ns=12))
    assert (found["code"], found["signal"]) == shown
    assert found["duration_ns"] == 12


@pytest.mark.parametrize("kind", [ConnectEvent, AcceptEvent, ListenEvent])
def test_sockets(kind: type[ConnectEvent | AcceptEvent | ListenEvent]) -> None:
    found = rendered(kind(time_ns=1, owner=BASH, **ENDS))
    assert set(HEAD + PROCESS + SOCKET) <= found.keys()
    assert (found["protocol"], found["src"], found["src_port"]) == ("tcp", "127.0.0.1", 40_001)
    listens = kind is ListenEvent
    assert (found["dst"], found["dst_port"]) == ((None, None) if listens else ("::1", 22))
    assert found.get("result") == ("established" if kind is ConnectEvent else None)


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ETIMEDOUT, errno.ECANCELED])
def test_a_connection_that_failed_says_why(number: int) -> None:
    found = rendered(ConnectEvent(time_ns=1, owner=BASH, error=number, **ENDS))
    assert found["result"] == errno.errorcode[number]


@pytest.mark.parametrize("label", OwnerLabel)
def test_an_owner_that_is_no_process(label: OwnerLabel) -> None:
    found = rendered(AcceptEvent(time_ns=1, owner=label, **ENDS))
    assert set(PROCESS) <= found.keys()
    assert found["owner"] == label.value
    assert found["pid"] is None
    assert found["exe_reason"] == label.reason


def test_verdict() -> None:
    event = VerdictEvent(
        time_ns=1,
        owner=OwnerLabel.FORWARDED,
        verdict=Verdict.DENY,
        policy="no-telnet",
        rule="egressDeny[0]",
        generation=4,
        suppressed=2,
        direction=Direction.EGRESS,
        interface="eth0",
        fragment=False,
        **ENDS,
    )
    found = rendered(event)
    assert {"verdict", "policy", "rule", "generation", "direction", "interface"} <= found.keys()
    assert (found["verdict"], found["rule"], found["suppressed"]) == ("deny", "egressDeny[0]", 2)


def test_loss() -> None:
    found = rendered(LossEvent(time_ns=1, stage="queue", kind="process", reason="queue_full", count=7))
    assert {key: found[key] for key in ("stage", "kind", "reason", "count")} == {
        "stage": "queue",
        "kind": "process",
        "reason": "queue_full",
        "count": 7,
    }


def test_the_types_are_these() -> None:
    def leaves(kind: type[Event]) -> set[str]:
        below = [name for child in kind.__subclasses__() for name in leaves(child)]
        return set(below) if below else {kind.type}

    assert leaves(Event) == set(TYPES)


@given(st.binary(max_size=15), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_whatever_a_process_calls_itself_the_line_is_one_json_object(
    comm: bytes, exe: bytes, args: bytes, cwd: bytes
) -> None:
    hostile = Process(
        pid=1,
        start_ns=1,
        ppid=Absent("unknown"),
        uid=0,
        gid=0,
        comm=comm,
        exe=exe,
        args=args,
        args_total=len(args) + 1,
        cwd=cwd,
        cgroup=Absent("unknown"),
        ancestors=(Ancestor(pid=1, start_ns=1, comm=comm, exe=exe),),
    )
    line = encode(ExecEvent(time_ns=0, owner=hostile))
    assert all(byte >= 0x20 for byte in line), "one event, one line"
    found = json.loads(line)
    assert found["args_truncated"] is True
    assert found["ppid"] is None
