from __future__ import annotations

import errno
import os
import random
import secrets
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

from aegis.errors import AbiMismatch, AttachFailed, FeatureUnsupported, LoadRejected
from aegis.host.rtnetlink import RouteSocket
from aegis.kernel import abi, tc
from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_pins import link_name
from aegis.kernel.datapath_plan import CORE, Plan
from aegis.kernel.filters import list_filters
from aegis.kernel.links import Link
from aegis.kernel.maps import Map
from aegis.kernel.object import BpfObject, Program
from aegis.kernel.pins import FRESH, PinDirectory
from aegis.kernel.tc import Direction, Way
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")
BOTH = pytest.mark.parametrize(
    "way",
    [
        pytest.param("tcx", marks=pytest.mark.require("tcx")),
        pytest.param("clsact", marks=pytest.mark.require("clsact")),
    ],
)
CONSTANTS = Constants(agent_tgid=0, ring_bytes=4096, ring_reserved_bytes=512)
PLAN = Plan(
    object="probe_loader",
    packet={Direction.EGRESS: "probe_tc_count", Direction.INGRESS: "probe_tc_pass"},
    cgroup=("probe_sock_create",),
)


def install(world: World, way: Way | None = None, **changes: object) -> Datapath:
    given = {
        "constants": CONSTANTS,
        "map_sizes": {"probe_table": 128},
        "interfaces": [world.a.index],
        "cgroup_root": world.cgroup,
        "pin_dir": world.bpffs / "aegis",
        "prefer": way,
    }
    plan = changes.pop("plan", PLAN)
    assert isinstance(plan, Plan)
    with world.a.entered():
        return Datapath.install(plan, **{**given, **changes})  # type: ignore[arg-type]


def send(world: World, packets: int) -> None:
    with world.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(packets):
            sender.sendto(bytes(31), (world.b.v4, 9))


def counted(path: Datapath) -> int:
    return path.map("probe_counts").sum_u64(bytes(4))[0]


def clean(world: World, path: Datapath) -> None:
    """Take it down; nothing may be left anywhere."""
    with world.a.entered():
        path.detach()
        assert not (world.bpffs / "aegis").exists()
        for direction in Direction:
            assert list_filters(world.a.index, egress=direction is Direction.EGRESS) == ()
            assert tc.tcx_program_ids(world.a.index, direction) == ()


@BOTH
def test_what_is_pinned_stays_and_is_adopted(world: World, way: Way) -> None:
    path = install(world, way)
    assert not path.adopted
    assert path.ways() == {way}
    assert path.missing == ()
    send(world, 7)
    with world.a.entered():
        path.close()
    send(world, 13)
    path = install(world, way)
    assert path.adopted
    assert counted(path) == 20
    send(world, 17)
    assert counted(path) == 37
    clean(world, path)


@BOTH
def test_without_pins_all_ends_with_close(world: World, way: Way) -> None:
    path = install(world, way, pin_dir=None)
    send(world, 7)
    assert counted(path) == 7
    with world.a.entered():
        path.close()
        assert list_filters(world.a.index, egress=True) == ()
        assert tc.tcx_program_ids(world.a.index, Direction.EGRESS) == ()


@pytest.mark.require("tcx", "clsact")
def test_moving_between_tcx_and_clsact_leaves_one_hook(world: World) -> None:
    for way in ("tcx", "clsact", "tcx"):
        path = install(world, way)
        assert path.ways() == {way}
        before = counted(path)
        send(world, 7)
        assert counted(path) - before == 7
        with world.a.entered():
            path.close()
    clean(world, install(world))


@pytest.mark.require("tcx")
def test_an_interface_that_is_gone_and_one_no_longer_wanted(world: World) -> None:
    world.add_peer("c")
    with world.a.entered(), RouteSocket() as netlink:
        second = netlink.link("aegis1").index
        path = install(world, interfaces=[world.a.index, second])
        assert path.interfaces() == {world.a.index, second}
        assert path.in_place()
        netlink.delete("aegis1")
        assert not path.in_place()
        path.close()
        path = install(world, interfaces=[world.a.index, second])
        assert path.interfaces() == {world.a.index}
        assert [each.part for each in path.missing] == [f"interface {second}"]
        path.close()
        path = install(world, interfaces=[])
        assert PinDirectory(world.bpffs / "aegis").link_names() == {"cgroup-probe_sock_create"}
        assert tc.tcx_program_ids(world.a.index, Direction.EGRESS) == ()
    clean(world, path)


