"""`aegis events` over saved lines: the filters, the compact line and the endings."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from aegis.cli.events import compact, endpoint, events, parse_instant, saved_rows

EXEC = {
    "schema": "aegis.event",
    "version": 1,
    "time": "2026-11-23T08:00:00.123456Z",
    "time_ns": 1795420800123456000,
    "type": "exec",
    "pid": 41,
    "exe": "/usr/bin/curl",
    "comm": "curl",
    "unit": "fetch.service",
    "args": ["curl", "-s", "x\ny"],
}
DENY = {
    "schema": "aegis.event",
    "version": 1,
    "time": "2026-11-23T08:00:01.000000Z",
    "time_ns": 1795420801000000000,
    "type": "verdict",
    "pid": 42,
    "exe": None,
    "comm": "nc",
    "protocol": "TCP",
    "src": "fd00::1",
    "src_port": 4000,
    "dst": "10.0.0.2",
    "dst_port": 23,
    "verdict": "deny",
    "policy": "no-telnet",
    "rule": "egressDeny[0]",
}


def run(tmp_path: Path, *arguments: str) -> list[str]:
    saved = tmp_path / "saved.json"
    saved.write_text("".join(json.dumps(row) + "\n" for row in (EXEC, DENY)))
    result = CliRunner().invoke(events, ["--input-file", str(saved), *arguments], obj="/nowhere")
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_compact_lines() -> None:
    assert compact(EXEC) == r"08:00:00.123456 + exec    /usr/bin/curl[41] (fetch.service) -s x\ny"
    assert compact(DENY) == (
        "08:00:01.000000 # verdict nc[42] TCP [fd00::1]:4000 -> 10.0.0.2:23 deny no-telnet egressDeny[0]"
    )


@pytest.mark.parametrize(
    ("arguments", "pids"),
    [
        ((), [41, 42]),
        (("--type", "verdict"), [42]),
        (("--type", "exec,verdict", "--first", "1"), [41]),
        (("--process", "curl"), [41]),
        (("--process", "^nc$"), [42]),
        (("--filter", "dst_port==23", "--filter", "verdict==deny"), [42]),
        (("--since", "2026-11-23T08:00:00.5Z"), [42]),
        (("--until", "2026-11-23T08:00:00.5Z"), [41]),
    ],
)
def test_filters_over_saved_lines(tmp_path: Path, arguments: tuple[str, ...], pids: list[int]) -> None:
    assert [json.loads(line)["pid"] for line in run(tmp_path, "-o", "json", *arguments)] == pids


def test_fields_choose_columns(tmp_path: Path) -> None:
    assert run(tmp_path, "-o", "csv", "--fields", "pid,comm") == ["pid,comm", "41,curl", "42,nc"]


def test_saved_line_that_is_no_object_is_named() -> None:
    with pytest.raises(click.UsageError, match="line 2"):
        list(saved_rows(['{"a": 1}\n', "nonsense\n"]))
    with pytest.raises(click.UsageError, match="line 1: not an object"):
        list(saved_rows(["[]\n"]))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"src": 5}', "line 1: src is not text"),
        (b'{"time_ns": "now"}', "line 1: time_ns is not a whole number"),
        (b'{"type": ["exec"]}', "line 1: type is not text"),
        (b'{"type": "exec", "args": 7}', "line 1: args is not a list"),
        (b'{"comm": "\xff\xfe"}', "line 1: not UTF-8"),
        (b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_saved_line_that_is_no_event_is_named(tmp_path: Path, line: bytes, complaint: str) -> None:
    saved = tmp_path / "saved.json"
    saved.write_bytes(line + b"\n")
    for output in ("compact", "table", "json"):
        result = CliRunner().invoke(
            events, ["--input-file", str(saved), "--since", "1d", "-o", output], obj="/nowhere"
        )
        assert result.exit_code == 2, result.output
        assert complaint in result.output


def test_no_field_of_a_saved_line_steers_the_terminal() -> None:
    strange = dict.fromkeys(("protocol", "src", "src_port", "verdict", "signal", "time"), "\x1b[2J" * 5)
    for kind in ("exit", "verdict", "\x1b"):
        assert "\x1b" not in compact({**strange, "type": kind})
    lost = dict.fromkeys(("stage", "kind", "reason", "count"), "\x1b[2J")
    assert "\x1b" not in compact({**lost, "type": "loss"})


def test_instants() -> None:
    assert parse_instant("1970-01-01T00:00:01Z") == 1_000_000_000
    assert abs(parse_instant("2m") - (time.time_ns() - 120 * 10**9)) < 10**9
    with pytest.raises(click.UsageError):
        parse_instant("yesterday")
    for text in ("99999999999d", "9" * 400 + "s", "²s"):
        with pytest.raises(click.UsageError):
            parse_instant(text)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_timeout_that_no_timer_takes_is_a_usage_error(seconds: str) -> None:
    result = CliRunner().invoke(events, ["--timeout", seconds], obj="/nowhere")
    assert result.exit_code == 2, result.output


def test_endpoint_without_port() -> None:
    assert endpoint({"src": "10.0.0.1"}, "src") == "10.0.0.1"
    assert endpoint({}, "src") == "-"


def test_unknown_type_is_a_usage_error() -> None:
    result = CliRunner().invoke(events, ["--type", "nonsense"], obj="/nowhere")
    assert result.exit_code == 2
    assert "known: exec" in result.output
