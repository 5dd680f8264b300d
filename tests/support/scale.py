"""How much of a heavy test runs, and from which seed.

CI runs a small scale; `./dev soak NAME` the full one (`AEGIS_SCALE=full`). The seed of a run is random, is printed with
a failure, and comes back with `AEGIS_SEED`.
"""

from __future__ import annotations

import os
import secrets

SCALE = "AEGIS_SCALE"
SEED = "AEGIS_SEED"


def is_full() -> bool:
    return os.environ.get(SCALE) == "full"


def scaled(ci: int, full: int) -> int:
    """The count to run: `ci` normally, `full` in a soak."""
    return full if is_full() else ci


def seed() -> int:
    """The seed of this run, the same for every caller in the process."""
    return int(os.environ.setdefault(SEED, str(secrets.randbits(32))))
