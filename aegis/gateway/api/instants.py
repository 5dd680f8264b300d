"""Spans and instants as the query of a request has them: `5s`, `2h`, RFC 3339."""

from __future__ import annotations

import datetime as dt
import re

from aegis.errors import QueryInvalid

_SPAN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NEWEST_NS = 1 << 62  # 2116: what a store's 64-bit column holds without a sign in doubt


def span_s(text: str, *, name: str, most: float) -> float:
    """Seconds of `500ms`, `5s`, `2m`, `5` (seconds). Raises QueryInvalid, also over `most`."""
    match = _SPAN.fullmatch(text)
    seconds = float(match[1]) * _UNIT_S[match[2] or "s"] if match else -1.0
    if not 0 <= seconds <= most:
        raise QueryInvalid(f"{name} is not a span from 0 to {most:g} s such as 500ms, 5s, 1m")
    return seconds


def instant_ns(text: str, *, name: str, now_ns: int) -> int:
    """Nanoseconds since 1970 of RFC 3339 with a zone, of whole nanoseconds, or of a span before `now_ns` such as 5m."""
    if text.isascii() and text.isdecimal() and 15 <= len(text) <= 19:
        found = int(text)
    elif (match := _SPAN.fullmatch(text)) and match[2]:
        found = now_ns - int(float(match[1]) * _UNIT_S[match[2]] * 1e9)
    else:
        found = rfc3339_ns(text, name=name)
    if not 0 <= found < _NEWEST_NS:
        raise QueryInvalid(f"{name} is outside the years 1970 to 2115")
    return found


def rfc3339_ns(text: str, *, name: str) -> int:
    """Nanoseconds since 1970, to the microsecond. Raises QueryInvalid."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise QueryInvalid(f"{name} is neither RFC 3339 with a zone nor a span such as 90s, 5m, 2h")
    try:
        since = moment - dt.datetime.fromtimestamp(0, dt.UTC)
    except OverflowError:
        raise QueryInvalid(f"{name} is outside the years 1 to 9999") from None
    return (since.days * 86400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
