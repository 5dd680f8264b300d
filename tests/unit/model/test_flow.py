from __future__ import annotations

import json

from aegis.kernel import abi
from aegis.model.flow import Flow, FlowState, Verdict, encode

KEYS = [
    "schema", "version", "time", "time_ns", "protocol", "src", "src_port", "dst", "dst_port", "direction", "interface",
    "packets_sent", "bytes_sent", "packets_received", "bytes_received", "tcp_flags", "first_ns", "last_ns", "state",
    "verdict", "policy", "rule", "generation", "pid", "exe", "unit", "cgroup", "uid", "name",
]  # fmt: skip


def test_one_object_with_every_key() -> None:
    flow = Flow(
        time="1970-01-01T00:00:00.000000001Z",
        time_ns=1,
        protocol="udp",
        src="192.0.2.1",
        src_port=53,
        dst="192.0.2.2",
        dst_port=4000,
        direction="ingress",
        interface="eth0",
        packets_sent=1,
        bytes_sent=2,
        packets_received=3,
        bytes_received=4,
        packets_dropped=0,
        tcp_flags=None,
        tcp_flags_reason="only TCP has flags",
        first_ns=1,
        last_ns=2,
        state="new",
        fragment=False,
        verdict="allow",
        policy=None,
        policy_reason="no rule decided",
        rule=None,
        rule_reason="no rule decided",
        generation=0,
        owner="kernel",
        pid=None,
        start_ns=None,
        comm=None,
        exe=None,
        unit=None,
        cgroup=None,
        uid=None,
        name=None,
    )
    found = json.loads(encode(flow))
    assert set(KEYS) <= found.keys()
    assert next(iter(found)) == "schema"
    assert found["schema"] == "aegis.flow"
    assert found["rule_reason"] == "no rule decided"


def test_words_are_the_headers() -> None:
    states = [name.removeprefix("AEGIS_FLOW_").lower() for name in abi.enum("aegis_flow_state")]
    verdicts = [name.removeprefix("AEGIS_VERDICT_").lower() for name in abi.enum("aegis_verdict")]
    assert [state.value for state in FlowState] == states
    assert [verdict.value for verdict in Verdict] == verdicts
