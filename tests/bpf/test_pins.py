from __future__ import annotations

import os
from pathlib import Path

import pytest

from aegis.errors import FeatureUnsupported
from aegis.kernel import abi
from aegis.kernel.links import attach_cgroup
from aegis.kernel.maps import Map
from aegis.kernel.object import BpfObject
from aegis.kernel.pins import FRESH, PinDirectory, on_bpffs
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")


def test_one_directory_for_each_abi(world: World) -> None:
    pins = PinDirectory(world.bpffs / "aegis")
    pins.make()
    pins.make()
    assert os.listdir(world.bpffs / "aegis") == [f"v{abi.ABI_VERSION}"]
    assert on_bpffs(pins.root)
    assert (pins.map_names(), pins.link_names(), pins.clsact_interfaces()) == (frozenset(),) * 3
    pins.remove_all()
    assert not (world.bpffs / "aegis").exists()
    pins.remove_all()


def test_one_holder_at_a_time_and_nobody_else_can_open_the_lock(world: World) -> None:
    world.bpffs.chmod(0o755)
    (world.bpffs / "aegis" / f"v{abi.ABI_VERSION}").mkdir(parents=True)  # as an agent before made them
    pins = PinDirectory(world.bpffs / "aegis")
    held = pins.hold()
    assert pins.root.stat().st_mode & 0o077 == 0
    with pytest.raises(BlockingIOError):
        PinDirectory(world.bpffs / "aegis").hold()
    pins.clear()
    with pytest.raises(BlockingIOError):
        PinDirectory(world.bpffs / "aegis").hold()
    pins.remove_all()
    other = PinDirectory(world.bpffs / "aegis").hold()  # of a directory made anew
    os.close(held)
    with pytest.raises(BlockingIOError):
        pins.hold()
    os.close(other)
    os.close(pins.hold())
    pins.remove_all()


def test_only_what_is_empty_is_removed_and_a_holder_has_all_directories(world: World) -> None:
    pins = PinDirectory(world.bpffs / "aegis")
    held = pins.hold()
    pins.remove_empty()
    assert not (world.bpffs / "aegis").exists()
    os.close(held)
    held = pins.hold()
    with BpfObject.open("probe_loader", autoload=set()) as opened:
        opened.load()
        pins.put_map(opened.map("probe_counts"))
    pins.remove_empty()
    assert (sorted(os.listdir(pins.root)), pins.map_names()) == (["maps"], {"probe_counts"})
    os.close(held)
    os.close(pins.hold())
    assert sorted(os.listdir(pins.root)) == ["clsact", "links", "maps"]
    pins.remove_all()


def test_pins_of_another_user_are_refused(world: World) -> None:
    (world.bpffs / "aegis").mkdir()
    os.chown(world.bpffs / "aegis", 1234, 1234)
    for act in (PinDirectory.make, PinDirectory.hold):
        with pytest.raises(FeatureUnsupported, match="Permission denied"):
            act(PinDirectory(world.bpffs / "aegis"))


def test_what_is_in_the_parent_stays(world: World) -> None:
    (world.bpffs / "aegis" / "v0").mkdir(parents=True)
    pins = PinDirectory(world.bpffs / "aegis")
    pins.make()
    pins.remove_all()
    assert os.listdir(world.bpffs / "aegis") == ["v0"]


def test_a_directory_elsewhere_is_refused_and_left_clean(tmp_path: Path) -> None:
    assert not on_bpffs(tmp_path)
    with pytest.raises(FeatureUnsupported, match="not a BPF file system"):
        PinDirectory(tmp_path / "aegis").make()
    assert list(tmp_path.iterdir()) == []


def test_maps_by_name(world: World) -> None:
    pins = PinDirectory(world.bpffs / "aegis")
    pins.make()
    table = Map.create("HASH", "aegis_some_table", key_size=4, value_size=4, max_entries=7)
    pins.put_map(table)
    assert pins.map_names() == {"aegis_some_table"}
    found = pins.open_map("aegis_some_table")
    assert found.id == table.id
    found.close()
    table.close()
    pins.drop_map("aegis_some_table")
    pins.drop_map("aegis_some_table")
    assert pins.map_names() == frozenset()
    pins.remove_all()


@pytest.mark.require("cgroup")
def test_a_replaced_or_dropped_link_is_off_its_hook_at_once(world: World) -> None:
    pins = PinDirectory(world.bpffs / "aegis")
    pins.make()
    directory = os.open(world.cgroup, os.O_RDONLY | os.O_DIRECTORY)
    make = "import socket; socket.socket().close()"
    with BpfObject.open("probe_loader") as first, BpfObject.open("probe_loader") as second:
        for opened in (first, second):
            opened.load()
            with attach_cgroup(opened.program("probe_sock_create"), directory) as link:
                pins.put_link(link, "one")
            assert pins.link_names() == {"one"}
            world.a.command("python3", "-c", make, cgroup=world.cgroup)
        pins.drop_link("one")
        pins.drop_link("one")
        world.a.command("python3", "-c", make, cgroup=world.cgroup)
        counts = [opened.map("probe_words").lookup(bytes(4)) for opened in (first, second)]
        assert counts == [(1).to_bytes(8, "little")] * 2
    os.close(directory)
    pins.remove_all()


@pytest.mark.require("cgroup")
def test_a_link_under_its_first_name_gets_its_own(world: World) -> None:
    pins = PinDirectory(world.bpffs / "aegis")
    pins.make()
    directory = os.open(world.cgroup, os.O_RDONLY | os.O_DIRECTORY)
    with BpfObject.open("probe_loader") as opened:
        opened.load()
        with attach_cgroup(opened.program("probe_sock_create"), directory) as link:
            link.pin(pins.root / "links" / f"{FRESH}one")
    os.close(directory)
    assert pins.link_names() == frozenset()
    pins.make()
    assert pins.link_names() == {"one"}
    pins.remove_all()


def test_clsact_interfaces_are_remembered(world: World) -> None:
    pins = PinDirectory(world.bpffs / "aegis")
    pins.make()
    pins.mark_clsact(7)
    pins.mark_clsact(11, made=True)
    pins.mark_clsact(11)
    assert pins.clsact_interfaces() == {7, 11}
    assert [pins.made_clsact(number) for number in (7, 11, 13)] == [False, True, False]
    pins.unmark_clsact(11)
    pins.unmark_clsact(13)
    assert pins.clsact_interfaces() == {7}
    pins.remove_all()
    assert not (world.bpffs / "aegis").exists()
