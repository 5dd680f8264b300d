"""`aegis flows`: which are shown and in what order, and that a deadline covers all of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aegis.cli import flows
from aegis.cli.flows import _predicate, sorted_by

ROWS = [{"protocol": "tcp", "src_port": number, "dst_port": 1, "last_ns": number} for number in range(50)]


def options(**given: Any) -> dict[str, Any]:
    none: dict[str, Any] = dict.fromkeys(("verdicts", "protocols", "ports", "filters", "negated"), ())
    return {**none, "process": None, "since": None, **given}


def test_since_means_the_last_packet_not_the_reading() -> None:
    now = time.time_ns()
    holds = _predicate(options(since="1m"))
    assert holds({"time_ns": now, "last_ns": now})
    assert not holds({"time_ns": now, "last_ns": now - 3600 * 10**9})


def test_sort_takes_empty_text_and_puts_the_absent_last() -> None:
    rows: list[dict[str, Any]] = [{"tcp_flags": flags} for flags in ("SF", None, "", "A")]
    assert [row["tcp_flags"] for row in sorted_by(rows, "tcp_flags")] == ["", "A", "SF", None]
    assert [row["tcp_flags"] for row in sorted_by(rows, "-tcp_flags")] == ["SF", "A", "", None]


def test_the_deadline_covers_the_question_too(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        done = subprocess.run(
            [sys.executable, "-m", "aegis.cli.main", "--socket", str(path), "flows", "--timeout", "0.3"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 124, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "asked", "shown"),
    [
        ((), {"last": 20}, range(30, 50)),
        (("--last", "3"), {"last": 3}, range(47, 50)),
        (("--last", "0"), {}, range(50)),
        (("--port", "7"), {}, (7,)),
        (("--last", "2", "--filter", "src_port<10"), {}, (8, 9)),
        (("--last", "2", "--not", "src_port>40"), {}, (39, 40)),
    ],
)
def test_it_asks_for_no_more_than_it_shows(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], asked: dict[str, int], shown: range
) -> None:
    requests: list[dict[str, Any]] = []

    def request(_path: str, verb: str, args: dict[str, Any], *, timeout_s: float) -> Iterator[dict[str, Any]]:
        assert (verb, timeout_s > 0) == ("flows", True)
        requests.append(args)
        yield from ROWS[-args.get("last", 0) :]

    monkeypatch.setattr(flows, "request", request)
    done = CliRunner().invoke(flows.flows, [*arguments, "-o", "json"], obj="socket", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert requests == [asked]
    assert [json.loads(line)["src_port"] for line in done.output.splitlines()] == list(shown)
