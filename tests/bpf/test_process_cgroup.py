"""A control group is told when it is made, with the path it will have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis._native import records
from tests.support.observed import Observed, observed
from tests.support.world import World

pytestmark = [pytest.mark.require("root", "bpf", "tracing", "ringbuf", "cgroup2")]

ID, PATH = 3, 4


@pytest.fixture(scope="module")
def sensor() -> Iterator[Observed]:
    with observed("tp_cgroup_mkdir") as sensor:
        yield sensor


def below(world: World, path: Path) -> bytes:
    return b"/" + os.fsencode(path.relative_to(world.cgroup_root))


def test_path_and_id(sensor: Observed, world: World) -> None:
    sensor.take()
    made = [world.make_cgroup(f"unit-{at}.service/inner") for at in range(53)]
    wanted = [
        (records.CGROUP, each.stat().st_ino, below(world, each))
        for path in made
        for each in (path.parent, path)
    ]
    found = sensor.take(lambda record: record[PATH].startswith(below(world, world.cgroup)))
    assert [(record[0], record[ID], record[PATH]) for record in found] == wanted


def test_a_name_may_hold_anything(sensor: Observed, world: World) -> None:
    sensor.take()
    path = world.cgroup / "\x1b[1m ( sn\u00f6 "
    path.mkdir()
    (record,) = sensor.take(lambda each: each[ID] == path.stat().st_ino)
    assert record[PATH] == below(world, path)


def test_a_long_path_is_cut_where_the_kernel_cuts_it(sensor: Observed, world: World) -> None:
    path = world.cgroup
    for at in range(7):
        path /= f"{at}" + "d" * 200
    sensor.take()
    path.mkdir(parents=True)
    (record,) = sensor.take(lambda each: each[ID] == path.stat().st_ino)
    whole = below(world, path)
    assert len(whole) > 1023
    assert record[PATH] == whole[:1023]


def test_version_one_hierarchies_are_not_told(sensor: Observed) -> None:
    old = [
        Path(line.split()[4])
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup " in line
    ]
    if not old:
        pytest.skip("no cgroup v1 hierarchy is mounted")
    sensor.take()
    path = old[0] / f"aegis-test-{os.getpid()}"
    path.mkdir()
    path.rmdir()
    assert [record for record in sensor.take() if os.fsencode(path.name) in record[PATH]] == []
