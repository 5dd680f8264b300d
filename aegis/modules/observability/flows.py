"""Rows of the flow table as flows: initiator first, owner, rule and interface by name."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from aegis._native.flowtable import FlowRow
from aegis.model.absent import Absent
from aegis.model.flow import NO_POLICY, Flow, FlowState, Owner, Verdict
from aegis.model.net import Direction, address_text, protocol_name
from aegis.model.policy import RuleName
from aegis.model.process import OwnerLabel, readable
from aegis.model.stamp import rfc3339

# By the numbers of enum aegis_flow_state, aegis_verdict and aegis_direction; a test holds them to the header.
STATES = {0: FlowState.NEW, 1: FlowState.ESTABLISHED, 3: FlowState.CLOSING, 7: FlowState.CLOSED}
VERDICTS = (Verdict.ALLOW, Verdict.AUDIT, Verdict.DENY)
DIRECTIONS = (Direction.EGRESS, Direction.INGRESS)

EPOCH_NS = 1_000_000_000  # the epoch of an entry is CLOCK_BOOTTIME in seconds

TCP = 6
TCP_FLAGS = "FSRPAUEC"  # FIN SYN RST PSH ACK URG ECE CWR, from the lowest bit; RFC 9293 section 3.1
NO_FLAGS = "only TCP has flags"
NO_NAME = "no sensor of names is built yet"
FORGOTTEN = "its process has ended and is not kept any more"
RULE_FORGOTTEN = "the rule is of a policy set that is not kept any more"
NO_UNIT = "no part of the cgroup's path is a systemd unit"


def flow_of(
    row: FlowRow,
    *,
    time_ns: int,
    wall_offset_ns: int,
    owner: Owner | None,
    rule: RuleName | None,
    interface: str | None,
) -> Flow:
    """One row as a flow. `wall_offset_ns` is the wall clock minus CLOCK_BOOTTIME, `time_ns` when the row was read.

    `rule` None where the row names one means that it is forgotten; `interface` None that it is gone.
    """
    outgoing = DIRECTIONS[row.initiator] is Direction.EGRESS
    here, there = address_text(row.local), address_text(row.remote)
    return Flow(
        time=rfc3339(time_ns),
        time_ns=time_ns,
        protocol=protocol_name(row.protocol),
        src=here if outgoing else there,
        src_port=row.local_port if outgoing else row.remote_port,
        dst=there if outgoing else here,
        dst_port=row.remote_port if outgoing else row.local_port,
        direction=DIRECTIONS[row.initiator].value,
        interface=interface,
        interface_reason=UNSET if interface else f"no interface has the index {row.ifindex} any more",
        packets_sent=row.packets_egress,
        bytes_sent=row.bytes_egress,
        packets_received=row.packets_ingress,
        bytes_received=row.bytes_ingress,
        packets_dropped=row.dropped_packets,
        tcp_flags=flags_text(row.tcp_flags_egress | row.tcp_flags_ingress) if row.protocol == TCP else None,
        tcp_flags_reason=UNSET if row.protocol == TCP else NO_FLAGS,
        first_ns=row.first_ns + wall_offset_ns,
        last_ns=max(row.first_ns, row.epoch * EPOCH_NS) + wall_offset_ns,
        state=FlowState.CLOSED.value if row.reaped else STATES[row.state].value,
        fragment=bool(row.fragment),
        verdict=VERDICTS[row.verdict].value,
        policy=rule.policy if rule else None,
        policy_reason=UNSET if rule else _no_rule(row),
        rule=rule.rule if rule else None,
        rule_reason=UNSET if rule else _no_rule(row),
        generation=row.generation,
        name=None,
        name_reason=NO_NAME,
        **_owner(owner),
    )


def flags_text(flags: int) -> str:
    """Flags seen in either direction, a letter each: `FSPA`."""
    return "".join(letter for bit, letter in enumerate(TCP_FLAGS) if flags >> bit & 1)


def _no_rule(row: FlowRow) -> str:
    return RULE_FORGOTTEN if row.rule else NO_POLICY


def _owner(owner: Owner | None) -> dict[str, Any]:
    if owner is None:
        return _nobody(OwnerLabel.UNKNOWN, FORGOTTEN)
    if isinstance(owner, OwnerLabel):
        return _nobody(owner, owner.reason)
    keys: dict[str, Any] = {
        "owner": "process",
        "pid": owner.pid,
        "start_ns": owner.start_ns,
        "uid": owner.uid,
    }
    unit = owner.cgroup if isinstance(owner.cgroup, Absent) else owner.cgroup.unit or Absent(NO_UNIT)
    path = owner.cgroup if isinstance(owner.cgroup, Absent) else owner.cgroup.path
    for name, value in (("comm", owner.comm), ("exe", owner.exe), ("unit", unit), ("cgroup", path)):
        keys[name] = (
            None if isinstance(value, Absent) else readable(value) if isinstance(value, bytes) else value
        )
        keys[f"{name}_reason"] = value.reason if isinstance(value, Absent) else UNSET
    return keys


_OWNER_KEYS = ("pid", "start_ns", "comm", "exe", "unit", "cgroup", "uid")


def _nobody(label: OwnerLabel, reason: str) -> dict[str, Any]:
    return {
        "owner": label.value,
        **dict.fromkeys(_OWNER_KEYS),
        **{f"{key}_reason": reason for key in _OWNER_KEYS},
    }
