"""`aegis doctor` without an agent answers in the shape of the agent's own answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aegis.agent import interface_feature
from aegis.agent.answers import Answers
from aegis.cli import doctor
from aegis.errors import ConfigError
from aegis.kernel import features, type_information
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
    monkeypatch.setattr(features, "probe_all", lambda *_, **__: FOUND)
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


def test_without_an_agent_what_is_configured_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface_feature, "of_host", lambda _: WATCHED)
    file = tmp_path / "agent.toml"
    file.write_text(f'[kernel]\nbtf = "{tmp_path}/btf"\ncgroup_root = "{tmp_path}"\n')
    rows = {row["feature"]: row for row in doctor.local_rows(file)}
    assert rows["btf"]["state"] != "ok"
    assert f"{tmp_path}/btf: No such file" in rows["btf"]["reason"]
    assert rows["cgroup2"]["source"] == str(tmp_path)
    with pytest.raises(ConfigError):
        doctor.local_rows(tmp_path / "absent.toml")


def test_a_broken_configuration_is_told_and_the_defaults_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interface_feature, "of_host", lambda _: WATCHED)
    monkeypatch.setenv("AEGIS_KERNEL__BTF", "")
    rows = {row["feature"]: row for row in doctor.local_rows()}
    assert rows["btf"]["source"] == type_information.VMLINUX
    assert "AEGIS_KERNEL__BTF: kernel.btf: must name a path" in capsys.readouterr().err
