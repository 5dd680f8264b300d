"""What was not measured, and why."""

from __future__ import annotations

import msgspec


class Absent(msgspec.Struct, frozen=True, gc=False):
    """Stands where a value would: never a zero or an empty string. In JSON it is null beside `<name>_reason`."""

    reason: str
