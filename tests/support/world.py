"""A world of one's own for tests with packets: namespaces, a veth pair, a bpffs and a cgroup, gone at the end.

    def test_something(world):
        with world.a.entered():                      # this thread is in the namespace of the host under test
            server = socket.create_server((world.a.v4, 0))
        world.b.run(testers.tcp_connects, world.a.v4, port, 7)   # a child process in the peer's namespace
        assert world.a.statistics().rx_packets == ...

No packet crosses the pair by itself: both ends are NOARP with permanent neighbours and no link-local address, so there
is no ARP, neighbour discovery, router solicitation or multicast report, and counts are exact from the first packet on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import itertools
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aegis.host import children
from aegis.host.namespaces import NetworkNamespace, PrivateMounts, mount_bpffs, unmount
from aegis.host.rtnetlink import NOARP, Link, LinkStatistics, RouteSocket
from tests.support import expect

_numbers = itertools.count(1)
_QUIET = {
    "accept_ra": 0,
    "router_solicitations": 0,
    "accept_dad": 0,
    "dad_transmits": 0,
    "autoconf": 0,
    "addr_gen_mode": 1,  # no link-local address
}


def cgroup2_mount() -> Path:
    """Where the machine has its cgroup v2 hierarchy."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split(" ")[4])
    raise LookupError("no cgroup2 mount")


