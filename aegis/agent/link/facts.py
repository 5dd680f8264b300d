"""What a registration tells of this host."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import aegis

MACHINE_ID = "/etc/machine-id"
MOST_INTERFACES = 16


def facts(agent_id: str, interfaces: Sequence[str], machine_id: str = MACHINE_ID) -> dict[str, Any]:
    """The members of a registration by name. What cannot be read is not told."""
    system = os.uname()
    return {
        "host_id": agent_id,
        "version": aegis.__version__,
        "machine_id_hash": _machine_id_hash(machine_id),
        "platform": {
            "os": "linux",
            "arch": system.machine,
            "kernel": system.release,
            "hostname": system.nodename,
        },
        "network": {
            "interface": interfaces[0] if interfaces else "",
            "interfaces": list(interfaces[:MOST_INTERFACES]),
        },
    }


def _machine_id_hash(path: str) -> str:
    """The machine id itself is not for others, machine-id(5): its keyed hash is as stable. Empty where there is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(64).strip()
    except OSError:
        return ""
    return hashlib.sha256(b"aegis machine " + content).hexdigest() if content else ""
