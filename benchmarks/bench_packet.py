"""What the installed set costs an established packet on a veth pair, against nftables with connection tracking.

Three pairs of namespaces take turns: nothing installed; the datapath (flow programs both ways, owner hooks, a policy
of 10 rules); nftables (`ct state established` accepted and counted first, then 10 rules, conntrack accounting on).
Frames of 98 bytes go one way on one UDP flow that has seen packets both ways. The time is the sending thread's own,
in which the veth's receive path runs; what each set adds is its time less that of the bare pair in the same turn.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path

from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_slots import PolicySlots
from benchmarks.bench_flow import ten_rules
from benchmarks.loops import load
from benchmarks.rows import Row, median
from tests.support.world import Place, World, open_world

TURNS = 151
PACKETS = 9_600  # whole batches of the loop
PAYLOAD = 98 - 14 - 20 - 8
NFT = """
table inet peer {
  chain out { type filter hook output priority 0;
    ct state established counter accept
    %s
  }
  chain in { type filter hook input priority 0;
    ct state established counter accept
    %s
  }
}
"""


@dataclass
class Pair:
    """Two joined namespaces and a connected socket in the first."""

    near: Place
    sender: socket.socket
    receiver: socket.socket

    def establish(self) -> None:
        """One packet each way, now that what is to see them is installed."""
        self.sender.send(b"?")
        _, peer = self.receiver.recvfrom(16)
        self.receiver.sendto(b"!", peer)
        self.sender.recv(16)


def pair(stack: contextlib.ExitStack, near: Place, far: Place) -> Pair:
    sender, receiver = (stack.enter_context(each.socket(kind=socket.SOCK_DGRAM)) for each in (near, far))
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)  # nobody reads: full at once, then dropped
    receiver.bind((far.v4, 0))
    sender.bind((near.v4, 0))
    sender.connect(receiver.getsockname())
    return Pair(near, sender, receiver)


def install(world: World, place: Place, stack: contextlib.ExitStack) -> Datapath:
    constants = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=0)
    with place.entered():
        path = Datapath.install(
            CORE,
            constants=constants,
            map_sizes={},
            interfaces=[place.index],
            cgroup_root=world.cgroup_root,
            pin_dir=None,
        )
    stack.callback(leave, place, path)
    assert not path.missing, path.missing
    with contextlib.closing(PolicySlots.of(path)) as slots:
        slots.switch(compile_policies(ten_rules()), 1)
    return path


def leave(place: Place, path: Datapath) -> None:
    with place.entered():
        path.close()


def filter_with_nftables(place: Place) -> None:
    rules = "\n    ".join(
        f"ip daddr 192.0.2.{16 * number}/28 tcp dport {1000 + number} drop" for number in range(10)
    )
    place.command("nft", NFT % (rules, rules))
    with place.entered():
        Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text("1")


def run() -> list[Row]:
    _, library = load("packet_loop", "double packet_loop_send(int fd, int count, int size);")
    with open_world() as world, contextlib.ExitStack() as stack:
        ends = [(world.a, world.b)]
        for name in ("aegis", "nft"):
            near, far = world.add_place(name), world.add_place(f"{name}-peer")
            world.join(near, far)
            ends.append((near, far))
        bare, ours, peer = (pair(stack, near, far) for near, far in ends)
        path = install(world, ours.near, stack)
        filter_with_nftables(peer.near)
        for each in (bare, ours, peer):
            each.establish()
        before = {each.near.name: each.near.statistics().tx_packets for each in (bare, ours, peer)}
        readings: dict[str, list[float]] = {each.near.name: [] for each in (bare, ours, peer)}
        for _ in range(TURNS):
            for each in (bare, ours, peer):
                with each.near.entered():
                    nanoseconds = library.packet_loop_send(each.sender.fileno(), PACKETS, PAYLOAD)
                assert nanoseconds > 0
                readings[each.near.name].append(nanoseconds)
        for each in (bare, ours, peer):
            assert each.near.statistics().tx_packets - before[each.near.name] == TURNS * PACKETS
        entries = [value for _, value in path.map("aegis_flows").items_batch()]
        assert len(entries) == 1, "one flow, established"
    base, added, theirs = (readings[each.near.name] for each in (bare, ours, peer))
    own = [mine - nothing for mine, nothing in zip(added, base, strict=True)]
    other = [each - nothing for each, nothing in zip(theirs, base, strict=True)]
    return [
        Row(
            name="packet_veth",
            value=median(own),
            unit="ns",
            peer=median(other),
            ratio=median(own) / median(other),
            samples=own,
            note=f"above a bare pair ({median(base):.0f} ns a packet); peer: nftables with conntrack, 10 rules",
        )
    ]
