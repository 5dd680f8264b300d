"""`aegis demo` from a checkout: every step holds, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import expect
from tests.support.world import cgroup2_mount


def test_every_step_holds_and_nothing_is_left(tmp_path: Path) -> None:
    """Two at the same time, so that neither takes the other's processes for its own."""
    expect.require("root", "bpf", "cgroup")
    with ExitStack() as stack:
        demos = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            process = subprocess.Popen(
                [sys.executable, "-m", "aegis.cli.main", "demo", "--json"],
                env={**os.environ, "TMPDIR": str(tmp_path / name)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            demos.append(process)
        for process in demos:
            out, err = process.communicate(timeout=100)
            steps = [json.loads(line) for line in out.splitlines()]
            assert [step["step"] for step in steps] == [1, 2, 3, 4, 6, 7], err
            assert [step for step in steps if not step["ok"]] == []
            assert process.returncode == 0
            judged_by_nftables(steps)
            assert not (cgroup2_mount() / f"aegis-demo-{process.pid}").exists()
    # All it makes besides is in namespaces of its own; a mount that stayed would keep its directory from going.
    assert [list((tmp_path / name).iterdir()) for name in ("one", "other")] == [[], []]


def judged_by_nftables(steps: list[dict[str, Any]]) -> None:
    """Where nft is there, its reading is beside ours; elsewhere the step names what is missing."""
    seen, observed, enforced = (
        next(step["evidence"] for step in steps if step["step"] == number) for number in (1, 3, 4)
    )
    if shutil.which("nft", path="/usr/sbin:/sbin") is None:
        assert seen["nftables"] is None
        assert "not installed" in seen["nftables_reason"]
        return
    assert seen["nftables"] == seen["agent"] == seen["interface"]
    passed, cut = observed["packets_by_nftables"], enforced["packets_by_nftables"]
    assert passed["came_to_the_peer"] == passed["left_the_client"] > 0
    assert (cut["came_to_the_peer"], observed["packets_dropped"]) == (0, 0)
    assert cut["left_the_client"] == enforced["packets_dropped"] >= enforced["tries"]


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
