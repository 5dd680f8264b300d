from __future__ import annotations

from typing import Any

import pytest

from aegis.agent.answers import probe_of, setting_item, with_reasons
from aegis.errors import EnvelopeInvalid
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
