"""Subjects outlive the agent: who is denied stays denied while it is dead, while another takes over, and after."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.subject_tables import SubjectTables
from tests.support import testers
from tests.support.flows import CONSTANTS
from tests.support.scale import scaled
from tests.support.subjects import Judged, Restarts, deny, programs  # noqa: F401
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "bpffs", "cgroup", "tracing", "sk_storage", "iterators")

CYCLES = scaled(3, 40)


@contextlib.contextmanager
def agent(world: World) -> Iterator[Judged]:
    """One that leaves its pins behind."""
    with world.a.entered():
        path = Datapath.install(
            CORE,
            constants=CONSTANTS,
            map_sizes={"aegis_flows": 4096},
            interfaces=[world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=world.bpffs / "aegis",
        )
    try:
        assert path.missing == ()
        with (
            contextlib.closing(SubjectTables.of(path.object)) as tables,
            contextlib.closing(PolicySlots.of(path.object)) as slots,
        ):
            tables.start(world.cgroup)
            yield Judged(path, tables, slots)
    finally:
        with world.a.entered():
            path.close()


def test_agents_that_follow_each_other(world: World, programs: tuple[Path, Path]) -> None:  # noqa: F811
    slice_ = world.make_cgroup("system.slice")
    found: dict[str, dict[str, int]] = {"telnet.service": {}, "other.service": {}}
    over = threading.Event()
    with testers.tcp_server(world.b, world.b.v4) as port:
        restarts = Restarts(world, *programs, port)

        def restart(name: str) -> None:
            while not over.is_set():
                for outcome, times in restarts("again", 20, slice_, name).items():
                    found[name][outcome] = found[name].get(outcome, 0) + times

        with agent(world) as first:
            first.apply(deny(unit="telnet.service"))
        threads = [threading.Thread(target=restart, args=(name,)) for name in found]
        for thread in threads:
            thread.start()
        try:
            for _ in range(CYCLES):
                threading.Event().wait(0.2)
                with agent(world) as later:
                    assert later.path.adopted
                    later.apply(deny(cgroup="/elsewhere"), deny(unit="telnet.service"))
        finally:
            over.set()
            for thread in threads:
                thread.join()
            with agent(world) as last:
                counts = last.tables.counts()
                with world.a.entered():
                    last.path.detach()
    assert set(found["telnet.service"]) == {"EPERM"}
    assert set(found["other.service"]) == {"passed"}
    assert counts["by_ancestor"] == counts["cgroups_full"] == 0
