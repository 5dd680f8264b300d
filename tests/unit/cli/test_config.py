"""`aegis config` without an agent: its rows have the shape of the agent's, and it says where they come from."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from aegis.agent.answers import setting_item
from aegis.cli.config import config, local_rows
from aegis.runtime.config import load


def test_local_rows_are_as_the_agents_with_a_reason_for_each_absence() -> None:
    rows = local_rows(None)
    assert [set(row) for row in rows] == [set(setting_item(one)) for one in load(None).values()]
    absent = [row for row in rows if row["value"] is None]
    assert absent
    assert all(row["value_reason"] for row in absent)


def test_show_says_when_no_agent_answered() -> None:
    result = CliRunner().invoke(config, ["show", "-o", "json"], obj="/nonexistent/agent.sock")
    assert result.exit_code == 0
    assert "no agent answers at /nonexistent/agent.sock" in result.output
    assert "reading the files from here" in result.output


def test_show_of_a_named_file_asks_nobody(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[enforcement]\non_stop = "detach"\n')
    result = CliRunner().invoke(
        config, ["show", "--config", str(file), "-o", "json"], obj="/nonexistent/agent.sock"
    )
    shown = {row["option"]: row for row in map(json.loads, result.output.splitlines())}
    assert shown["enforcement.on_stop"]["origin"] == f"{file}:2"
