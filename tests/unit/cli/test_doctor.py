"""`aegis doctor` without an agent answers in the shape of the agent's own answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aegis.agent import interface_feature
from aegis.agent.answers import Answers
from aegis.cli import doctor
from aegis.kernel import features
from aegis.kernel.features import Feature
from aegis.model.link import LinkState

FOUND = (
    Feature(name="bpf", state="ok", source="", reason="", effect="", hint=""),
    Feature(name="tcx", state="missing", source="tried", reason="r", effect="e", hint="h"),
)
WATCHED = Feature(name="interfaces", state="ok", source="watched: eth0", reason="", effect="", hint="")


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in {"time", "time_ns"}} for row in rows]


def test_local_rows_are_as_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "probe_all", lambda: FOUND)
    monkeypatch.setattr(interface_feature, "of_host", lambda _: WATCHED)
    monkeypatch.setattr(interface_feature, "of_agent", lambda *_: WATCHED)
    agent = SimpleNamespace(
        kernel=SimpleNamespace(
            features=SimpleNamespace(probe=lambda: FOUND),
            names=SimpleNamespace(features=tuple),
            datapath=None,
        ),
        conditions=SimpleNamespace(all=tuple),
        uplink=SimpleNamespace(status=lambda: SimpleNamespace(state=LinkState.UNCONFIGURED)),
    )
    told = cast("list[dict[str, Any]]", asyncio.run(Answers(cast("Any", agent)).doctor({})))
    assert without_time(doctor.local_rows()) == without_time(told)
    assert [row["feature"] for row in told] == ["bpf", "tcx", "interfaces"]
