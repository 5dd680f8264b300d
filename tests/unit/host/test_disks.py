"""Block devices and file systems, from a known tree and from this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aegis.errors import HostError
from aegis.host import disks
from aegis.model.absent import Absent
from tests.support import hosttree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return hosttree.make(tmp_path)


def read(root: Path) -> dict[str, object]:
    found = list(disks.disks(str(root / "proc"), str(root / "sys")))
    assert {labels for _, labels, _ in found} == {(("device", "vda"),)}
    return {name: value for name, _, value in found}


def test_a_whole_device_that_was_used(root: Path) -> None:
    assert read(root) == {
        "disk.reads": 1000,
        "disk.read_bytes": 8000 * 512,
        "disk.read_time": 0.5,
        "disk.writes": 2000,
        "disk.written_bytes": 16000 * 512,
        "disk.write_time": 0.7,
        "disk.in_flight": 1,
        "disk.busy_time": 0.9,
    }


@pytest.mark.parametrize(
    "text", ["254 0 vda 1 2 3\n", "254 0 vda" + " x" * 17 + "\n", "254 0 vda" + " -1" * 17 + "\n"]
)
def test_a_spoilt_line(root: Path, text: str) -> None:
    (root / "proc/diskstats").write_text(text)
    with pytest.raises(HostError, match="diskstats"):
        list(disks.disks(str(root / "proc"), str(root / "sys")))


def mounts(root: Path, text: str) -> list[tuple[str, str, str]]:
    (root / "proc/self/mountinfo").write_text(text)
    return list(disks.mounts(str(root / "proc")))


def test_each_local_file_system_once_by_its_shortest_mount(root: Path) -> None:
    assert mounts(
        root,
        "1 0 254:0 /deep /mnt/a\\040b rw - ext4 /dev/vda rw\n"
        "2 0 254:0 / / rw shared:1 - ext4 /dev/vda rw\n"
        "3 0 0:30 / /home rw - btrfs /dev/sdb rw\n"
        "4 0 0:31 / /tank rw - zfs tank rw\n"
        "5 0 0:32 / /net rw - nfs4 server:/x rw\n"
        "6 0 0:33 / /tmp rw - tmpfs tmpfs rw\n"
        "7 0 0:34 / /fuse rw - fuse.sshfs me@there: rw\n",
    ) == [("/", "/dev/vda", "ext4"), ("/home", "/dev/sdb", "btrfs"), ("/tank", "tank", "zfs")]


@pytest.mark.parametrize(
    "text",
    ["1 2 - ext4 /dev/vda rw\n", "1 0 254:0 / /a\\000b rw - ext4 /dev/vda rw\n", "1 0 254:0 / / rw - ext4\n"],
)
def test_a_spoilt_mount_table(root: Path, text: str) -> None:
    with pytest.raises(HostError, match="mountinfo"):
        mounts(root, text)


def test_a_mount_that_does_not_answer_is_absent_and_the_others_are_read(root: Path, tmp_path: Path) -> None:
    (root / "proc/self/mountinfo").write_text(
        f"1 0 254:0 / {tmp_path} rw - ext4 /dev/vda rw\n2 0 254:1 / /nonexistent/mount rw - ext4 /dev/vdb rw\n"
    )
    found = {(name, labels[0][1]): value for name, labels, value in disks.filesystems(str(root / "proc"))}
    judge = os.statvfs(tmp_path)
    assert found["filesystem.size", str(tmp_path)] == judge.f_blocks * judge.f_frsize
    absent = found["filesystem.size", "/nonexistent/mount"]
    assert isinstance(absent, Absent)
    assert "No such file" in absent.reason
