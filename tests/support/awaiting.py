"""Wait for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def await_condition(holds: Callable[[], object], seconds: float = 20.0, every: float = 0.005) -> None:
    """Return as soon as `holds()` is true; fail after `seconds`, saying so."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come to hold within {seconds} s: {holds}")
        time.sleep(every)
