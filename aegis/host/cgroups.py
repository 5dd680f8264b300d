"""The cgroup v2 hierarchy: where it is mounted, and which path a cgroup id stands for.

A cgroup's id is the inode number of its directory (the kernel uses one number for both). Ids are not used again until
the counter wraps at 64 bits, so what is known of one stays true; only its directory may be gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from aegis._native import _system
from aegis.errors import HostError
from aegis.host import procfs
from aegis.model.process import Cgroup

_SUFFIXES = (".service", ".scope", ".slice")
_CAPACITY = 65_536


def mounts(mountinfo: str = "/proc/self/mountinfo") -> Iterator[tuple[str, str]]:
    """(mount point, path of what is mounted there from the hierarchy's root) of each cgroup2 mount."""
    for line in procfs.read(mountinfo).splitlines():
        before, separator, after = line.partition(b" - ")
        words = before.split(b" ")
        if separator and after.startswith(b"cgroup2 ") and len(words) > 4:
            point, top = (procfs.path(procfs.unescape(word), mountinfo) for word in (words[4], words[3]))
            yield point, top


def mounted_at(mountinfo: str = "/proc/self/mountinfo") -> str:
    """Where the whole hierarchy is mounted: the first cgroup2 mount of its root. HostError where there is none."""
    for point, top in mounts(mountinfo):
        if top == "/":
            return point
    raise HostError(
        f"cgroup v2: no cgroup2 mount in {mountinfo}",
        hint="mount -t cgroup2 none /sys/fs/cgroup, or --cgroup-root",
    )


def expect_hierarchy(directory: str) -> None:
    """Raise HostError where a directory is not of a cgroup v2 hierarchy: by its file system, without a look into it."""
    hint = "name a directory of the cgroup v2 hierarchy by --cgroup-root (kernel.cgroup_root), or none to take the host's own"
    try:
        kind = _system.lib.aegis_filesystem(os.fsencode(directory))
        is_directory = os.path.isdir(directory)
    except ValueError as error:  # NUL in the path
        raise HostError(f"cgroup v2 at {directory!r}: {error}", hint=hint) from error
    if kind == -1:
        number = _system.ffi.errno
        raise HostError(f"cgroup v2 at {directory}: {os.strerror(number)}", errno=number, hint=hint)
    if kind != _system.lib.CGROUP2_SUPER_MAGIC:
        raise HostError(
            f"cgroup v2 at {directory}: not on a cgroup v2 file system (its magic is {kind:#x})", hint=hint
        )
    if not is_directory:
        raise HostError(f"cgroup v2 at {directory}: no directory", hint=hint)


def mount_of(directory: str, mountinfo: str = "/proc/self/mountinfo") -> tuple[str, str]:
    """(mount point, its path from the hierarchy's root) of the cgroup2 mount `directory` lies in.

    A directory that lies in none is taken as the hierarchy's root itself.
    """
    found = (directory, "/")
    longest = -1
    for point, top in mounts(mountinfo):
        inside = (directory + "/").startswith(point.rstrip("/") + "/")
        if inside and len(point) > longest:
            found, longest = (point, top), len(point)
    return found


def unit_of(path: str) -> str | None:
    """The systemd unit of a cgroup path: its last part that ends in .service, .scope or .slice."""
    for part in reversed(path.split("/")):
        if part.endswith(_SUFFIXES):
            return part
    return None


def path_of(text: bytes, where: str) -> str:
    """The v2 path in a /proc/PID/cgroup. HostError where there is none, or one outside of our own root."""
    for line in text.split(b"\n"):
        if line.startswith(b"0::/"):
            path = procfs.path(line[3:].removesuffix(b" (deleted)"), where)
            if path.startswith("/.."):
                raise HostError(f"{where}: {path} lies outside of this cgroup namespace")
            return path
    raise HostError(f"{where}: no cgroup v2 path")


class Cgroups:
    """Resolves ids and paths. `mount` is where the cgroup at path `top` and all below it can be seen.

    Paths are from the hierarchy's root, as the kernel writes them, whatever part of it is mounted.
    Known pairs are kept, at most 65,536 of them, oldest out first. A miss walks the hierarchy once; ids that are still
    unknown then are remembered as such until the next walk, so that a storm of stale ids costs one walk, not many:
    `stale_after_ns` of `now()` must pass before a miss walks again.
    """

    def __init__(
        self,
        mount: str,
        top: str = "/",
        *,
        now: Callable[[], int],
        stale_after_ns: int = 1_000_000_000,
        capacity: int = _CAPACITY,
    ) -> None:
        self.mount = mount.rstrip("/")
        self._top = top.rstrip("/")
        self._now = now
        self._stale_after_ns = stale_after_ns
        self._capacity = capacity
        self._known: dict[int, Cgroup] = {}
        self._walked_ns: int | None = None
        self.walks = 0

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, identity: int, path: str) -> Cgroup:
        """Take a pair as true, as a record of the kernel gives it when a cgroup is made."""
        found = Cgroup(id=identity, path=path or "/", unit=unit_of(path))
        if identity not in self._known and len(self._known) >= self._capacity:
            del self._known[next(iter(self._known))]
        self._known[identity] = found
        return found

    def find(self, identity: int) -> Cgroup | None:
        """The cgroup of an id; None where no directory has it (removed before it was ever seen)."""
        found = self._known.get(identity)
        if found is None and self._may_walk():
            self.walk()
            found = self._known.get(identity)
        return found

    def at(self, path: str) -> Cgroup:
        """The cgroup at a path from the hierarchy's root. HostError where there is no such directory."""
        return self.learn(self.identity(path), path)

    def identity(self, path: str) -> int:
        """The id of the cgroup at a path from the hierarchy's root. HostError with errno."""
        if not (path + "/").startswith(self._top + "/"):
            raise HostError(f"find the cgroup {path}: only {self._top} is mounted")
        full = self.mount + path[len(self._top) :]
        try:
            return os.stat(full or "/").st_ino
        except OSError as error:
            raise procfs.failed("find the cgroup", full, error) from error

    def walk(self) -> int:
        """Learn every cgroup there is now; how many there are."""
        self._walked_ns = self._now()
        self.walks += 1
        count = 0
        for identity, path in self._tree():
            self.learn(identity, path)
            count += 1
        return count

    def _may_walk(self) -> bool:
        return self._walked_ns is None or self._now() - self._walked_ns >= self._stale_after_ns

    def _tree(self) -> Iterator[tuple[int, str]]:
        yield self.identity(self._top or "/"), self._top or "/"
        waiting = [""]
        while waiting:
            path = waiting.pop()
            with contextlib.suppress(OSError), os.scandir(self.mount + path or "/") as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below = f"{path}/{entry.name}"
                        waiting.append(below)
                        yield entry.inode(), self._top + below
