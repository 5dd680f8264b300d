"""The first step of the demo judges what is there when all is still, not what was there first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aegis.cli.demo import steps
from aegis.cli.demo.stage import INTERFACE
from aegis.cli.demo.steps import Play
from aegis.host.rtnetlink import LinkStatistics


def flow(packets: int, unit: str | None) -> dict[str, Any]:
    return {
        "interface": INTERFACE,
        "packets_sent": packets,
        "bytes_sent": 60 * packets,
        "packets_received": 0,
        "bytes_received": 0,
        "unit": unit,
    }


def statistics(packets: int) -> LinkStatistics:
    fields = dict.fromkeys(LinkStatistics.__dataclass_fields__, 0)
    return LinkStatistics(**{**fields, "tx_packets": packets, "tx_bytes": 60 * packets})


class Stage:
    """Answers by turns; the last ones for ever."""

    unit = Path("/sys/fs/cgroup/demo/ours.service")

    def __init__(self, *turns: tuple[dict[str, Any], int]) -> None:
        self._turns = list(turns)

    def ask(self, _verb: str) -> list[dict[str, Any]]:
        return [self._turns[0][0]]

    def statistics(self) -> LinkStatistics:
        return statistics((self._turns.pop(0) if len(self._turns) > 1 else self._turns[0])[1])


def settled(stage: Stage) -> tuple[list[dict[str, Any]], dict[str, int]]:
    return Play._settled_flows(cast("Any", SimpleNamespace(stage=stage)), statistics(0))


def test_waits_for_the_owner_and_for_the_last_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: 0, sleep=lambda _: None))
    ours = Stage.unit.name
    stage = Stage((flow(3, None), 3), (flow(3, ours), 4), (flow(4, ours), 4))
    flows, counted = settled(stage)
    assert flows == [flow(4, ours)]
    assert counted["packets_sent"] == 4


def test_a_flow_of_another_is_not_waited_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    flows, _ = settled(Stage((flow(3, "other.service"), 3)))
    assert [row["unit"] for row in flows] == ["other.service"]
