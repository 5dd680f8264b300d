from __future__ import annotations

from dataclasses import replace

from aegis.kernel import abi
from aegis.kernel.constants import Constants

CONSTANTS = Constants(agent_tgid=7, cgroup_hierarchy_v2=1, ring_bytes=1 << 20, ring_reserved_bytes=1 << 17)


def test_packed_as_the_struct() -> None:
    view = abi.unpack("aegis_constants", CONSTANTS.pack())
    assert len(CONSTANTS.pack()) == abi.struct("aegis_constants").size
    assert (view.agent_tgid, view.cgroup_hierarchy_v2) == (7, 1)
    assert (view.ring_bytes, view.ring_reserved_bytes) == (1 << 20, 1 << 17)
    assert view.senders == 1
    assert abi.unpack("aegis_constants", replace(CONSTANTS, senders=False).pack()).senders == 0


def test_a_ring_of_another_size_keeps_the_share() -> None:
    smaller = CONSTANTS.for_ring(1 << 16)
    assert (smaller.ring_bytes, smaller.ring_reserved_bytes) == (1 << 16, 1 << 13)
    assert smaller.agent_tgid == 7