@BOTH
def test_an_interface_can_come_and_go(world: World, way: Way) -> None:
    path = install(world, way, interfaces=[])
    send(world, 7)
    with world.a.entered():
        path.add_interface(world.a.index)
        path.add_interface(world.a.index)
        send(world, 11)
        path.remove_interface(world.a.index)
        path.remove_interface(world.a.index)
    send(world, 13)
    assert counted(path) == 11
    clean(world, path)


@BOTH
def test_a_hook_that_is_taken_off_is_seen_and_put_back(world: World, way: Way) -> None:
    path = install(world, way)
    links = world.bpffs / "aegis" / f"v{abi.ABI_VERSION}" / "links"
    with world.a.entered():
        assert path.in_place()
        assert path.mend() == ()
        if way == "tcx":
            name = link_name(world.a.index, Direction.EGRESS)
            with Link.from_pin(links / name) as link:
                link.detach()
        else:
            tc.ClsactFilter(world.a.index, Direction.EGRESS, made_qdisc=False).detach()
        assert not path.in_place()
        send(world, 7)
        (mended,) = path.mend()
        assert (mended.part, mended.error) == (f"egress of interface {world.a.index}", None)
        assert path.in_place()
    send(world, 11)
    assert counted(path) == 11
    with world.a.entered():
        path.close()
    path = install(world, way)
    assert path.adopted
    send(world, 13)
    assert counted(path) == 24
    clean(world, path)


@pytest.mark.require("tcx", "cgroup")
def test_a_pin_that_is_removed_and_an_owner_hook_taken_off_are_put_back(world: World) -> None:
    path = install(world)
    links = world.bpffs / "aegis" / f"v{abi.ABI_VERSION}" / "links"
    names = {link_name(world.a.index, Direction.EGRESS), "cgroup-probe_sock_create"}
    with world.a.entered():
        for name in names:
            (links / name).unlink()
        assert not path.in_place()
        assert [each.error for each in path.mend()] == [None, None]
        assert path.in_place()
        assert names <= PinDirectory(world.bpffs / "aegis").link_names()
        assert len(tc.tcx_program_ids(world.a.index, Direction.EGRESS)) == 1
        with Link.from_pin(links / "cgroup-probe_sock_create") as link:
            link.detach()
        assert not path.in_place()
        assert [each.part for each in path.mend()] == ["cgroup-probe_sock_create"]
        assert path.in_place()
    clean(world, path)


@BOTH
def test_interfaces_that_cannot_be_known_are_those_of_before(world: World, way: Way) -> None:
    with world.a.entered():
        install(world, way).close()
    path = install(world, way, interfaces=None)
    assert path.interfaces() == {world.a.index}
    send(world, 7)
    assert counted(path) == 7
    clean(world, path)


