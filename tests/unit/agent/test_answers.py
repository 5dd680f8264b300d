from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aegis.agent.answers import gateway_part, link_features, module_item, probe_of, setting_item, with_reasons
from aegis.errors import EnvelopeInvalid
from aegis.model.absent import Absent
from aegis.model.link import LinkState, LinkStatus
from aegis.model.module import ModuleState, ModuleStatus
from aegis.model.net import Direction, address_bytes
from aegis.runtime.config import Setting


def test_a_five_tuple_is_read() -> None:
    probe = probe_of({"protocol": "TCP", "dst": "10.0.0.1", "dst_port": 23})
    assert (probe.direction, probe.protocol, probe.destination_port) == (Direction.EGRESS, 6, 23)
    assert probe.destination == address_bytes("10.0.0.1")
    probe = probe_of({"protocol": "58", "src": "fd00::1"})
    assert (probe.direction, probe.protocol, probe.source) == (
        Direction.INGRESS,
        58,
        address_bytes("fd00::1"),
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"protocol": "nonsense", "dst": "10.0.0.1"}, "protocol 'nonsense' is unknown"),
        ({"protocol": "256", "dst": "10.0.0.1"}, "protocol '256' is unknown"),
        ({"protocol": "9" * 5000, "dst": "10.0.0.1"}, "is unknown"),
        ({"protocol": "\u0666", "dst": "10.0.0.1"}, "is unknown"),
        ({"protocol": "-1", "dst": "10.0.0.1"}, "protocol '-1' is unknown"),
        ({"protocol": "tcp", "dst": "1" * 5000}, "is no address"),
        ({"protocol": "tcp", "dst": "10.0.0.1", "dst_port": 10**30}, "dst_port must be from 0 to 65535"),
        ({"protocol": "tcp", "dst": "10.0.0.256"}, "dst '10.0.0.256' is no address"),
        ({"protocol": "tcp", "dst": "10.0.0.1", "dst_port": 65536}, "dst_port must be from 0 to 65535"),
        ({"protocol": "tcp", "dst": "10.0.0.1", "direction": "up"}, "direction must be"),
        ({"protocol": "tcp", "dst": "10.0.0.1", "direction": "ingress"}, "src is missing"),
        ({"protocol": "tcp"}, "src is missing"),
    ],
)
def test_what_is_wrong_with_a_five_tuple_is_named(args: dict[str, Any], said: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=said):
        probe_of(args)


def test_an_absent_value_has_its_reason() -> None:
    assert with_reasons({"a": None, "b": 1}, {"a": "why", "b": "not this"}) == {
        "a": None,
        "b": 1,
        "a_reason": "why",
    }
    item = setting_item(Setting(path="kernel.flow_entries", value=None, origin="default"))
    assert (item["schema"], item["value"], item["value_reason"]) == ("aegis.config", None, "decided at start")


def link_status(state: LinkState, **values: Any) -> LinkStatus:
    absent = Absent("why not")
    found = {
        "url": absent,
        "uid": absent,
        "protocol": absent,
        "authenticated_ns": absent,
        "insecure_v1": absent,
    }
    return LinkStatus(state=state, **{"reason": "", "since_ns": 0} | found | values)


def test_the_gateway_part_has_a_reason_for_each_absent_value() -> None:
    part = msgspec.to_builtins(gateway_part(link_status(LinkState.UNCONFIGURED)))
    for name in ("url", "protocol", "authenticated_since", "insecure_v1"):
        assert (part[name], part[f"{name}_reason"]) == (None, "why not")
    assert (part["state"], part["reason"], part["reason_reason"]) == (
        "unconfigured",
        None,
        "nothing to explain",
    )
    part = msgspec.to_builtins(
        gateway_part(
            link_status(
                LinkState.CONNECTED,
                url="ws://x",
                protocol="v1",
                authenticated_ns=0,
                insecure_v1=True,
                reason="r",
            )
        )
    )
    assert part == {
        "url": "ws://x",
        "state": "connected",
        "reason": "r",
        "protocol": "v1",
        "authenticated_since": "1970-01-01T00:00:00.000000000Z",
        "insecure_v1": True,
    }


def test_the_link_is_a_row_of_doctor_where_there_is_to_be_one() -> None:
    assert link_features(link_status(LinkState.UNCONFIGURED)) == ()
    (row,) = link_features(link_status(LinkState.CONNECTED, up=True))
    assert (row.name, row.state) == ("gateway", "degraded")
    (row,) = link_features(link_status(LinkState.REGISTERING, reason="not written down", up=True))
    assert (row.state, row.reason) == ("degraded", "not written down")
    assert "records wait" not in row.effect
    (row,) = link_features(link_status(LinkState.BACKOFF, reason="nobody there"))
    assert (row.state, row.reason) == ("missing", "nobody there")
    (row,) = link_features(link_status(LinkState.CONNECTING))
    assert row.reason == "connecting"


def test_a_module_is_an_item() -> None:
    item = module_item(
        ModuleStatus(name="telemetry", state=ModuleState.RUNNING, reason="", since_ns=0, restarts=1)
    )
    assert (item["schema"], item["name"], item["state"], item["reason"]) == (
        "aegis.module",
        "telemetry",
        "running",
        None,
    )
    assert all(item[f"{name}_reason"] for name in ("reason", "cpu_percent", "memory_bytes"))
