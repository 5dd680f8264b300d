from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aegis._native.flowtable import FlowRow
from aegis.kernel import abi
from aegis.model.absent import Absent
from aegis.model.flow import Flow, encode, flags_text
from aegis.model.net import MAPPED
from aegis.model.policy import Mode, RuleName
from aegis.model.process import Cgroup, Owner, OwnerLabel, Process
from aegis.modules.observability.flows import DIRECTIONS, STATES, VERDICTS, flow_of

OFFSET = 1_790_000_000_000_000_000
CURL = Process(
    pid=71,
    start_ns=5,
    ppid=1,
    uid=1000,
    gid=1000,
    comm=b"curl",
    exe=b"/usr/bin/curl",
    args=b"curl\0",
    args_total=5,
    cwd=b"/",
    cgroup=Cgroup(id=5, path="/system.slice/x.service", unit="x.service"),
    ancestors=(),
)
RULE = RuleName(policy="no-telnet", rule="egressDeny[0]", mode=Mode.ENFORCE, deny=True)


def row(**fields: Any) -> FlowRow:
    known: dict[str, Any] = {
        **dict.fromkeys(FlowRow._fields, 0),
        "local": MAPPED + bytes([10, 0, 0, 1]),
        "remote": MAPPED + bytes([10, 0, 0, 2]),
        "local_port": 40_000,
        "remote_port": 80,
        "ifindex": 3,
        "protocol": 6,
        "packets_egress": 11,
        "packets_ingress": 13,
        "bytes_egress": 1100,
        "bytes_ingress": 1300,
        "tcp_flags_egress": 0x12,
        "tcp_flags_ingress": 0x11,
        "state": abi.FLOW_ESTABLISHED,
        "epoch": 20,
        "first_ns": 19_500_000_000,
        "generation": 4,
        "reaped": False,
    }
    return FlowRow(**(known | fields))


def shown(
    one: FlowRow, owner: Owner | None = CURL, rule: RuleName | None = None, name: str | None = "eth0"
) -> Flow:
    return flow_of(one, time_ns=OFFSET + 21, wall_offset_ns=OFFSET, owner=owner, rule=rule, interface=name)


def test_the_initiator_is_the_source() -> None:
    out = shown(row(initiator=abi.EGRESS))
    assert (out.direction, out.src, out.src_port, out.dst, out.dst_port) == (
        "egress", "10.0.0.1", 40_000, "10.0.0.2", 80,
    )  # fmt: skip
    back = shown(row(initiator=abi.INGRESS))
    assert (back.direction, back.src, back.src_port, back.dst, back.dst_port) == (
        "ingress", "10.0.0.2", 80, "10.0.0.1", 40_000,
    )  # fmt: skip
    for flow in (out, back):
        assert (flow.packets_sent, flow.bytes_sent, flow.packets_received, flow.bytes_received) == (
            11,
            1100,
            13,
            1300,
        )


def test_instants_count_from_1970() -> None:
    flow = shown(row())
    assert flow.first_ns == OFFSET + 19_500_000_000
    assert flow.last_ns == OFFSET + 20_000_000_000
    fresh = shown(row(first_ns=20_700_000_000))
    assert fresh.last_ns == fresh.first_ns, "the epoch is a second: never last before first"


@pytest.mark.parametrize("state", abi.enum("aegis_flow_state").items())
def test_states_are_the_headers(state: tuple[str, int]) -> None:
    name, number = state
    assert STATES[number].value == name.removeprefix("AEGIS_FLOW_").lower()
    assert shown(row(state=number)).state == STATES[number].value
    assert shown(row(state=number, reaped=True)).state == "closed"


def test_numbers_are_the_headers() -> None:
    verdicts = {f"AEGIS_VERDICT_{verdict.name}": at for at, verdict in enumerate(VERDICTS)}
    directions = {f"AEGIS_{direction.name}": at for at, direction in enumerate(DIRECTIONS)}
    assert verdicts == dict(abi.enum("aegis_verdict"))
    assert directions == dict(abi.enum("aegis_direction"))


def test_flags() -> None:
    assert flags_text(0x12 | 0x11) == "FSA"
    assert flags_text(0xFF) == "FSRPAUEC"
    assert shown(row()).tcp_flags == "FSA"
    udp = shown(row(protocol=17))
    assert udp.tcp_flags is None
    assert udp.tcp_flags_reason == "only TCP has flags"


def test_rules() -> None:
    ruled = shown(row(verdict=abi.VERDICT_DENY, rule=1), rule=RULE)
    assert (ruled.verdict, ruled.policy, ruled.rule, ruled.generation) == (
        "deny",
        "no-telnet",
        "egressDeny[0]",
        4,
    )
    forgotten = shown(row(verdict=abi.VERDICT_DENY, rule=1))
    assert forgotten.rule is None
    assert "not kept" in str(forgotten.rule_reason)
    assert shown(row()).policy_reason == "no rule decided"


@pytest.mark.parametrize(
    ("owner", "word", "pid"),
    [
        (CURL, "process", 71),
        (OwnerLabel.KERNEL, "kernel", None),
        (OwnerLabel.FORWARDED, "forwarded", None),
        (None, "unknown", None),
    ],
)
def test_owners(owner: Owner | None, word: str, pid: int | None) -> None:
    flow = shown(row(), owner)
    assert (flow.owner, flow.pid) == (word, pid)
    assert flow.exe == ("/usr/bin/curl" if pid else None)
    assert flow.unit == ("x.service" if pid else None)


@pytest.mark.parametrize(
    "one",
    [
        shown(row()),
        shown(row(protocol=17, fragment=1), OwnerLabel.REQUEST, None, None),
        shown(
            row(),
            msgspec.structs.replace(CURL, exe=Absent("gone"), comm=Absent("gone"), cgroup=Absent("gone")),
        ),
        shown(row(), msgspec.structs.replace(CURL, cgroup=Cgroup(id=1, path="/", unit=None))),
    ],
)
def test_null_stands_beside_a_reason(one: Flow) -> None:
    found = msgspec.json.decode(encode(one))
    for key, value in found.items():
        if not key.endswith("_reason"):
            assert (value is None) == (f"{key}_reason" in found), key
