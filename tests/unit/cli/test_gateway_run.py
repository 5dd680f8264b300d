from __future__ import annotations

import importlib.util
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from aegis.cli.extras import line_for
from aegis.cli.gateway_run import _Address, run


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("gw.example:65535", ("gw.example", 65535)),
    ],
)
def test_an_address(text: str, address: tuple[str, int]) -> None:
    assert _Address().convert(text, None, None) == address


@pytest.mark.parametrize("text", ["", "8080", ":8080", "h:", "h:x", "h:65536", "h:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(click.BadParameter):
        _Address().convert(text, None, None)


def test_a_missing_extra_names_the_line_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in {"litestar", "uvicorn"} else find(name)
    )
    monkeypatch.setattr("aegis.cli.gateway_run._Asked", lambda: None)
    result = CliRunner().invoke(run, ["--data-dir", "/nowhere"])
    assert result.exit_code == 4
    assert "litestar, uvicorn" in result.output
    assert f"hint: {line_for('gateway')}" in result.output


def test_help_names_every_flag() -> None:
    said = CliRunner().invoke(run, ["--help"]).output
    flags = "--listen --actions-listen --data-dir --store --bus --allow-v1 --tls-cert --tls-key --insecure --advertise"
    flags += " --most-agents"
    assert [flag for flag in flags.split() if flag not in said] == []


SECLUDED = """
import sys
from aegis.cli import gateway_run
from aegis._native._system import lib
PR_GET_DUMPABLE = 3
gateway_run._new_loop_run = lambda *_: print(lib.prctl(PR_GET_DUMPABLE))
print(lib.prctl(PR_GET_DUMPABLE), flush=True)
gateway_run.run(["--data-dir", "/nowhere"])
"""


def test_a_gateway_leaves_no_core_dump_with_its_keys() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SECLUDED], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["1", "0"]
