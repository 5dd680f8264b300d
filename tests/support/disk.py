"""A disk of the test's own, whose power can be cut."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from aegis.host.namespaces import PrivateMounts
from tests.support import expect


class Disk:
    """An ext4 on a loop image that can lose its power: the kernel's own shutdown, without the journal's last pages."""

    GOING_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
    WITHOUT_LOG = 2

    def __init__(self, where: Path, megabytes: int) -> None:
        self.image, self.top = where / "disk.img", where / "mounted"
        self.top.mkdir()
        with self.image.open("wb") as image:
            image.truncate(megabytes << 20)
        self._run("mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", str(self.image))
        self.mounted = False

    @staticmethod
    def _run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(errno.EIO, f"{command[0]}: {done.stderr.strip()}")

    def mount(self, *options: str) -> None:
        self._run("mount", "-o", ",".join(("loop", *options)), str(self.image), str(self.top))
        self.mounted = True

    def remount(self, option: str) -> None:
        self._run("mount", "-o", f"remount,{option}", str(self.top))

    def cut(self) -> None:
        number = os.open(self.top, os.O_RDONLY)
        try:
            fcntl.ioctl(number, self.GOING_DOWN, struct.pack("I", self.WITHOUT_LOG))
        finally:
            os.close(number)

    def unmount(self) -> None:
        if self.mounted:
            self._run("umount", str(self.top))
            self.mounted = False


@contextlib.contextmanager
def open_disk(where: Path, megabytes: int = 16) -> Iterator[Disk]:
    expect.require("root", "ext4_loop")
    with PrivateMounts():
        disk = Disk(where, megabytes)
        try:
            yield disk
        finally:
            disk.unmount()
