"""The agent's own cost against psutil, and from a tree with one file spoilt."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from aegis.errors import HostError
from aegis.host import own
from aegis.host.usage import PAGE_BYTES
from tests.support import hosttree


def test_descriptors_and_threads_are_exact() -> None:
    judge = psutil.Process()
    found = {name: value for name, _, value in own.agent("/proc")}
    assert found["agent.threads"] == judge.num_threads()
    assert found["agent.descriptors"] == judge.num_fds() - 1  # psutil counts the descriptor it looks with
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(7)]
    more = {name: value for name, _, value in own.agent("/proc")}
    for descriptor in opened:
        os.close(descriptor)
    assert more["agent.descriptors"] == found["agent.descriptors"] + 7  # type: ignore[operator]


def test_a_known_tree(tmp_path: Path) -> None:
    proc = str(hosttree.make(tmp_path) / "proc")
    found = {name: value for name, labels, value in own.agent(proc) if not labels}
    assert found == {"agent.rss": 2000 * PAGE_BYTES, "agent.threads": 5, "agent.descriptors": 3}
    assert list(own.agent_pss(proc)) == [("agent.pss", (), 6000 * 1024)]


@pytest.mark.parametrize("text", ["", "Pss: many kB\n", "Rss: 1 kB\n", "Pss: 1\n"])
def test_a_spoilt_rollup(tmp_path: Path, text: str) -> None:
    root = hosttree.make(tmp_path)
    (root / "proc/self/smaps_rollup").write_text(text)
    with pytest.raises(HostError, match="smaps_rollup"):
        list(own.agent_pss(str(root / "proc")))
