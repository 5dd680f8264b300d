"""Structured log on standard error: one JSON object a line, or a console line on a terminal.

A line begins with the syslog priority in angle brackets (sd-daemon(3)) unless it goes to a terminal, so that the
journal files it by severity. A reader that went away costs lines, never the agent: they are counted in `lost`.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, BinaryIO

import msgspec

# structlog imports rich where it is installed, for tracebacks the agent never prints: 25 ms and 3.5 MB.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

import structlog  # noqa: E402  after the line above

from aegis.model.stamp import rfc3339  # noqa: E402
from aegis.runtime.clock import SystemClock  # noqa: E402

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITIES = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>", "critical": b"<2>"}
_encode = msgspec.json.Encoder(enc_hook=repr).encode


class Lines:
    """Writes whole lines to a stream without buffering and counts those it could not write."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.lost = 0

    def write(self, line: bytes) -> None:
        try:
            self._stream.write(line + b"\n")
            self._stream.flush()
        except (OSError, ValueError):  # closed, full or gone; there is nobody else to tell
            self.lost += 1

    debug = info = warning = error = critical = msg = write


def _stamped(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {"time": rfc3339(SystemClock().wall_ns()), "level": method, **event}


def _readable(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value) if isinstance(value, BaseException) else value


def _json(_logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    plain = {name: _readable(value) for name, value in event.items()}
    return _PRIORITIES.get(method, b"<6>") + _encode(plain)


def _console(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    """`08:05:00.123 info     agent started  id=host`: values as JSON, so that none can forge a line or a colour."""
    fields = " ".join(
        f"{name}={_encode(_readable(value)).decode()}"
        for name, value in event.items()
        if name not in {"time", "level", "event"}
    )
    return f"{event['time'][11:23]} {event['level']:<8} {event['event']}  {fields}".rstrip().encode()


def set_up(level: str, form: str, stream: BinaryIO | None = None) -> Lines:
    """Make every logger of the process write so. `form` is auto, json or console."""
    target = sys.stderr.buffer if stream is None else stream
    lines = Lines(target)
    console = form == "console" or (form == "auto" and target.isatty())
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _stamped, _console if console else _json],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    return lines


def set_level(level: str) -> None:
    """Take another threshold from the next line on; loggers already handed out follow."""
    structlog.configure(
        **{**structlog.get_config(), "wrapper_class": structlog.make_filtering_bound_logger(LEVELS[level])}
    )


def logger(**fields: object) -> Any:
    """A logger whose lines all carry these fields."""
    return structlog.get_logger(**fields)
