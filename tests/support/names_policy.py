"""Policies about names, as documents."""

from __future__ import annotations

import json
from typing import Any

ASK: dict[str, Any] = {
    "toCIDRSet": [{"cidr": "10.77.0.0/16"}, {"cidr": "fd77::/16"}],
    "toPorts": [{"ports": [{"port": 53, "protocol": "ANY"}]}],
}


def named(*texts: str, **more: Any) -> dict[str, Any]:
    """A rule about names."""
    entries = [{"matchPattern" if "*" in text else "matchName": text} for text in texts]
    return {"toFQDNs": entries, **more}


def document(*egress: dict[str, Any], name: str = "names", **spec: Any) -> bytes:
    return json.dumps(
        {
            "apiVersion": "aegis/v1",
            "kind": "HostNetworkPolicy",
            "metadata": {"name": name},
            "spec": {
                "mode": "enforce",
                "enableDefaultDeny": {"egress": True},
                "egress": [ASK, *egress],
                **spec,
            },
        }
    ).encode()
