from __future__ import annotations

import select

import pytest

from aegis.host.changes import NetworkChanges
from tests.support.world import World


def test_nothing_happens_without_a_change() -> None:
    with NetworkChanges() as changes:
        changes.drain()
        changes.close()


@pytest.mark.require("root")
def test_a_link_a_route_and_an_address_are_changes(world: World) -> None:
    with world.a.entered():
        changes = NetworkChanges()
    with changes, world.a.netlink() as netlink:
        assert not changes.drain()
        for change in (
            lambda: netlink.set_up(world.a.interface, up=False),
            lambda: netlink.set_up(world.a.interface),
            lambda: netlink.add_address(world.a.interface, "10.99.0.1/24"),
            lambda: netlink.add_bridge("bridge0"),
        ):
            change()
            assert select.select([changes], [], [], 10)[0]
            assert changes.drain()
