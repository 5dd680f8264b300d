"""The command table: every entry is real, every failure has its exit code."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import click
import pytest

from aegis.cli import main as entry
from aegis.cli.client import AgentError
from aegis.cli.exits import exit_code_of
from aegis.cli.main import COMMANDS
from aegis.errors import (
    AegisError,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    ModuleUnknown,
    PermissionDenied,
    PolicyInvalid,
    PolicyNotFound,
)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_of_the_table_exists_and_helps(name: str) -> None:
    module, attribute, _ = COMMANDS[name]
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help or command.get_short_help_str()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AegisError("x"), 1),
        (ConnectFailed("x"), 3),
        (ConnectionLost("x"), 3),
        (PermissionDenied("x"), 4),
        (PolicyNotFound("a", "x"), 5),
        (ModuleUnknown("x"), 5),
        (PolicyInvalid("a", "x"), 6),
        (ConfigError((("a", "b", "c"),)), 6),
        (AgentError({"code": "permission_denied", "text": "x"}), 4),
        (AgentError({"code": "policy_unenforceable", "text": "x"}), 6),
        (AgentError({"code": "never_heard_of", "text": "x"}), 1),
    ],
)
def test_exit_codes(error: AegisError, code: int) -> None:
    assert exit_code_of(error) == code


def aegis(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aegis.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_nobody_at_the_socket_is_exit_3_in_one_line() -> None:
    done = aegis("--socket", "/nonexistent/agent.sock", "status")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("aegis: connect_failed: no agent answers at /nonexistent/agent.sock")
    assert "Traceback" not in done.stderr


def test_unknown_command_is_exit_2() -> None:
    assert aegis("nonsense").returncode == 2


def test_broken_pipe_is_silent() -> None:
    done = subprocess.run(
        f"{sys.executable} -c \"import json;[print(json.dumps(dict(pid=i,type='exec'))) for i in range(200000)]\" 2>/dev/null"
        f" | {sys.executable} -m aegis.cli.main events --input-file - -o json | head -1; echo ${{PIPESTATUS[1]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines()[1] == "141"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("-o", "json", "--version"), ("--version", "-o", "json")])
def test_version_as_json_in_either_order(arguments: tuple[str, ...]) -> None:
    assert json.loads(aegis(*arguments).stdout)["json"] == 1


def test_version_refuses_a_format_it_has_not() -> None:
    assert aegis("-o", "csv", "--version").returncode == 2


def test_format_before_the_command_is_the_commands() -> None:
    for arguments in (("-o", "json", "config", "check"), ("-o", "yaml", "config", "check", "-o", "json")):
        assert json.loads(aegis(*arguments).stdout)["ok"] is True
    refused = aegis("-o", "csv", "config", "check")
    assert refused.returncode == 2
    assert "'csv' is not one of" in refused.stderr
    assert aegis("-o", "yaml", "demo").returncode == 2


def test_every_command_has_the_format_option_or_its_own() -> None:
    """Else `aegis -o json COMMAND` would print something else without a word."""

    def leaves(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            return [
                leaf
                for name, child in command.commands.items()
                for leaf in leaves(child, f"{path} {name}".strip())
            ]
        return [(path, command)]

    for name, (module, attribute, _) in COMMANDS.items():
        for path, command in leaves(getattr(importlib.import_module(module), attribute), name):
            assert path == "demo" or "output" in [parameter.name for parameter in command.params], path


@pytest.mark.parametrize("flow", ["[1]", "5", "[" * 100_000])
def test_explain_of_what_is_no_object_is_a_usage_error(flow: str) -> None:
    done = aegis("policy", "explain", flow)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_what_nobody_foresaw_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> object:
        raise ValueError("a\nb")

    monkeypatch.setattr(entry, "_run", fail)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "aegis: internal_error: ValueError: a b\n"
