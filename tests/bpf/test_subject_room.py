"""Subjects through the agent's own kernel room: applied, taken over by the next agent, refused where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis.errors import PolicyUnenforceable
from tests.bpf.test_kernel_room import Rooms, rooms  # noqa: F401
from tests.bpf.test_subject_sockets import connect
from tests.support import testers
from tests.support.world import World

pytestmark = pytest.mark.require(
    "root", "bpf", "tcx", "clsact", "bpffs", "cgroup", "tracing", "sk_storage", "iterators"
)

POLICY = b"""
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {name: telnet, version: 1}
spec:
  mode: enforce
  subject: {unit: telnet.service}
  egressDeny: [{}]
"""


@pytest.fixture
def units(world: World) -> tuple[Path, Path]:
    return world.make_cgroup("system.slice/telnet.service"), world.make_cgroup("system.slice/other.service")


def test_a_policy_about_a_unit(world: World, units: tuple[Path, Path], rooms: Rooms) -> None:  # noqa: F811
    with testers.tcp_server(world.b, world.b.v4) as port:

        def outcomes() -> list[str]:
            return [world.a.run(connect, world.b.v4, port, cgroup=unit) for unit in units]

        with world.a.entered():
            room = rooms.make()
            room.attach()
            room.enforce()
        assert outcomes() == ["passed", "passed"]
        room.enforcer.apply(POLICY)
        assert outcomes() == ["EPERM", "passed"]
        with world.a.entered():
            room.close(keep=True)
        assert outcomes() == ["EPERM", "passed"], "without an agent"
        with world.a.entered():
            later = rooms.make()
            later.attach()
            assert later.enforce().state == "enforcing"
        assert outcomes() == ["EPERM", "passed"]
        later.enforcer.remove("telnet")
        assert outcomes() == ["passed", "passed"]
        assert rooms.codes() == set()
        with world.a.entered():
            later.close(keep=False)


def test_a_unit_without_a_suffix_is_refused(world: World, rooms: Rooms) -> None:  # noqa: F811
    with world.a.entered():
        room = rooms.make()
        room.attach()
        room.enforce()
        try:
            with pytest.raises(Exception, match=r"\.service") as caught:
                room.enforcer.apply(POLICY.replace(b"telnet.service", b"telnet"))
            assert "unit" in str(caught.value)
        finally:
            room.close(keep=False)


def test_without_the_programs_a_subject_is_refused(
    world: World,
    rooms: Rooms,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kernel that lacks one of them: the policy is refused as a whole, with the reason."""
    from aegis.agent import kernel_sides

    monkeypatch.setattr(kernel_sides, "_subject_tables", _unsupported)
    with world.a.entered():
        room = rooms.make()
        room.attach()
        room.enforce()
        try:
            with pytest.raises(PolicyUnenforceable, match=r"spec\.subject"):
                room.enforcer.apply(POLICY)
            assert "subjects_unavailable" in rooms.codes()
        finally:
            room.close(keep=False)


def _unsupported(*_: object) -> None:
    from aegis.errors import FeatureUnsupported

    raise FeatureUnsupported("classify", "subjects", detail="this kernel cannot")
