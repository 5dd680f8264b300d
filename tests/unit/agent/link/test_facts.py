from __future__ import annotations

import os
from pathlib import Path

import aegis
from aegis.agent.link.facts import MOST_INTERFACES, facts


def test_what_a_registration_tells(tmp_path: Path) -> None:
    machine = tmp_path / "machine-id"
    machine.write_text("0123456789abcdef0123456789abcdef\n")
    told = facts("host-1", ["eth0", "eth1"], str(machine))
    assert (told["host_id"], told["version"]) == ("host-1", aegis.__version__)
    assert told["platform"]["arch"] == os.uname().machine
    assert told["network"] == {"interface": "eth0", "interfaces": ["eth0", "eth1"]}
    assert len(told["machine_id_hash"]) == 64
    assert "0123456789abcdef" not in told["machine_id_hash"]
    assert facts("other", [], str(machine))["machine_id_hash"] == told["machine_id_hash"]


def test_what_cannot_be_read_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path in (tmp_path / "none", tmp_path / "empty", tmp_path):
        assert facts("host-1", [], str(path))["machine_id_hash"] == ""
    assert facts("host-1", [], "")["network"] == {"interface": "", "interfaces": []}
    assert len(facts("x", ["e"] * 100, "")["network"]["interfaces"]) == MOST_INTERFACES
