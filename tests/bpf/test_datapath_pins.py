"""What an agent before left is found and removed without loading anything."""

from __future__ import annotations

import pytest

from aegis.errors import FeatureUnsupported
from aegis.kernel import tc
from aegis.kernel.datapath_pins import clear, pinned_interfaces, uninstall
from aegis.kernel.filters import list_filters
from aegis.kernel.pins import PinDirectory
from aegis.kernel.tc import Direction, Way
from tests.bpf.test_datapath import BOTH, install
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")


@BOTH
def test_uninstall_needs_no_objects(world: World, way: Way) -> None:
    with world.a.entered():
        install(world, way).close()
        uninstall(world.bpffs / "aegis")
        assert list_filters(world.a.index, egress=True) == ()
        assert tc.tcx_program_ids(world.a.index, Direction.EGRESS) == ()
        with pytest.raises(FeatureUnsupported, match="nothing is installed"):
            uninstall(world.bpffs / "aegis")


@BOTH
def test_what_is_cleared_is_found_before_and_not_after(world: World, way: Way) -> None:
    """The directories stay, and with them the lock of the agent that begins anew."""
    pins = PinDirectory(world.bpffs / "aegis")
    with world.a.entered():
        install(world, way).close()
        assert pinned_interfaces(pins) == (world.a.index,)
        clear(pins)
        assert pinned_interfaces(pins) == ()
        assert pins.map_names() == frozenset()
        assert pins.root.exists()
        assert list_filters(world.a.index, egress=True) == ()
        assert tc.tcx_program_ids(world.a.index, Direction.EGRESS) == ()
        uninstall(pins.base)
