"""The table of channels has no gaps, and names are taken apart as they were put together."""

from __future__ import annotations

import pytest

from aegis.model.block import BlockClass
from aegis.protocol import channels
from aegis.protocol.channels import Down, Up, carriage, split_down, split_up, up


def test_every_class_has_one_carriage() -> None:
    assert set(channels.BATCHES) == set(BlockClass)
    assert len({each.kind for each in channels.BATCHES.values()}) == len(BlockClass)


def test_every_row_is_found_by_channel_and_kind() -> None:
    assert [carriage(each.channel, each.kind) for each in channels.CARRIAGES] == list(channels.CARRIAGES)
    assert carriage(Up.PROCESSES, "samples") is None
    assert carriage(Up.HEARTBEAT, "events") is None


def test_the_kinds_of_the_documents() -> None:
    found = {(each.channel.value, each.kind) for each in channels.CARRIAGES}
    assert found == {
        ("processes", "events"), ("status", "flows"), ("status", "answer"), ("status", "state"),
        ("threats", "findings"), ("policies", "answer"), ("policies", "verdicts"), ("logs", "samples"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", Up)
def test_names_up(kind: Up) -> None:
    assert split_up(up("agent-1", kind)) == ("agent-1", kind)


@pytest.mark.parametrize(
    "name",
    ["", "heartbeat", "agent", "agent.x", "agent.status", "agent.x.telemetry", "agent.a.b.heartbeat", "Agent.x.heartbeat",
     "agent.x.heartbeat.y", "backend.x.heartbeat", "agent.x.HEARTBEAT", "agent.x.", "agent..", "agent.registration", "../x"],
)  # fmt: skip
def test_other_names_up(name: str) -> None:
    assert split_up(name) is None


@pytest.mark.parametrize("kind", Down)
def test_names_down(kind: Down) -> None:
    assert split_down(f"backend.{kind}") == (None, kind)
    assert split_down(f"backend.u.{kind}") == ("u", kind)
    assert split_down(f"agent.u.{kind}") == ("u", kind)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "policies",
        "backend",
        "agent.policies",
        "backend.x.y.policies",
        "backend.nothing",
        "other.u.policies",
        "backend.",
    ],
)
def test_other_names_down(name: str) -> None:
    assert split_down(name) is None
