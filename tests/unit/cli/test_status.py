"""`aegis status` on a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from aegis.cli import status

EVIL = "\x1b]0;gone\x07\x9b2J"
ITEM: dict[str, Any] = {
    "agent": {"id": "host-1", "version": "1", "pid": 7, "uptime_s": 5.0},
    "gateway": {
        "state": "refused",
        "url": "ws://gw",
        "protocol": "v1",
        "insecure_v1": True,
        "reason": f"no {EVIL}",
    },
    "enforcement": {
        "state": "enforcing",
        "generation": 3,
        "mode": "enforce",
        "interfaces": ["eth0"],
        "reason": f"not judged: eth1: {EVIL}",
    },
    "resources": {},
    "modules": [],
    "losses": {"ring": {"ring_full": 3}},
    "conditions": [{"code": "gateway_refused", "text": f"said {EVIL}", "hint": f"look {EVIL}"}],
}


def test_no_words_of_a_stranger_reach_the_terminal_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "request_one", lambda *_: ITEM)
    result = CliRunner().invoke(status.status, obj="/socket")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert all(line.isprintable() for line in lines)
    shown = "\\x1b]0;gone\\x07\\x9b2J"
    assert f"gateway      refused  ws://gw  v1, insecure  no {shown}" in lines
    assert (
        f"enforcement  enforcing  generation 3  mode enforce  interfaces eth0  not judged: eth1: {shown}"
        in lines
    )
    assert lines[-3:] == ["Conditions:", f"  gateway_refused: said {shown}", f"    hint: look {shown}"]
    assert "  ring: 3 ring_full" in lines
