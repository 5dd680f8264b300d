from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from aegis.errors import AttachFailed
from aegis.host.rtnetlink import RouteSocket
from aegis.kernel import tc
from aegis.kernel.filters import hook_kind, list_filters
from aegis.kernel.library import checked, open_library
from aegis.kernel.links import Link
from aegis.kernel.object import BpfObject, Program
from aegis.kernel.tc import ClsactFilter, Direction, Way
from tests.support.qdisc import place_ingress_qdisc, remove_ingress_qdisc
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


@pytest.mark.require("clsact")
@pytest.mark.parametrize("direction", list(Direction))
def test_an_ingress_qdisc_is_no_clsact(probe: BpfObject, world: World, direction: Direction) -> None:
    """It has the same handle, and takes an egress filter among its ingress ones, where that sees the wrong packets."""
    with world.a.entered(), RouteSocket() as netlink:
        place_ingress_qdisc(netlink, world.a.index)
        assert hook_kind(world.a.index) == "ingress"
        with pytest.raises(AttachFailed, match="its place is taken by a qdisc ingress") as refused:
            tc.attach_clsact(probe.program("probe_tc_drop"), world.a.index, direction)
        assert refused.value.errno == errno.EEXIST
        remove_ingress_qdisc(netlink, world.a.index)
        assert hook_kind(world.a.index) == ""
        hook = tc.attach_clsact(probe.program("probe_tc_drop"), world.a.index, direction)
        assert hook_kind(world.a.index) == "clsact"
        hook.detach()
        assert tc.destroy_clsact(world.a.index)


FINAL = (0xB7 | 0 << 32, 0x95)  # r0 = TC_ACT_OK; exit: the packet goes on, and no later program sees it


@pytest.fixture
def accepting() -> Iterator[Program]:
    """A foreign program that accepts every packet."""
    ffi, lib = open_library()
    kind = lib.BPF_PROG_TYPE_SCHED_CLS
    fd = lib.aegis_prog_load(
        kind, 0, b"accepting", ffi.new("unsigned long long[]", FINAL), len(FINAL), 0, ffi.NULL, 0
    )
    assert fd >= 0
    program = object.__new__(Program)
    program.name, program.section, program.type, program.attach_type, program.fd = (
        "accepting",
        "tc",
        kind,
        0,
        fd,
    )
    yield program
    os.close(fd)


@pytest.mark.require("tcx")
@pytest.mark.parametrize("direction", list(Direction))
def test_a_program_that_was_there_first_does_not_hide_packets(
    probe: BpfObject, accepting: Program, world: World, direction: Direction
) -> None:
    ours = probe.program("probe_tc_count")
    known = frozenset({ours.info().id})
    with world.a.entered():
        index = world.a.index
        with attach_last(accepting, index, direction), tc.attach_tcx(ours, index, direction):
            assert tc.tcx_program_ids(index, direction) == (ours.info().id, accepting.info().id)
            assert tc.programs_before(index, known) == ()
            exchange(world, 11)
            assert counted(probe) == 11


@pytest.mark.require("tcx")
def test_a_kernel_that_refuses_the_place_gets_the_program_at_the_end(
    probe: BpfObject, accepting: Program, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ffi, lib = open_library()
    refusing = SimpleNamespace(
        aegis_link_create_first=lambda *_: -errno.EINVAL,
        aegis_link_create=lib.aegis_link_create,
        aegis_prog_query=lib.aegis_prog_query,
        BPF_TCX_EGRESS_=lib.BPF_TCX_EGRESS_,
    )
    ours, direction = probe.program("probe_tc_count"), Direction.EGRESS
    with world.a.entered(), attach_last(accepting, world.a.index, direction):
        with monkeypatch.context() as patch:
            patch.setattr(tc, "open_library", lambda: (ffi, refusing))
            link = tc.attach_tcx(ours, world.a.index, direction)
        with link:
            order = (accepting.info().id, ours.info().id)
            assert tc.tcx_program_ids(world.a.index, direction) == order


@BOTH
def test_a_program_that_comes_before_ours_is_told(
    probe: BpfObject, accepting: Program, world: World, way: Way
) -> None:
    ours, theirs = probe.program("probe_tc_count"), accepting.info().id
    known = frozenset({ours.info().id})
    with world.a.entered():
        index = world.a.index
        assert tc.programs_before(index, known) == ()
        hook = tc.attach(ours, index, Direction.EGRESS, prefer=way)
        if way == "tcx":
            foreign = tc.attach_tcx(accepting, index, Direction.EGRESS)
        else:
            foreign = attach_last(accepting, index, Direction.EGRESS)  # all of tcx is before all of clsact
        with foreign:
            (found,) = tc.programs_before(index, known)
            assert (found.direction, found.program_id, found.name) == (Direction.EGRESS, theirs, "accepting")
            exchange(world, 7)
            assert counted(probe) == 0
        assert tc.programs_before(index, known) == ()
        hook.detach()
        hook.close()


def attach_last(program: Program, ifindex: int, direction: Direction) -> Link:
    """As anyone attaches who asks for no place."""
    _, lib = open_library()
    kind = lib.BPF_TCX_EGRESS_ if direction is Direction.EGRESS else lib.BPF_TCX_INGRESS_
    return Link(
        checked(lib.aegis_link_create(program.fd, ifindex, kind), "attach", program.name), program.name
    )


def exchange(world: World, packets: int) -> None:
    """As many packets out of a as into it."""
    with world.a.socket(kind=socket.SOCK_DGRAM) as a, world.b.socket(kind=socket.SOCK_DGRAM) as b:
        a.bind((world.a.v4, 0))  # bound, or each packet would be answered by an error
        b.bind((world.b.v4, 0))
        for _ in range(packets):
            a.sendto(bytes(31), b.getsockname())
            b.sendto(bytes(31), a.getsockname())


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
