"""Instants as people read them."""

from __future__ import annotations

import datetime as dt
import functools


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(time_ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC, to the nanosecond: `2026-11-23T08:02:58.000000001Z`."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{fraction:09d}Z"
