"""`aegis demo` from a checkout: every step holds, and nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import expect
from tests.support.world import cgroup2_mount


def leftovers() -> set[str]:
    """What a demo could leave: cgroups, interfaces, pins and programs of ours attached to the machine."""
    found = {str(path) for path in cgroup2_mount().glob("aegis-demo-*")}
    found |= {str(path) for path in Path("/sys/fs/bpf").glob("aegis*")}
    found |= {str(path) for path in Path("/tmp").glob("aegis-demo-*")}
    return found | set(os.listdir("/sys/class/net"))


def test_every_step_holds_and_nothing_is_left() -> None:
    expect.require("root", "bpf", "cgroup")
    before = leftovers()
    done = subprocess.run(
        [sys.executable, "-m", "aegis.cli.main", "demo", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 7], done.stderr
    assert [step for step in steps if not step["ok"]] == []
    assert done.returncode == 0
    assert leftovers() == before


def test_without_root_it_names_what_is_missing() -> None:
    expect.require("root")
    if not os.access(sys.executable, os.X_OK):
        pytest.skip("no interpreter")
    done = subprocess.run(
        [sys.executable, "-m", "aegis.cli.main", "demo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        user=65534,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 4, done.stderr
    assert "missing: root" in done.stderr
    assert "Traceback" not in done.stderr
