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


class Nftables:
    """Reads by turns, the last for ever; none: it is not there."""

    reason = "not here"

    def __init__(self, *turns: dict[str, int]) -> None:
        self._turns = list(turns)

    def arrived(self) -> dict[str, int] | None:
        return None if not self._turns else self._turns.pop(0) if len(self._turns) > 1 else self._turns[0]

    marked = arrived


def counted(packets: int) -> dict[str, int]:
    return {"packets_sent": packets, "bytes_sent": 60 * packets, "packets_received": 0, "bytes_received": 0}


def settled(
    stage: Stage, nftables: Nftables | None = None
) -> tuple[list[dict[str, Any]], dict[str, int], dict[str, int] | None]:
    play = SimpleNamespace(stage=stage, nftables=nftables or Nftables())
    return Play._settled_flows(cast("Any", play), statistics(0), counted(0))


def test_waits_for_the_owner_and_for_the_last_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: 0, sleep=lambda _: None))
    ours = Stage.unit.name
    stage = Stage((flow(3, None), 3), (flow(3, ours), 4), (flow(4, ours), 4))
    flows, by_interface, by_nftables = settled(stage)
    assert flows == [flow(4, ours)]
    assert by_interface["packets_sent"] == 4
    assert by_nftables is None


def test_waits_for_nftables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: 0, sleep=lambda _: None))
    _, by_interface, by_nftables = settled(
        Stage((flow(3, Stage.unit.name), 3)), Nftables(counted(2), counted(3))
    )
    assert by_interface == by_nftables == counted(3)


def test_a_flow_of_another_is_not_waited_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    flows, _, _ = settled(Stage((flow(3, "other.service"), 3)))
    assert [row["unit"] for row in flows] == ["other.service"]


@pytest.mark.parametrize(
    ("left", "came", "dropped", "cut", "holds"),
    [
        (3, 0, 3, True, True),
        (3, 1, 3, True, False),  # one came through
        (3, 0, 2, True, False),  # we told of fewer than we took
        (0, 0, 0, True, False),  # nobody tried
        (3, 3, 0, False, True),
        (3, 2, 0, False, False),
        (3, 2, 1, False, False),
        (0, 0, 0, False, False),
    ],
)
def test_nftables_judges_what_was_cut(left: int, came: int, dropped: int, cut: bool, holds: bool) -> None:
    reading = {"left_the_client": left, "came_to_the_peer": came}
    assert steps._one_story(reading, dropped, cut=cut) is holds


@pytest.mark.parametrize(("dropped", "cut", "holds"), [(2, True, True), (0, True, False), (1, False, False)])
def test_without_nftables_our_own_account_is_left(dropped: int, cut: bool, holds: bool) -> None:
    assert steps._one_story(None, dropped, cut=cut) is holds


def test_a_missing_judge_is_named() -> None:
    play = cast("Any", SimpleNamespace(nftables=Nftables()))
    assert Play._judged(play, "nftables", None) == {"nftables": None, "nftables_reason": "not here"}
    assert Play._judged(play, "nftables", {"a": 1}) == {"nftables": {"a": 1}}