@dataclasses.dataclass
class Place:
    """A network namespace of the world, with one interface into it and that interface's addresses."""

    name: str
    namespace: NetworkNamespace
    interface: str = ""
    index: int = 0
    mac: bytes = b""
    v4: str = ""
    v6: str = ""

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """This thread is in the namespace until the block ends."""
        return self.namespace.entered()

    def netlink(self) -> RouteSocket:
        """A route socket of the namespace; the caller closes it."""
        with self.entered():
            return RouteSocket()

    def link(self, name: str | None = None) -> Link:
        """An interface of the namespace, the world's own by default, as the kernel has it now."""
        with self.netlink() as netlink:
            return netlink.link(name or self.interface)

    def statistics(self, name: str | None = None) -> LinkStatistics:
        """What the interface counted since it was made."""
        statistics = self.link(name).statistics
        assert statistics is not None
        return statistics

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """A socket of the namespace, owned by the test process."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def start(
        self, function: Callable[..., Any], *arguments: Any, cgroup: Path | None = None
    ) -> children.Child:
        """Start `function(*arguments)` in a child in the namespace; `.result()` waits for its value."""
        return children.call(function, *arguments, namespace=self.namespace, cgroup=cgroup)

    def run(
        self, function: Callable[..., Any], *arguments: Any, cgroup: Path | None = None, seconds: float = 60
    ) -> Any:
        """The value of `function(*arguments)`, run in a child in the namespace."""
        with self.start(function, *arguments, cgroup=cgroup) as child:
            return child.result(seconds)

    def popen(
        self, arguments: Sequence[str | Path], *, cgroup: Path | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """subprocess.Popen in the namespace and, with `cgroup`, in it from the first instruction on.

        One fork and one exec, nothing besides, so that tests can count them.
        """
        if cgroup is not None:
            options["preexec_fn"] = functools.partial((cgroup / "cgroup.procs").write_text, "0")
        with self.entered():
            return subprocess.Popen([str(argument) for argument in arguments], **options)

    def command(
        self, *arguments: str | Path, cgroup: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace to its end and take what it printed."""
        with self.popen(
            arguments, cgroup=cgroup, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            out, err = process.communicate(timeout=60)
        if check and process.returncode:
            raise AssertionError(f"{arguments[0]} ended with {process.returncode}: {err}")
        return subprocess.CompletedProcess(list(map(str, arguments)), process.returncode, out, err)


class World:
    """Namespaces `a` (the host under test) and `b` (its peer) joined by a veth pair, and what belongs to them.

    `directory` is an empty temporary directory, `bpffs` an own BPF file system, `cgroup` an own cgroup; `cgroup_root`
    is the hierarchy's mount. Made by `open_world()` or the fixture `world`.
    """

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.bpffs = directory / "bpf"
        self.cgroup_root = cgroup2_mount()
        self.number = next(_numbers)
        self.cgroup = self.cgroup_root / f"aegis-test-{os.getpid()}-{self.number}"
        self._stack = stack
        self._pairs = 0
        stack.enter_context(PrivateMounts())
        self.bpffs.mkdir()
        mount_bpffs(str(self.bpffs))
        stack.callback(unmount, str(self.bpffs))
        self.cgroup.mkdir()
        stack.callback(remove_cgroup, self.cgroup)
        self.a = self.add_place("a")
        self.b = self.add_place("b")
        self.join(self.a, self.b)

    def add_place(self, name: str) -> Place:
        """One more network namespace, with its loopback interface up."""
        namespace = self._stack.enter_context(NetworkNamespace.create())
        with namespace.entered():
            for where, (key, value) in itertools.product(("all", "default"), _QUIET.items()):
                path = Path(f"/proc/sys/net/ipv6/conf/{where}/{key}")
                if path.exists():
                    path.write_text(str(value))
            with RouteSocket() as netlink:
                netlink.set_up("lo")
        return Place(name, namespace)

    def add_peer(self, name: str = "c") -> Place:
        """One more namespace joined to `a` by its own pair; a's end of it is called `aegis1`, `aegis2`..."""
        place = self.add_place(name)
        self.join(self.a, place)
        return place

    def join(self, one: Place, other: Place) -> tuple[str, str]:
        """A veth pair between two places with addresses 10.77.N.1/.2 and fd77:N::1/::2; the ends' names.

        Both ends count from zero and nothing crosses by itself. A place's own fields describe its first pair.
        """
        number = self._pairs
        self._pairs += 1
        name = f"aegis{number}"
        macs = (bytes([2, 0, 0x77, 0, number, 1]), bytes([2, 0, 0x77, 0, number, 2]))
        with one.netlink() as here, other.netlink() as there:
            here.add_veth(
                name,
                name,
                peer_namespace=other.namespace.fd,
                mac=macs[0],
                peer_mac=macs[1],
                flags=NOARP,
            )
            ends = ((one, here, 1, 2), (other, there, 2, 1))
            for _, netlink, own, _ in ends:
                netlink.add_address(name, f"10.77.{number}.{own}/24")
                netlink.set_up(name)
            for place, netlink, own, far in ends:
                netlink.add_address(name, f"fd77:{number:x}::{own}/64")
                netlink.add_neighbour(name, f"10.77.{number}.{far}", macs[far - 1])
                netlink.add_neighbour(name, f"fd77:{number:x}::{far}", macs[far - 1])
                netlink.await_carrying(name)
                if not place.interface:
                    place.interface, place.mac = name, macs[own - 1]
                    place.index = netlink.link(name).index
                    place.v4, place.v6 = f"10.77.{number}.{own}", f"fd77:{number:x}::{own}"
        return name, name

    def make_cgroup(self, name: str) -> Path:
        """A cgroup below the world's own, such as `telnet.service`; its path is the unit's to tests."""
        path = self.cgroup / name
        path.mkdir(parents=True)
        return path


def remove_cgroup(path: Path) -> None:
    """Kill what is in a cgroup and below and remove it, children first."""
    for directory in sorted((Path(top) for top, _, _ in os.walk(path)), key=lambda at: -len(at.parts)):
        end_processes(directory)
        while True:
            try:
                directory.rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                end_processes(directory)
            else:
                break


def end_processes(cgroup: Path) -> None:
    """Kill the processes of one cgroup and wait until each is gone. Never this process."""
    for text in (cgroup / "cgroup.procs").read_text().split():
        pid = int(text)
        assert pid not in (os.getpid(), os.getppid(), 0, 1), f"{cgroup} holds process {pid}"
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], 10)
            finally:
                os.close(handle)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def open_world() -> Iterator[World]:
    """A world for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="aegis-world-") as directory, contextlib.ExitStack() as stack:
        yield World(Path(directory), stack)


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh world; skipped where the test is not root."""
    expect.require("root")
    with open_world() as made:
        yield made
