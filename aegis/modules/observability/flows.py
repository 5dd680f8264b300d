"""Rows of the flow table as flows: initiator first, owner, rule and interface by name."""

from __future__ import annotations

from msgspec import UNSET

from aegis._native.flowtable import FlowRow
from aegis.model.absent import Absent
from aegis.model.flow import (
    FORGOTTEN,
    NO_FLAGS,
    NO_NAME,
    NO_POLICY,
    RULE_FORGOTTEN,
    Flow,
    FlowState,
    Owner,
    Verdict,
    flags_text,
    owner_keys,
)
from aegis.model.net import Direction, address_text, protocol_name
from aegis.model.policy import RuleName
from aegis.model.stamp import rfc3339

# By the numbers of enum aegis_flow_state, aegis_verdict and aegis_direction; a test holds them to the header.
STATES = {0: FlowState.NEW, 1: FlowState.ESTABLISHED, 3: FlowState.CLOSING, 7: FlowState.CLOSED}
VERDICTS = (Verdict.ALLOW, Verdict.AUDIT, Verdict.DENY)
DIRECTIONS = (Direction.EGRESS, Direction.INGRESS)

EPOCH_NS = 1_000_000_000  # the epoch of an entry is CLOCK_BOOTTIME in seconds

TCP = 6


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
        **owner_keys(owner or Absent(FORGOTTEN)),
    )


def _no_rule(row: FlowRow) -> str:
    return RULE_FORGOTTEN if row.rule else NO_POLICY
