"""Namespaces, veth pairs and the test world itself, on the real kernel."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from aegis.errors import HostError
from aegis.host.namespaces import NetworkNamespace
from aegis.host.rtnetlink import RouteSocket
from tests.support.world import World, open_world

pytestmark = pytest.mark.require("root")


def test_a_created_namespace_is_another_one_and_the_thread_stays() -> None:
    with NetworkNamespace.current() as here, NetworkNamespace.create() as made:
        assert made.inode != here.inode
        with NetworkNamespace.current() as after:
            assert after.inode == here.inode


def test_entering_moves_only_this_thread_and_returns() -> None:
    with NetworkNamespace.current() as here, NetworkNamespace.create() as made:
        seen: list[int] = []
        entered = threading.Event()

        def look() -> None:
            entered.wait()
            with NetworkNamespace.current() as other:
                seen.append(other.inode)

        thread = threading.Thread(target=look)
        thread.start()

        def work() -> None:
            with made.entered():
                with NetworkNamespace.current() as inside:
                    assert inside.inode == made.inode
                entered.set()
                thread.join()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            work()
        assert seen == [here.inode]
        with NetworkNamespace.current() as after:
            assert after.inode == here.inode


def test_a_process_that_does_not_exist_is_named() -> None:
    with pytest.raises(HostError, match="/proc/0/ns/net"):
        NetworkNamespace.of_process(0)


def test_a_new_namespace_has_only_a_loopback_that_is_down() -> None:
    with NetworkNamespace.create() as made, made.entered(), RouteSocket() as netlink:
        (loopback,) = netlink.links()
        assert (loopback.name, loopback.up) == ("lo", False)
        assert netlink.addresses() == ()


def test_the_world_is_silent_and_counts_exactly(world: World) -> None:
    assert world.a.statistics().rx_packets == world.b.statistics().rx_packets == 0
    for family, source, target in (
        (socket.AF_INET, world.a.v4, world.b.v4),
        (socket.AF_INET6, world.a.v6, world.b.v6),
    ):
        before = world.a.statistics()
        with (
            world.b.socket(family, socket.SOCK_DGRAM) as receiver,
            world.a.socket(family, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind((target, 0))
            sender.bind((source, 0))
            for _ in range(13):
                sender.sendto(b"x" * 101, receiver.getsockname()[:2])
                assert len(receiver.recv(2048)) == 101
        after = world.a.statistics()
        header = 14 + (20 if family == socket.AF_INET else 40) + 8
        assert after.tx_packets - before.tx_packets == 13
        assert after.tx_bytes - before.tx_bytes == 13 * (101 + header)
        assert after.rx_packets == before.rx_packets
    assert world.b.statistics().rx_packets == 26


def test_a_world_leaves_nothing() -> None:
    mounts = Path("/proc/self/mountinfo").read_text
    before = (mounts(), os.listdir("/proc/self/fd"), os.getcwd(), os.readlink("/proc/self/ns/mnt"))
    with open_world() as world:
        cgroup = world.make_cgroup("sleeper.service")
        third = world.add_peer()
        assert third.v4 == "10.77.1.2"
        sleeper = world.b.start(threading.Event().wait, cgroup=cgroup)
        assert sleeper.running()
        assert os.readlink("/proc/self/ns/mnt") != before[3]
        assert world.bpffs.is_mount()
    assert not world.cgroup.exists()
    assert not world.directory.exists()
    sleeper._status = -9  # taken by the world
    sleeper.close()
    after = (mounts(), os.listdir("/proc/self/fd"), os.getcwd(), os.readlink("/proc/self/ns/mnt"))
    assert after == before
