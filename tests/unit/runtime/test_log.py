from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from aegis.runtime import log


@pytest.fixture
def stream() -> io.BytesIO:
    return io.BytesIO()


NASTY = {
    "text": 'a\nb\x1b[31m"}{\\',
    "raw": b"\xff\n<0>",
    "error": ValueError("line\nline"),
    "number": 3,
    "none": None,
}


def test_each_line_is_one_object_with_a_priority(stream: io.BytesIO) -> None:
    log.set_up("debug", "json", stream)
    logger = log.logger(source="test")
    for method in ("debug", "info", "warning", "error"):
        getattr(logger, method)("something happened", **NASTY)
    lines = stream.getvalue().splitlines()
    assert [line[:3] for line in lines] == [b"<7>", b"<6>", b"<4>", b"<3>"]
    for line, level in zip(lines, ("debug", "info", "warning", "error"), strict=True):
        parsed = json.loads(line[3:])
        assert parsed.pop("time").endswith("Z")
        assert parsed == {
            "level": level,
            "event": "something happened",
            "source": "test",
            "text": NASTY["text"],
            "raw": "\\xff\n<0>",
            "error": "line\nline",
            "number": 3,
            "none": None,
        }


def test_a_console_line_cannot_be_forged(stream: io.BytesIO) -> None:
    log.set_up("info", "console", stream)
    log.logger().info("something happened", **NASTY)
    text = stream.getvalue().decode()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "something happened" in text


def test_the_level_can_change_while_loggers_are_held(stream: io.BytesIO) -> None:
    log.set_up("warning", "auto", stream)
    logger = log.logger()
    logger.info("not shown")
    log.set_level("info")
    log.logger().info("shown")
    log.set_level("error")
    log.logger().warning("not shown")
    assert stream.getvalue().count(b"\n") == 1


def test_lines_that_cannot_be_written_are_counted() -> None:
    class Gone(io.BytesIO):
        def write(self, data: object) -> int:
            raise BrokenPipeError

    lines = log.set_up("info", "json", Gone())
    log.logger().info("lost")
    assert lines.lost == 1


def test_rich_stays_out() -> None:
    script = "import sys, aegis.runtime.log; print(sorted(n for n in sys.modules if n.startswith('rich.')))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
