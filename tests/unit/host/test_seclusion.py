from __future__ import annotations

import subprocess
import sys

SECLUDED = """
from aegis._native._system import lib
from aegis.host.seclusion import seclude
PR_GET_DUMPABLE = 3
print(lib.prctl(PR_GET_DUMPABLE), seclude(), lib.prctl(PR_GET_DUMPABLE))
"""


def test_a_secluded_process_is_not_dumpable() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SECLUDED], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout.split() == ["1", "None", "0"]