@BOTH
def test_where_the_new_programs_are_refused_the_old_ones_stay(
    world: World, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.a.entered():
        install(world, way).close()

    def refused(*_: object) -> None:
        raise AttachFailed("attach", "program", errno.EPERM)

    with monkeypatch.context() as patched:
        patched.setattr(Datapath, "_attach_packet", refused)
        path = install(world, way)
    assert [each.part for each in path.missing] == [f"interface {world.a.index}"]
    assert path.interfaces() == frozenset()
    send(world, 7)
    assert counted(path) == 7
    with world.a.entered():
        path.add_interface(world.a.index)
    send(world, 7)
    assert counted(path) == 14
    clean(world, path)


@pytest.mark.require("tcx")
def test_a_pinned_table_keeps_its_size_and_says_so(world: World) -> None:
    with world.a.entered():
        install(world, map_sizes={"probe_table": 128, "probe_ring": 4096}).close()
        path = install(world, map_sizes={"probe_table": 256, "probe_ring": 4096})
    assert [(each.name, each.configured, each.kept) for each in path.kept_sizes] == [
        ("probe_table", 256, 128)
    ]
    clean(world, path)


def test_a_pinned_table_of_another_layout_changes_nothing(world: World) -> None:
    pins = PinDirectory(world.bpffs / "aegis")
    pins.make()
    table = Map.create("HASH", "probe_table", key_size=16, value_size=8, max_entries=7)
    pins.put_map(table)
    with pytest.raises(AbiMismatch, match="key_size 16 instead of 8"):
        install(world)
    assert pins.map_names() == {"probe_table"}
    with world.a.entered():
        assert tc.tcx_program_ids(world.a.index, Direction.EGRESS) == ()
    table.close()
    pins.remove_all()


def test_a_directory_that_cannot_hold_pins(world: World, tmp_path: Path) -> None:
    with pytest.raises(FeatureUnsupported) as raised:
        install(world, pin_dir=tmp_path / "aegis")
    assert "mount -t bpf" in str(raised.value.hint)
    assert not (tmp_path / "aegis").exists()


def test_a_refused_packet_program_leaves_nothing(world: World) -> None:
    plan = Plan(object="probe_refused", packet={Direction.EGRESS: "refused_null"})
    with pytest.raises(LoadRejected):
        install(world, plan=plan, constants=None, map_sizes={})
    assert PinDirectory(world.bpffs / "aegis").map_names() == frozenset()


@pytest.mark.require("tcx")
@pytest.mark.parametrize("named", [True, False])
def test_a_kill_inside_put_link_is_mended(world: World, named: bool) -> None:
    """A link pinned under its first name only, or under both, is one hook after the next start, and counts once."""
    path = install(world)
    links = world.bpffs / "aegis" / f"v{abi.ABI_VERSION}" / "links"
    name = link_name(world.a.index, Direction.EGRESS)
    with world.a.entered():
        if named:
            with BpfObject.open("probe_loader", autoload={"probe_tc_count"}) as other:
                other.load()
                with tc.attach_tcx(other.program("probe_tc_count"), world.a.index, Direction.EGRESS) as link:
                    link.pin(links / f"{FRESH}{name}")
        else:
            (links / name).rename(links / f"{FRESH}{name}")
        path.close()
    path = install(world)
    with world.a.entered():
        assert len(tc.tcx_program_ids(world.a.index, Direction.EGRESS)) == 1
    before = counted(path)
    send(world, 7)
    assert counted(path) - before == 7
    clean(world, path)


CHILD = """
import sys
from pathlib import Path
from aegis.kernel.constants import Constants
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import Plan
from aegis.kernel.tc import Direction

pins, cgroup, ifindex, way = sys.argv[1:]
plan = Plan(
    object="probe_loader",
    packet={Direction.EGRESS: "probe_tc_count", Direction.INGRESS: "probe_tc_pass"},
    cgroup=("probe_sock_create",),
)
constants = Constants(agent_tgid=0, ring_bytes=4096, ring_reserved_bytes=512)
print("begins", flush=True)
while True:
    Datapath.install(
        plan, constants=constants, map_sizes={"probe_table": 128}, interfaces=[int(ifindex)],
        cgroup_root=Path(cgroup), pin_dir=Path(pins), prefer=way,
    ).close()
"""


@BOTH
def test_kill_9_at_any_moment_loses_and_doubles_no_packet(world: World, way: Way) -> None:
    """Agents that adopt over and over are killed at random moments while packets flow: each is counted exactly once."""
    seed = secrets.randbits(32)
    moments = random.Random(seed)
    with world.a.entered():
        install(world, way).close()
    arguments = [world.bpffs / "aegis", world.cgroup, str(world.a.index), way]
    before = world.a.statistics().tx_packets
    done = threading.Event()
    sender = world.a.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def flow() -> None:
        while not done.is_set():
            sender.sendto(bytes(31), (world.b.v4, 9))
            time.sleep(0.0005)  # a rate, not a wait

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        for _ in range(7):
            child = world.a.popen([sys.executable, "-c", CHILD, *arguments], stdout=-1)
            with child:
                assert child.stdout is not None
                assert child.stdout.readline() == b"begins\n"
                time.sleep(moments.uniform(0, 0.15))  # the moment is what is random here
                assert child.poll() is None, "the child ended by itself"
                child.kill()
    finally:
        done.set()
        thread.join()
        sender.close()
    path = install(world, way)
    sent = world.a.statistics().tx_packets - before
    assert path.adopted
    assert sent > 100
    assert counted(path) == sent, f"seed {seed}"
    with world.a.entered():
        hooks = len(tc.tcx_program_ids(world.a.index, Direction.EGRESS))
        hooks += len(list_filters(world.a.index, egress=True))
        assert hooks == 1, f"seed {seed}"
    clean(world, path)


@pytest.mark.require("tcx", "cgroup", "tracing", "iterators")
def test_the_core_object_installs_whole(world: World) -> None:
    constants = Constants(agent_tgid=os.getpid(), ring_bytes=1 << 17, ring_reserved_bytes=1 << 14)
    sizes = {"aegis_ring": 1 << 17, "aegis_flows": 1024}
    with world.a.entered():
        for adopted in (False, True):
            path = Datapath.install(
                CORE,
                constants=constants,
                map_sizes=sizes,
                interfaces=[world.a.index],
                cgroup_root=world.cgroup,
                pin_dir=world.bpffs / "aegis",
            )
            assert path.adopted is adopted
            assert path.missing == ()
            assert path.others() == ()
            path.close()
        send(world, 101)
        path = Datapath.install(
            CORE,
            constants=constants,
            map_sizes=sizes,
            interfaces=[world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=world.bpffs / "aegis",
        )
        seen = path.map("aegis_packet_totals").sum_u64(struct.pack("I", 0))
        assert seen[0] >= 101
    clean(world, path)


@BOTH
def test_one_direction_alone_is_not_a_watched_interface(
    world: World, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = tc.attach

    def one_way(program: Program, ifindex: int, direction: Direction, **given: Way | None) -> object:
        if direction is Direction.INGRESS:
            raise AttachFailed("attach", f"{ifindex}", errno.EBUSY)
        return attach(program, ifindex, direction, **given)

    with monkeypatch.context() as patch:
        patch.setattr(tc, "attach", one_way)
        path = install(world, way)
    assert path.interfaces() == frozenset()
    assert path.touched() == {world.a.index}
    assert [each.part for each in path.missing] == [f"interface {world.a.index}"]
    with world.a.entered():
        path.add_interface(world.a.index)
    assert path.interfaces() == {world.a.index}
    clean(world, path)


@pytest.mark.require("tcx")
def test_a_pin_that_cannot_be_dropped_spares_no_other_direction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop, refused = PinDirectory.drop_link, [""]

    def refusing(pins: PinDirectory, name: str) -> None:
        if name.endswith(refused[0]):
            raise AttachFailed("open", name, errno.EMFILE)
        drop(pins, name)

    for refused[0], other in (("egress", Direction.INGRESS), ("ingress", Direction.EGRESS)):
        path = install(world)
        with world.a.entered():
            with monkeypatch.context() as patch:
                patch.setattr(PinDirectory, "drop_link", refusing)
                with pytest.raises(AttachFailed):
                    path.remove_interface(world.a.index)
            assert tc.tcx_program_ids(world.a.index, other) == ()
            assert path.touched() == {world.a.index}  # so it is tried again
            assert path.interfaces() == frozenset()
            path.remove_interface(world.a.index)
            assert path.touched() == frozenset()
        clean(world, path)


@pytest.mark.require("tcx")
def test_a_hook_that_cannot_be_looked_at_hides_no_lost_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install(world)
    with world.a.entered():
        with Link.from_pin(
            world.bpffs / f"aegis/v{abi.ABI_VERSION}/links" / link_name(world.a.index, Direction.INGRESS)
        ) as link:
            link.detach()
        info = Link.info

        def unseen(link: Link) -> object:
            if link is path._hooks[world.a.index, Direction.EGRESS]:
                raise AttachFailed("describe", "link", errno.EIO)
            return info(link)

        with monkeypatch.context() as patch:
            patch.setattr(Link, "info", unseen)
            assert not path.in_place()
            mended = {each.part.split()[0]: (each.seen, each.error is None) for each in path.mend()}
        assert mended == {"ingress": (True, True), "egress": (False, False)}
        assert path.in_place()
        assert path.interfaces() == {world.a.index}
    clean(world, path)
