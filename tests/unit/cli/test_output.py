"""Every format shows the same rows; nothing printed can steer a terminal."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml

from aegis.cli.output import cell, human_bytes, human_duration, write_rows

ROWS = [
    {
        "schema": "aegis.x",
        "version": 1,
        "name": "a",
        "count": 3,
        "share": 0.25,
        "note": None,
        "note_reason": "why",
    },
    {
        "schema": "aegis.x",
        "version": 1,
        "name": 'b,"\n',
        "count": 0,
        "share": 1.0,
        "note": "n",
        "note_reason": None,
    },
]


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert write_rows(ROWS, "json") == len(ROWS)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_yaml_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(ROWS, "yaml")
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == ROWS


def test_csv_quotes_and_leaves_absent_empty(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(ROWS, "csv", columns=("name", "note"))
    lines = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert lines == [["name", "note"], ["a", ""], ['b,"\\n', "n"]]


def test_table_has_a_header_in_capitals_and_is_not_cut_on_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([{"name": "x" * 300, "cpu_percent": None}], "table")
    head, body = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "CPU", "PERCENT"]
    assert body.startswith("x" * 300)
    assert body.endswith("-")


def test_control_characters_are_escaped() -> None:
    assert cell("a\x1b[2Jb\r\n") == "a\\x1b[2Jb\\r\\n"
    assert cell("héllo") == "héllo"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5120.0 GiB")],
)
def test_human_bytes(count: int | None, shown: str) -> None:
    assert human_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "-"), (59.9, "59s"), (61, "1m 1s"), (3700, "1h 1m"), (90000, "1d 1h")]
)
def test_human_duration(seconds: float | None, shown: str) -> None:
    assert human_duration(seconds) == shown
