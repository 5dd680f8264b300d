"""Who judges the demo beside the agent: nftables in both namespaces, and the kernel's count of forks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from aegis.errors import HostError
from aegis.host.namespaces import NetworkNamespace

TABLE = "aegis_demo"
ETHERNET_HEADER = 14  # nftables counts from the IP header on, an interface from the Ethernet header

# It counts and lets everything pass. What leaves is counted before the agent's hook sees it.
_RULES = """
table inet {table} {{
  counter sent {{ }}
  counter received {{ }}
  counter marked_sent {{ }}
  counter marked_received {{ }}
  chain out {{
    type filter hook output priority 300; policy accept;
    oifname "{interface}" counter name "sent"
    oifname "{interface}" tcp dport {port} counter name "marked_sent"
  }}
  chain in {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{interface}" counter name "received"
    iifname "{interface}" tcp dport {port} counter name "marked_received"
  }}
}}
"""


class Nftables:
    """Counters on both ends of the pair; what is marked is TCP to one port. `reason`: why there are none, or None."""

    def __init__(self, edge: NetworkNamespace, peer: NetworkNamespace, interface: str, port: int) -> None:
        self._edge, self._peer = edge, peer
        self._tool = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        self.reason: str | None = None
        if self._tool is None:
            self.reason = "nft is not installed (Debian package nftables)"
            return
        try:
            for namespace in (edge, peer):
                self._run(
                    namespace, "-f", "-", rules=_RULES.format(table=TABLE, interface=interface, port=port)
                )
            self.arrived()
        except HostError as error:
            self.reason = str(error)

    def arrived(self) -> dict[str, int] | None:
        """What the peer took from the pair and put on it, in the words of a flow of the edge; None without nftables.

        The peer has none of the agent's hooks. Bytes are told as an interface counts them.
        """
        if self.reason is not None:
            return None
        counters = self._counters(self._peer)
        return {
            f"{unit}_{way}": counters[name][unit]
            + (counters[name]["packets"] * ETHERNET_HEADER if unit == "bytes" else 0)
            for way, name in (("sent", "received"), ("received", "sent"))
            for unit in ("packets", "bytes")
        }

    def marked(self) -> dict[str, int] | None:
        """Packets to the marked port: what the client put on its way, and what came to the peer."""
        if self.reason is not None:
            return None
        return {
            "left_the_client": self._counters(self._edge)["marked_sent"]["packets"],
            "came_to_the_peer": self._counters(self._peer)["marked_received"]["packets"],
        }

    def _counters(self, namespace: NetworkNamespace) -> dict[str, dict[str, int]]:
        listing = json.loads(self._run(namespace, "-j", "list", "counters", "table", "inet", TABLE))
        return {each["counter"]["name"]: each["counter"] for each in listing["nftables"] if "counter" in each}

    def _run(self, namespace: NetworkNamespace, *words: str, rules: str = "") -> str:
        assert self._tool is not None
        try:
            with namespace.entered():
                done = subprocess.run(  # noqa: S603 - our own words
                    [self._tool, *words], input=rules, capture_output=True, text=True, check=False, timeout=10
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"nft {words[0]}: {error}") from error
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise HostError(f"nft {words[0]}: {said[0]}")
        return done.stdout


def since(now: dict[str, int] | None, before: dict[str, int] | None) -> dict[str, int] | None:
    """What was counted between two readings; None where nobody counted."""
    return None if now is None or before is None else {name: now[name] - before[name] for name in now}


def forks() -> int:
    """Forks since boot, by the kernel's own count."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    raise HostError("/proc/stat has no line `processes`")
