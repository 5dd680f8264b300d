"""Packets to many peers under 10 and under 100,000 rules, against nftables with connection tracking and the same rules.

Five pairs of namespaces take turns: nothing installed; the datapath with 10 and with 100,000 rules, each about one IPv4
prefix; nftables with the same prefixes as one interval set, looked at after `ct state established`. Frames of 98 bytes
go to 65,536 peers in rotation, none of which a rule denies, and which all have answered (established), or are sent from
a port that was not used before (first packets of flows). They leave by a raw socket, so that it is the packet path
that is measured; what an unconnected socket's sendmsg adds is another row (`subject_sendmsg`). The time is the sending thread's own, in which the veth's
receive path runs; what each set adds is its time less that of the bare pair in the same turn.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aegis.kernel import abi
from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.model.net import Direction
from aegis.model.policy import AddressBlock, Mode, Policy, PolicySet, Prefix, Rule
from benchmarks.loops import load
from benchmarks.rows import Row, median
from tests.support.world import Place, World, open_world

PEERS = 65_536
FLOWS = 131_072  # entries: the established ones, and those of all turns with first packets
FEW, MANY = 10, 100_000
TURNS = 21
NEW_FLOWS = 2_048  # a turn
PORT, PAYLOAD = 9_999, 98 - 14 - 20 - 8
NET = ipaddress.IPv4Network("11.0.0.0/8")  # behind the far end
NFT = """
table inet peer {
  set denied { type ipv4_addr; flags interval; elements = { %s } }
  chain out { type filter hook output priority 0;
    ct state established counter accept
    ip daddr @denied drop
  }
  chain in { type filter hook input priority 0;
    ct state established counter accept
    ip saddr @denied drop
  }
}
"""


@dataclass
class Pair:
    """Two joined namespaces and the control group in which the first one's sockets are made."""

    near: Place
    far: Place
    cgroup: Path
    bound: socket.socket = field(init=False)  # takes the answers, and is never read
    raw: socket.socket = field(init=False)
    established: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    @property
    def address(self) -> int:
        """The near end's, in network order."""
        return socket.htonl(int(ipaddress.IPv4Address(self.near.v4)))

    def open(self, stack: contextlib.ExitStack) -> None:
        with _inside(self.cgroup):
            self.bound = stack.enter_context(self.near.socket(kind=socket.SOCK_DGRAM))
            self.raw = stack.enter_context(
                self.near.socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_RAW)
            )
        self.bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
        self.bound.bind((self.near.v4, PORT))


def run() -> list[Row]:
    ffi, library = load(
        "packet_loop",
        "double packet_loop_rotate(int fd, uint32_t from, int from_port, const uint32_t *to, int to_port, int count,"
        " int size);"
        "int packet_loop_answer(int fd, const uint32_t *from, int from_port, int count, uint32_t to, int to_port);",
    )
    rules, addresses = _addresses()
    peers = ffi.new("uint32_t[]", [socket.htonl(each) for each in addresses])
    with open_world() as world, contextlib.ExitStack() as stack:
        pairs = {name: _pair(world, name) for name in ("bare", "few", "many", "nft-few", "nft-many")}
        paths = [
            _install(pairs["few"], rules[:FEW], abi.IMAGE_SMALL, stack),
            _install(pairs["many"], rules, abi.IMAGE_LARGE, stack),
        ]
        _filter_with_nftables(pairs["nft-few"].near, rules[:FEW], world.directory)
        _filter_with_nftables(pairs["nft-many"].near, rules, world.directory)
        for pair in pairs.values():
            pair.open(stack)
            _rotate(library, pair, PORT, peers, PEERS)
            _answer(library, pair, peers)
        for _ in range(TURNS):
            for pair in pairs.values():
                pair.established.append(_rotate(library, pair, PORT, peers, PEERS))
        for path in paths:
            assert sum(count for _, _, count in path.map("aegis_flows").batches()) == PEERS
        for turn in range(TURNS):
            for pair in pairs.values():
                pair.first.append(_rotate(library, pair, PORT + 1 + turn, peers, NEW_FLOWS))
        for path in paths:
            entries = sum(count for _, _, count in path.map("aegis_flows").batches())
            assert entries == PEERS + TURNS * NEW_FLOWS
    return _rows(pairs)


