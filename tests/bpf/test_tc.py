from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from aegis.errors import AttachFailed
from aegis.host.rtnetlink import RouteSocket
from aegis.kernel import tc
from aegis.kernel.filters import list_filters
from aegis.kernel.links import Link
from aegis.kernel.object import BpfObject
from aegis.kernel.tc import ClsactFilter, Direction, Way
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")
BOTH = pytest.mark.parametrize(
    "way",
    [
        pytest.param("tcx", marks=pytest.mark.require("tcx")),
        pytest.param("clsact", marks=pytest.mark.require("clsact")),
    ],
)


@pytest.fixture
def probe() -> Iterator[BpfObject]:
    with BpfObject.open("probe_loader", autoload={"probe_tc_count", "probe_tc_drop"}) as opened:
        opened.load()
        yield opened


def send(world: World, packets: int) -> None:
    with world.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(packets):
            sender.sendto(bytes(31), (world.b.v4, 9))


def counted(probe: BpfObject) -> int:
    return probe.map("probe_counts").sum_u64(bytes(4))[0]


@BOTH
def test_egress_sees_each_packet_once_and_lets_it_go(probe: BpfObject, world: World, way: Way) -> None:
    with world.a.entered():
        before = world.a.statistics().tx_packets
        hook = tc.attach(probe.program("probe_tc_count"), world.a.index, Direction.EGRESS, prefer=way)
        assert isinstance(hook, Link if way == "tcx" else ClsactFilter)
        send(world, 101)
        assert counted(probe) == 101 == world.a.statistics().tx_packets - before
        assert probe.map("probe_counts").sum_u64(struct.pack("I", 1)) == (101 * (31 + 42),)
        hook.detach()
        hook.close()
        send(world, 7)
        assert counted(probe) == 101
        assert list_filters(world.a.index, egress=True) == ()


@BOTH
def test_ingress_drops_what_it_is_told(probe: BpfObject, world: World, way: Way) -> None:
    receiver = world.a.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with world.a.entered(), receiver, world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver.bind((world.a.v4, 0))
        receiver.setblocking(False)
        hook = tc.attach(probe.program("probe_tc_drop"), world.a.index, Direction.INGRESS, prefer=way)
        for _ in range(13):
            sender.sendto(b"denied", receiver.getsockname())
        hook.update(probe.program("probe_tc_count"))
        for _ in range(7):
            sender.sendto(b"allowed", receiver.getsockname())
        assert [receiver.recv(64) for _ in range(7)] == [b"allowed"] * 7
        with pytest.raises(BlockingIOError):
            receiver.recv(64)
        assert counted(probe) == 7
        hook.detach()
        hook.close()


@pytest.mark.require("clsact")
def test_a_clsact_filter_outlives_the_object_and_is_replaced_in_place(probe: BpfObject, world: World) -> None:
    with world.a.entered():
        first = tc.attach_clsact(probe.program("probe_tc_drop"), world.a.index, Direction.EGRESS)
        assert first.made_qdisc
        with BpfObject.open("probe_loader", autoload={"probe_tc_count"}) as other:
            other.load()
            second = tc.attach_clsact(other.program("probe_tc_count"), world.a.index, Direction.EGRESS)
            number = other.program("probe_tc_count").info().id
        assert not second.made_qdisc
        assert second.program_id() == number
        filters = list_filters(world.a.index, egress=True)
        assert [(each.handle, each.priority, each.program_id) for each in filters] == [
            (tc.CLSACT_HANDLE, tc.CLSACT_PRIORITY, number)
        ]
        assert not tc.destroy_clsact(world.a.index), "a filter is still in it"
        second.detach()
        second.detach()
        assert second.program_id() == 0
        assert tc.destroy_clsact(world.a.index)


@pytest.mark.require("tcx")
def test_programs_of_others_are_reported(probe: BpfObject, world: World) -> None:
    ours, theirs = probe.program("probe_tc_count"), probe.program("probe_tc_drop")
    with world.a.entered(), tc.attach_tcx(ours, world.a.index, Direction.EGRESS):
        known = frozenset({ours.info().id})
        assert tc.other_programs(world.a.index, known) == ()
        other_filter = tc.attach_clsact(theirs, world.a.index, Direction.INGRESS)
        with tc.attach_tcx(theirs, world.a.index, Direction.EGRESS):
            found = {
                (each.direction, each.program_id, each.name.split(":")[0])
                for each in tc.other_programs(world.a.index, known)
            }
        number = theirs.info().id
        assert found == {
            (Direction.EGRESS, number, "probe_tc_drop"),
            (Direction.INGRESS, number, "probe_tc_drop"),
        }
        other_filter.detach()


@pytest.mark.require("tcx")
def test_a_link_whose_interface_is_gone(probe: BpfObject, world: World) -> None:
    peer = world.add_peer("c")
    with world.a.entered(), RouteSocket() as netlink:
        index = netlink.link("aegis1").index
        link = tc.attach_tcx(probe.program("probe_tc_count"), index, Direction.EGRESS)
        assert link.info().ifindex == index
        netlink.delete("aegis1")
        assert link.info().ifindex == 0
        with pytest.raises(AttachFailed) as raised:
            link.update(probe.program("probe_tc_drop"))
        assert raised.value.errno == errno.ENOLINK
        link.close()
        with pytest.raises(AttachFailed) as raised:
            tc.attach(probe.program("probe_tc_count"), index, Direction.EGRESS)
        assert raised.value.errno == errno.ENODEV
    assert peer.name == "c"
