from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator

import pytest

from aegis.errors import AttachFailed
from aegis.kernel.links import Link, attach_cgroup, attach_iter, attach_tracing, read_iter, run_iter
from aegis.kernel.object import BpfObject
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")


@pytest.fixture
def probe() -> Iterator[BpfObject]:
    with BpfObject.open("probe_loader") as opened:
        opened.load()
        yield opened


def count(probe: BpfObject, index: int) -> int:
    value = probe.map("probe_words").lookup(struct.pack("I", index))
    assert value is not None
    return int(struct.unpack("Q", value)[0])


@pytest.mark.require("tracing")
@pytest.mark.parametrize(("program", "index"), [("probe_tp_exec", 1), ("probe_raw_exec", 2)])
def test_tracepoints_see_every_exec(probe: BpfObject, program: str, index: int) -> None:
    """Other processes of the machine may exec meanwhile, so at least ours are there, and none after the end."""
    with attach_tracing(probe.program(program)):
        for _ in range(7):
            subprocess.run(["/bin/true"], check=True)
        assert count(probe, index) >= 7
    after = count(probe, index)
    subprocess.run(["/bin/true"], check=True)
    assert count(probe, index) == after


def test_a_packet_program_is_no_tracepoint(probe: BpfObject) -> None:
    with pytest.raises(AttachFailed, match="tc is no tracepoint"):
        attach_tracing(probe.program("probe_tc_count"))


@pytest.mark.require("cgroup")
def test_a_cgroup_program_sees_sockets_of_its_cgroup_only(probe: BpfObject, world: World) -> None:
    inside = world.make_cgroup("inside.service")
    directory = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    make = "import socket\nfor _ in range(13): socket.socket().close()"
    try:
        with attach_cgroup(probe.program("probe_sock_create"), directory):
            world.a.command("python3", "-c", make, cgroup=inside)
            world.a.command("python3", "-c", make, cgroup=world.make_cgroup("outside.service"))
            assert count(probe, 0) == 13
    finally:
        os.close(directory)


@pytest.mark.require("cgroup")
def test_two_links_share_a_cgroup(probe: BpfObject, world: World) -> None:
    """A link leaves room for others (BPF_F_ALLOW_MULTI)."""
    directory = os.open(world.cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        program = probe.program("probe_sock_create")
        with attach_cgroup(program, directory), BpfObject.open("probe_loader") as other:
            other.load()
            with attach_cgroup(other.program("probe_sock_create"), directory):
                world.a.command(
                    "python3", "-c", "import socket; socket.socket().close()", cgroup=world.cgroup
                )
                assert (count(probe, 0), count(other, 0)) == (1, 1)
    finally:
        os.close(directory)


@pytest.mark.require("iterators")
def test_an_iterator_writes_every_entry(probe: BpfObject) -> None:
    table = probe.map("probe_table")
    for number in range(1009):
        table.update(struct.pack("Q", number), struct.pack("Q", number * number))
    written = run_iter(probe.program("probe_iter_table"), table)
    pairs = list(struct.iter_unpack("QQ", written))
    assert sorted(pairs) == [(number, number * number) for number in range(1009)]
    with attach_iter(probe.program("probe_iter_table"), table) as link:
        assert b"".join(read_iter(link)) == written, "an attached iterator runs again"


@pytest.mark.require("cgroup")
def test_a_pinned_link_outlives_its_owner_and_takes_another_program(probe: BpfObject, world: World) -> None:
    directory = os.open(world.cgroup, os.O_RDONLY | os.O_DIRECTORY)
    path = world.bpffs / "link"
    make = "import socket; socket.socket().close()"
    try:
        link = attach_cgroup(probe.program("probe_sock_create"), directory)
        link.pin(path)
        link.close()
        world.a.command("python3", "-c", make, cgroup=world.cgroup)
        assert count(probe, 0) == 1
        with BpfObject.open("probe_loader") as other, Link.from_pin(path) as found:
            other.load()
            assert found.info().program_id == probe.program("probe_sock_create").info().id
            assert found.info().cgroup_id == os.fstat(directory).st_ino
            found.update(other.program("probe_sock_create"))
            assert found.info().program_id == other.program("probe_sock_create").info().id
            world.a.command("python3", "-c", make, cgroup=world.cgroup)
            assert (count(probe, 0), count(other, 0)) == (1, 1)
            found.detach()
            world.a.command("python3", "-c", make, cgroup=world.cgroup)
            assert (count(probe, 0), count(other, 0)) == (1, 1)
    finally:
        os.close(directory)
        path.unlink(missing_ok=True)