def _rows(pairs: dict[str, Pair]) -> list[Row]:
    def added(name: str, kind: str) -> list[float]:
        mine, nothing = getattr(pairs[name], kind), getattr(pairs["bare"], kind)
        return [each - base for each, base in zip(mine, nothing, strict=True)]

    rows = []
    for row, kind, ours, theirs in (
        ("rules_established", "established", "many", "nft-many"),
        ("rules_first_few", "first", "few", "nft-few"),
        ("rules_first_many", "first", "many", "nft-many"),
        ("rules_flat", "established", "many", "few"),
    ):
        value, peer = added(ours, kind), added(theirs, kind)
        base = median(getattr(pairs["bare"], kind))
        rows.append(
            Row(
                name=row,
                value=median(value),
                unit="ns",
                peer=median(peer),
                ratio=median(value) / median(peer),
                samples=value,
                note=f"above a bare pair ({base:.0f} ns a packet); peer: {theirs}; {PEERS:,} peers",
            )
        )
    return rows


def _addresses() -> tuple[list[ipaddress.IPv4Network], list[int]]:
    """Disjoint prefixes for the rules, and peers beside them."""
    dice = random.Random(5)
    blocks = dice.sample(range(NET.num_addresses // 16), MANY + PEERS)
    start = int(NET.network_address)
    rules = [
        ipaddress.IPv4Network((start + 16 * block, length))
        for block, length in ((each, dice.choice((28, 29, 30, 32))) for each in blocks[:MANY])
    ]
    return rules, [start + 16 * block + dice.randrange(1, 15) for block in blocks[MANY:]]


def _pair(world: World, name: str) -> Pair:
    near, far = world.add_place(name), world.add_place(f"{name}-peer")
    world.join(near, far)
    with near.netlink() as netlink:
        netlink.add_route(str(NET), near.interface, far.v4)
    return Pair(near, far, world.make_cgroup(name))


def _install(
    pair: Pair, prefixes: list[ipaddress.IPv4Network], image_bytes: int, stack: contextlib.ExitStack
) -> Datapath:
    constants = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0, image_bytes=image_bytes)
    with pair.near.entered():
        path = Datapath.install(
            CORE,
            constants=constants,
            map_sizes={"aegis_flows": FLOWS},
            interfaces=[pair.near.index],
            cgroup_root=pair.cgroup,
            pin_dir=None,
        )
    stack.callback(_leave, pair.near, path)
    assert not path.missing, path.missing
    rules = tuple(
        Rule(
            path=f"egressDeny[{number}]",
            line=number,
            direction=Direction.EGRESS,
            deny=True,
            blocks=(AddressBlock(cidr=Prefix(4, int(each.network_address), each.prefixlen)),),
        )
        for number, each in enumerate(prefixes)
    )
    denied = Policy(name="denied", version=1, mode=Mode.ENFORCE, priority=1000, rules=rules)
    policies = PolicySet(policies=(denied,))
    with contextlib.closing(PolicySlots.of(path)) as slots:
        slots.switch(compile_policies(policies), 1)
    return path


def _leave(place: Place, path: Datapath) -> None:
    with place.entered():
        path.close()


def _filter_with_nftables(place: Place, prefixes: list[ipaddress.IPv4Network], directory: Path) -> None:
    rules = directory / f"{place.name}.nft"
    rules.write_text(NFT % ", ".join(map(str, prefixes)))
    place.command("nft", "-f", rules)
    with place.entered():
        Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text("1")
        assert int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text()) >= FLOWS


def _rotate(library: Any, pair: Pair, port: int, peers: Any, count: int) -> float:
    """Nanoseconds a packet; each has left."""
    before = pair.near.statistics().tx_packets
    with pair.near.entered():
        nanoseconds = float(
            library.packet_loop_rotate(pair.raw.fileno(), pair.address, port, peers, PORT, count, PAYLOAD)
        )
    assert nanoseconds > 0
    assert pair.near.statistics().tx_packets - before == count
    return nanoseconds


def _answer(library: Any, pair: Pair, peers: Any) -> None:
    """Each peer answers once, so that its flow is established for both."""
    with pair.far.socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_RAW) as raw:
        assert library.packet_loop_answer(raw.fileno(), peers, PORT, PEERS, pair.address, PORT) == PEERS


@contextlib.contextmanager
def _inside(cgroup: Path) -> Iterator[None]:
    """This process is in the control group for as long as the block lasts, and its new sockets for good."""
    own = Path("/proc/self/cgroup").read_text()
    home = next(line[3:] for line in own.splitlines() if line.startswith("0::"))
    mount = cgroup.parent.parent
    (cgroup / "cgroup.procs").write_text("0")
    try:
        yield
    finally:
        (mount / home.lstrip("/") / "cgroup.procs").write_text("0")
