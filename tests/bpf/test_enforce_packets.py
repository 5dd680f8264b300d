"""Real packets past nftables and past Aegis: both let through what the reference lets through."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.enforcer import Enforcer
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.tc import Way
from aegis.model.flow import Verdict
from aegis.model.net import MAPPED, Direction
from aegis.model.policy import Packet, PolicySet
from aegis.model.policy_document import parse_document
from aegis.model.policy_reference import judge
from tests.support import nft_policy
from tests.support.flows import CONSTANTS
from tests.support.policies import packets_about, random_set
from tests.support.scale import scaled, seed
from tests.support.world import Place, World

SETS, PACKETS = scaled(3, 40), scaled(211, 997)

pytestmark = [pytest.mark.require("root", "bpf", "nft"), pytest.mark.timeout(0)]


@pytest.fixture(params=["tcx", "clsact"])
def way(request: pytest.FixtureRequest) -> Way:
    return "tcx" if request.param == "tcx" else "clsact"


@contextlib.contextmanager
def enforced(world: World, policies: PolicySet, way: Way, state_dir: Path) -> Iterator[Enforcer]:
    """The policies in force at a's interface."""
    with world.a.entered():
        path = Datapath.install(
            CORE,
            constants=CONSTANTS,
            map_sizes={"aegis_flows": 4096, "aegis_owners": 1024},
            interfaces=[world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=None,
            prefer=way,
        )
    try:
        with contextlib.closing(Enforcer(state_dir, PolicySlots.of(path))) as enforcer:
            enforcer.start()
            for policy in policies:
                enforcer.apply(policy.document)
            yield enforcer
    finally:
        with world.a.entered():
            path.close()


def routed(world: World) -> None:
    """Every address is behind the other end."""
    for place, gateways in ((world.a, (world.b.v4, world.b.v6)), (world.b, (world.a.v4, world.a.v6))):
        with place.netlink() as netlink:
            netlink.add_route("0.0.0.0/0", place.interface, gateways[0])
            netlink.add_route("::/0", place.interface, gateways[1])


def sample(dice: random.Random, policies: PolicySet, direction: Direction) -> list[Packet]:
    """Packets that only the policy can stop, about half of them stopped where that is possible."""
    found = [
        each
        for each in packets_about(dice, policies, 40 * PACKETS)
        if each.direction is direction and nft_policy.sendable(each) and nft_policy.query(each)
    ]
    found.sort(key=lambda each: judge(policies, each).verdict is not Verdict.DENY)
    half = PACKETS // 2
    return list(dict.fromkeys(found[:half] + found[-half:]))[: nft_policy.MOST]


def drawn(dice: random.Random, direction: Direction) -> tuple[PolicySet, list[Packet], list[bool]]:
    """Policies, packets and which of them may pass: some may, some not."""
    while True:
        policies = random_set(dice, plain=True)
        packets = sample(dice, policies, direction)
        passing = [judge(policies, each).verdict is not Verdict.DENY for each in packets]
        if any(passing) and not all(passing):
            return policies, packets, passing


def both_judges(world: World, dice: random.Random, direction: Direction, way: Way, tmp_path: Path) -> None:
    policies, packets, passing = drawn(dice, direction)
    sender, receiver = (world.a, world.b) if direction is Direction.EGRESS else (world.b, world.a)
    here = (world.a.v4, world.a.v6)

    world.a.command("nft", nft_policy.ruleset(policies, direction))
    assert said(packets, sender, receiver, here, direction, passing) == passing
    world.a.command("nft", "delete table inet same")

    with enforced(world, policies, way, tmp_path):
        assert said(packets, sender, receiver, here, direction, passing) == passing


def said(
    packets: list[Packet],
    sender: Place,
    receiver: Place,
    here: tuple[str, str],
    direction: Direction,
    passing: list[bool],
) -> list[bool]:
    nft_policy.forget(receiver)
    nft_policy.send(packets, sender, here, direction)
    return nft_policy.outcome(packets, passing, receiver)


@pytest.mark.parametrize("direction", Direction)
def test_nftables_and_aegis_agree_with_the_reference(
    world: World, way: Way, direction: Direction, tmp_path: Path
) -> None:
    routed(world)
    nft_policy.watch(world.a)
    nft_policy.watch(world.b)
    dice = random.Random(seed())
    for number in range(SETS):
        both_judges(world, dice, direction, way, tmp_path / str(number))


@pytest.mark.parametrize("direction", Direction)
def test_without_a_policy_every_sendable_packet_arrives(world: World, direction: Direction) -> None:
    """The world itself loses nothing, around its own addresses neither."""
    routed(world)
    nft_policy.watch(world.a)
    nft_policy.watch(world.b)
    inside, outside = [], []
    for link, ends in zip(nft_policy.LINK, ((world.a.v4, world.b.v4), (world.a.v6, world.b.v6)), strict=True):
        assert tuple(map(ipaddress.ip_address, ends)) == (link[1], link[2])
        inside += [link[0], link[1], link[3], link[link.num_addresses // 2], link[-1]]
        outside += [link[0] - 1, link[-1] + 1]
    packets = [
        Packet(
            direction=direction,
            peer=address.packed if address.version == 6 else MAPPED + address.packed,
            protocol=protocol,
            port=80,
        )
        for address in inside + outside
        for protocol in (6, 17)
    ]
    sent = [each for each in packets if nft_policy.sendable(each)]
    assert len(sent) == 2 * len(outside)
    sender, receiver = (world.a, world.b) if direction is Direction.EGRESS else (world.b, world.a)
    passing = [True] * len(sent)
    assert said(sent, sender, receiver, (world.a.v4, world.a.v6), direction, passing) == passing


def test_what_stays_in_the_host_is_not_judged(world: World, way: Way, tmp_path: Path) -> None:
    """A denied multicast does not leave, and members on the host itself get the copy the kernel hands back."""
    denied, other, number = "239.77.1.2", "238.77.1.2", 13
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "own"},
        "spec": {
            "mode": "enforce",
            "egressDeny": [{"toCIDRSet": [{"cidr": f"{denied}/32"}]}],
            "ingressDeny": [{"fromCIDRSet": [{"cidr": f"{world.a.v4}/32"}]}],
        },
    }
    policies = PolicySet().with_policy(parse_document(json.dumps(document).encode()))
    with (
        world.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        world.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
        world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
    ):
        near.settimeout(10)
        far.settimeout(10)
        for place, member in ((world.a, near), (world.b, far)):
            member.bind(("", 7077))
            for group in (denied, other):
                request = socket.inet_aton(group) + socket.inet_aton(place.v4)
                member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(world.a.v4))
        with enforced(world, policies, way, tmp_path):
            for _ in range(number):
                sender.sendto(b"denied", (denied, 7077))
            sender.sendto(b"last", (other, 7077))
            assert [near.recv(10) for _ in range(number + 1)] == [*[b"denied"] * number, b"last"]
            assert far.recv(10) == b"last"
