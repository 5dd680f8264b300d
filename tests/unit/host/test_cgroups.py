"""Ids and paths of cgroups, on a tree of directories and on the machine's own hierarchy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aegis.errors import HostError
from aegis.host.cgroups import Cgroups, mount_of, mounted_at, path_of, unit_of
from tests.support.world import World


class Time:
    """A clock the test moves."""

    now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/ssh.service", "ssh.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope", "x.scope"),
        ("/system.slice/docker.service/payload/deep", "docker.service"),
        ("/system.slice", "system.slice"),
        ("/", None),
        ("/kubepods/pod1/abc", None),
        ("/service", None),
        ("", None),
    ],
)
def test_the_unit_is_the_last_part_that_names_one(path: str, unit: str | None) -> None:
    assert unit_of(path) == unit


def test_a_mount_is_found_with_its_escapes_and_only_of_the_root(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "30 23 0:28 /inner /half rw - cgroup2 cgroup2 rw\n"
        "31 23 0:28 / /sys/fs/a\\040b rw shared:4 - cgroup2 cgroup2 rw\n"
        "32 23 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    )
    assert mounted_at(str(table)) == "/sys/fs/a b"
    table.write_text("32 23 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\ngarbage\n - cgroup2 \n")
    with pytest.raises(HostError, match="no cgroup2 mount") as caught:
        mounted_at(str(table))
    assert "--cgroup-root" in str(caught.value.hint)


def test_the_mount_of_a_directory_is_the_nearest_one(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        "30 23 0:28 /half /sys/fs/cgroup/inner rw - cgroup2 cgroup2 rw\n"
    )
    for directory, expected in {
        "/sys/fs/cgroup": ("/sys/fs/cgroup", "/"),
        "/sys/fs/cgroup/a/b": ("/sys/fs/cgroup", "/"),
        "/sys/fs/cgroup/inner/b": ("/sys/fs/cgroup/inner", "/half"),
        "/sys/fs/cgroups": ("/sys/fs/cgroups", "/"),
        "/elsewhere": ("/elsewhere", "/"),
    }.items():
        assert mount_of(directory, str(table)) == expected


def test_paths_are_from_the_root_also_where_only_a_part_is_mounted(tmp_path: Path, time: Time) -> None:
    (tmp_path / "x.service").mkdir()
    cgroups = Cgroups(str(tmp_path), "/half", now=time)
    found = cgroups.at("/half/x.service")
    assert cgroups.walk() == 2
    assert cgroups.find(found.id) == found
    assert cgroups.at("/half").id == os.stat(tmp_path).st_ino
    for path in ("/", "/other", "/halfway"):
        with pytest.raises(HostError, match="only /half is mounted"):
            cgroups.at(path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/a/b.service\n", "/a/b.service"),
        (b"4:memory:/x\n0::/\n", "/"),
        (b"0::/a (deleted)\n", "/a"),
        (b"0::/a:b\n", "/a:b"),
    ],
)
def test_the_v2_line_of_a_process(text: bytes, path: str) -> None:
    assert path_of(text, "f") == path


@pytest.mark.parametrize(
    "text", [b"", b"0::/a\0b\n", b"4:memory:/x\n", b"0:x:/y\n", b"0::relative\n", b"0::/../outside\n"]
)
def test_a_process_without_a_v2_path(text: bytes) -> None:
    with pytest.raises(HostError):
        path_of(text, "f")


def test_ids_resolve_by_one_walk_and_misses_do_not_walk_again(tmp_path: Path, time: Time) -> None:
    (tmp_path / "system.slice/a.service").mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("")
    cgroups = Cgroups(str(tmp_path), now=time)
    identity = os.stat(tmp_path / "system.slice/a.service").st_ino
    found = cgroups.find(identity)
    assert found is not None
    assert (found.id, found.path, found.unit) == (identity, "/system.slice/a.service", "a.service")
    assert cgroups.walks == 1
    assert [cgroups.find(2**60 + number) for number in range(97)] == [None] * 97
    assert cgroups.walks == 1
    (tmp_path / "late.scope").mkdir()
    late = os.stat(tmp_path / "late.scope").st_ino
    assert cgroups.find(late) is None
    time.now += 1_000_000_000
    assert getattr(cgroups.find(late), "unit", None) == "late.scope"
    assert cgroups.walks == 2


def test_what_the_kernel_told_is_kept_after_the_directory_is_gone(tmp_path: Path, time: Time) -> None:
    cgroups = Cgroups(str(tmp_path), now=time)
    cgroups.learn(2**50, "/gone.service")
    cgroups.walk()
    assert getattr(cgroups.find(2**50), "path", None) == "/gone.service"


def test_no_more_are_kept_than_there_is_room_for(tmp_path: Path, time: Time) -> None:
    cgroups = Cgroups(str(tmp_path), now=time, capacity=11)
    for number in range(1, 30):
        cgroups.learn(2**50 + number, f"/{number}")
    assert len(cgroups) == 11
    assert getattr(cgroups.find(2**50 + 29), "path", None) == "/29"


def test_a_path_that_is_not_there(tmp_path: Path, time: Time) -> None:
    with pytest.raises(HostError, match="find the cgroup"):
        Cgroups(str(tmp_path), now=time).at("/nothing")


def test_a_real_cgroup_has_the_id_the_kernel_gives_it(world: World, time: Time) -> None:
    path = world.make_cgroup("deep.slice/tester.service")
    cgroups = Cgroups(mounted_at(), now=time)
    found = cgroups.at(f"/{world.cgroup.name}/deep.slice/tester.service")
    assert found.id == path.stat().st_ino
    fresh = Cgroups(mounted_at(), now=time).find(found.id)
    assert fresh == found
    assert found.unit == "tester.service"
