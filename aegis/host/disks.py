"""Block devices and file systems."""

from __future__ import annotations

import os
from collections.abc import Iterator

from aegis.host import procfs
from aegis.host.usage import Reading
from aegis.model.absent import Absent

_SECTOR_BYTES = 512  # of /proc/diskstats, whatever the device's own is
_MILLISECONDS = 1000
# Column, metric, and what one unit is worth (kernel: Documentation/admin-guide/iostats.rst).
_COLUMNS: tuple[tuple[int, str, int, int], ...] = (
    (3, "disk.reads", 1, 1),
    (5, "disk.read_bytes", _SECTOR_BYTES, 1),
    (6, "disk.read_time", 1, _MILLISECONDS),
    (7, "disk.writes", 1, 1),
    (9, "disk.written_bytes", _SECTOR_BYTES, 1),
    (10, "disk.write_time", 1, _MILLISECONDS),
    (11, "disk.in_flight", 1, 1),
    (12, "disk.busy_time", 1, _MILLISECONDS),
)
_LEAST_COLUMNS = 14
# Network and user-space file systems may not answer for minutes; their space is their server's to report.
_LOCAL_WITHOUT_DEVICE = frozenset({b"btrfs", b"zfs", b"overlay", b"bcachefs"})


def disks(proc: str, sys: str) -> Iterator[Reading]:
    """Counters of whole devices (no partitions) that were ever used."""
    where = f"{proc}/diskstats"
    whole = frozenset(procfs.listing(f"{sys}/block"))
    for line in procfs.read(where).split(b"\n"):
        if not line.strip():
            continue
        words = procfs.columns(line, _LEAST_COLUMNS, where)
        name = os.fsdecode(words[2])
        # A device's name has ! in /sys where it has / elsewhere (cciss!c0d0).
        if name.replace("/", "!") not in whole or not any(word != b"0" for word in words[3:14]):
            continue
        label = (("device", name),)
        for column, metric, worth, divisor in _COLUMNS:
            value = procfs.number(words[column], where) * worth
            yield metric, label, value if divisor == 1 else value / divisor


def mounts(proc: str) -> Iterator[tuple[str, str, str]]:
    """(mount point, device, type) of local file systems, each file system once, by its shortest mount point."""
    where = f"{proc}/self/mountinfo"
    found: dict[bytes, tuple[bytes, bytes, bytes]] = {}
    for line in procfs.read(where).split(b"\n"):
        before, separator, after = line.partition(b" - ")
        if not separator:
            continue
        left = procfs.columns(before, 5, where)
        kind, device = procfs.columns(after, 2, where)[:2]
        if not device.startswith(b"/dev/") and kind not in _LOCAL_WITHOUT_DEVICE:
            continue
        point, number = procfs.unescape(left[4]), left[2]
        if number not in found or len(point) < len(found[number][0]):
            found[number] = (point, procfs.unescape(device), kind)
    for point, device, kind in found.values():
        yield procfs.path(point, where), procfs.path(device, where), os.fsdecode(kind)


def filesystems(proc: str) -> Iterator[Reading]:
    """Space and inodes. A mount that does not answer is Absent with its error; the others are read on."""
    for point, device, kind in mounts(proc):
        labels = (("mount", point), ("device", device), ("type", kind))
        try:
            found = os.statvfs(point)
        except OSError as error:
            reason = Absent(str(procfs.failed("read the file system at", point, error)))
            for metric in ("size", "free", "available", "inodes", "inodes_free"):
                yield f"filesystem.{metric}", labels, reason
            continue
        yield "filesystem.size", labels, found.f_blocks * found.f_frsize
        yield "filesystem.free", labels, found.f_bfree * found.f_frsize
        yield "filesystem.available", labels, found.f_bavail * found.f_frsize
        if found.f_files:
            yield "filesystem.inodes", labels, found.f_files
            yield "filesystem.inodes_free", labels, found.f_ffree
        else:
            for metric in ("inodes", "inodes_free"):
                yield f"filesystem.{metric}", labels, Absent(f"{kind} has no fixed number of inodes")
