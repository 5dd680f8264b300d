"""Where the demo plays: three network namespaces, veth pairs, a cgroup, a BPF file system, agent and gateway.

All of it is gone at the end, and nothing of the machine's own network is touched: the packet programs sit on one pair's
end in the edge's namespace, the socket owner hook on a cgroup the demo made. Agent and gateway talk over the other pair.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aegis.cli.client import request, request_one
from aegis.cli.demo.center import Center
from aegis.errors import ConnectFailed, HostError
from aegis.host import children
from aegis.host.cgroups import mounted_at
from aegis.host.namespaces import NetworkNamespace, PrivateMounts, mount_bpffs, unmount
from aegis.host.rtnetlink import NOARP, LinkStatistics, RouteSocket

INTERFACE = "aegis0"
UPLINK = "aegis1"
ALONE = """
[enforcement]
on_stop = "detach"
"""
OPTIONS = (
    ALONE
    + """
[gateway]
url = "{url}"
min_protocol = 1
[policy]
unsigned_orders = "accept"
"""
)
START_SECONDS = 20.0

# No packet but the demo's crosses the pair, so that the interface's own statistics can judge to the unit.
_QUIET = {
    "accept_ra": 0,
    "router_solicitations": 0,
    "accept_dad": 0,
    "dad_transmits": 0,
    "autoconf": 0,
    "addr_gen_mode": 1,
}


class Stage:
    """The edge host (where the agent runs), its peer, the center (where the gateway runs), and the ways to act there."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.socket = str(directory / "run" / "agent.sock")
        self.log = directory / "agent.log"
        self._stack = stack
        number = random.randrange(1, 250)  # noqa: S311 - any free network will do
        self.edge_v4, self.peer_v4 = f"10.201.{number}.1", f"10.201.{number}.2"
        self.edge_v6, self.peer_v6 = f"fd00:201:{number:x}::1", f"fd00:201:{number:x}::2"
        stack.enter_context(PrivateMounts())
        bpffs = directory / "bpf"
        bpffs.mkdir()
        mount_bpffs(str(bpffs))
        stack.callback(unmount, str(bpffs))
        self.pins = bpffs / "aegis"
        self.cgroup = Path(mounted_at()) / f"aegis-demo-{os.getpid()}"
        # Programs of the whole machine are seen: a unit of its own tells this demo's from those of another.
        self.unit = self.cgroup / f"{self.cgroup.name}.service"
        self.unit.mkdir(parents=True)
        stack.callback(self.cgroup.rmdir)
        stack.callback(self.unit.rmdir)
        self.edge = stack.enter_context(NetworkNamespace.create())
        self.peer = stack.enter_context(NetworkNamespace.create())
        self._quiet(self.edge, self.peer)
        self._join(INTERFACE, self.peer, (self.edge_v4, self.peer_v4), (self.edge_v6, self.peer_v6))
        self.agent: children.Child | None = None
        self.center: Center | None = None
        self._number = number

    def start_gateway(self) -> float:
        """Make the center and start a gateway in it; seconds until it is ready."""
        here, there = f"10.202.{self._number}.1", f"10.202.{self._number}.2"
        namespace = self._stack.enter_context(NetworkNamespace.create())
        self._quiet(namespace)
        self._join(
            UPLINK,
            namespace,
            (here, there),
            (f"fd00:202:{self._number:x}::1", f"fd00:202:{self._number:x}::2"),
        )
        self.center = Center(self.directory, namespace, there)
        self._stack.callback(self.center.stop)
        return self.center.start()

    @staticmethod
    def _quiet(*namespaces: NetworkNamespace) -> None:
        for namespace in namespaces:
            with namespace.entered():
                for where in ("all", "default"):
                    for key, value in _QUIET.items():
                        path = Path(f"/proc/sys/net/ipv6/conf/{where}/{key}")
                        if path.exists():
                            path.write_text(str(value))

    def _join(self, name: str, namespace: NetworkNamespace, v4: tuple[str, str], v6: tuple[str, str]) -> None:
        """A pair of interfaces of one name, from the edge to `namespace`; addresses: the edge's, the other's."""
        with self.edge.entered():
            here = RouteSocket()
        with namespace.entered():
            there = RouteSocket()
        macs = (b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02")
        with here, there:
            here.add_veth(name, name, peer_namespace=namespace.fd, mac=macs[0], peer_mac=macs[1], flags=NOARP)
            for netlink, own, far in ((here, 0, 1), (there, 1, 0)):
                netlink.set_up("lo")
                netlink.add_address(name, f"{v4[own]}/24")
                netlink.set_up(name)
                netlink.add_address(name, f"{v6[own]}/64")
                netlink.add_neighbour(name, v4[far], macs[far])
                netlink.add_neighbour(name, v6[far], macs[far])
            for netlink in (here, there):
                netlink.await_carrying(name)

    def statistics(self) -> LinkStatistics:
        """What the edge's end of the pair counted, by the kernel's own account."""
        with self.edge.entered(), RouteSocket() as netlink:
            found = netlink.link(INTERFACE).statistics
        if found is None:
            raise HostError(f"{INTERFACE} has no statistics")
        return found

    def start_agent(self, *program: str) -> float:
        """Start an agent, by another `program` if need be, in the edge namespace; seconds until it answers on its socket."""
        command = [
            *(program or (sys.executable, "-m", "aegis.agent.main")),
            *("--config", str(self.directory / "agent.toml")),
            *("--state-dir", str(self.directory / "state")),
            *("--run-dir", str(self.directory / "run")),
            *("--pin-dir", str(self.pins)),
            *("--cgroup-root", str(self.cgroup)),
            *("--interface", INTERFACE),
            *("--agent-id", "aegis-demo"),
            *("--log-format", "json"),
        ]
        url = self.center.url if self.center is not None else ""
        (self.directory / "agent.toml").write_text(OPTIONS.format(url=url) if url else ALONE)
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.agent = children.execute(
                command, namespace=self.edge, stdout=log.fileno(), stderr=log.fileno()
            )
        self._stack.callback(self.stop_agent)
        while True:
            try:
                item = request_one(self.socket, "status")
            except ConnectFailed:
                item = None
            if item and all(module["state"] != "starting" for module in item["modules"]):
                return time.monotonic() - started
            if not self.agent.running() or time.monotonic() - started > START_SECONDS:
                raise HostError(f"the agent did not come up; its log ends: {self.log.read_text()[-600:]}")
            time.sleep(0.02)

    def stop_agent(self) -> int | None:
        """SIGTERM and wait; the exit code."""
        if self.agent is None:
            return None
        agent, self.agent = self.agent, None
        with agent:
            agent.signal(15)
            return agent.wait(10)

    def ask(self, verb: str, arguments: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """All items the agent answers to a verb."""
        return list(request(self.socket, verb, arguments, timeout_s=30))

    def ask_until(
        self, verb: str, arguments: dict[str, Any], enough: int, choose: Any, seconds: float = 5.0
    ) -> list[dict[str, Any]]:
        """Ask until `enough` of the items are chosen, or the time is over; the chosen ones."""
        deadline = time.monotonic() + seconds
        while True:
            chosen = [item for item in self.ask(verb, arguments) if choose(item)]
            if len(chosen) >= enough or time.monotonic() > deadline:
                return chosen
            time.sleep(0.05)


@contextlib.contextmanager
def open_stage() -> Iterator[Stage]:
    """A stage for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="aegis-demo-") as directory, contextlib.ExitStack() as stack:
        for name in ("state", "run"):
            (Path(directory) / name).mkdir()
        yield Stage(Path(directory), stack)
