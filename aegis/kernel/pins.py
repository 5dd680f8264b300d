"""Pins: what keeps tables and hooks in the kernel when the agent is gone. One directory per version of the ABI.

PIN_DIR/vN/maps/NAME             a table of the core object
PIN_DIR/vN/links/NAME            a tcx or cgroup link
PIN_DIR/vN/clsact/IFINDEX/       an interface with our clsact filters (they need no pin to stay)
PIN_DIR/vN/clsact/IFINDEX/made   its clsact qdisc was made by us
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

from aegis._native import _system
from aegis.errors import FeatureUnsupported, KernelError
from aegis.kernel import abi
from aegis.kernel.links import Link
from aegis.kernel.maps import Map

P = ParamSpec("P")
T = TypeVar("T")
HINT = "mount -t bpf bpf /sys/fs/bpf, or choose another --pin-dir"
FRESH = "new-"  # of a link that is about to take its name; a BPF file system allows no dot in names


def on_bpffs(path: Path) -> bool:
    """Whether an existing path is on a BPF file system."""
    return bool(_system.lib.aegis_filesystem(os.fsencode(path)) == _system.lib.BPF_FS_MAGIC)


def _translated(method: Callable[P, T]) -> Callable[P, T]:
    """A method whose OSErrors, such as of a process that has no descriptor left, leave this room as KernelError."""

    @functools.wraps(method)
    def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except OSError as error:
            what = method.__name__.strip("_").replace("_", " ")
            raise KernelError(what, f"pins: {error.filename or ''}", error.errno or 0) from error

    return translated


class PinDirectory:
    """The pins of one agent. `base` is PIN_DIR; everything is below its directory for this ABI."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / f"v{abi.ABI_VERSION}"
        self._maps = self.root / "maps"
        self._links = self.root / "links"
        self._clsact = self.root / "clsact"

    def make(self) -> None:
        """Make the directories. Raises FeatureUnsupported where they cannot be, with what to do."""
        self._make()
        self._finish()

    def hold(self) -> int:
        """Take the pins for this process alone: a descriptor that holds the lock until it is closed.

        Raises BlockingIOError when another process holds them, and as `make`. The lock is on the directory of this ABI
        (the file system takes no plain files), which nobody but its owner can open.
        """
        while True:
            self._make()
            try:
                number = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:  # an agent that ends removed it just now
                continue
            except OSError as error:
                raise FeatureUnsupported("open", str(self.root), error.errno or 0, hint=HINT) from error
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(number), os.stat(self.root)):
                        self._make()  # an agent that ended may have removed some of what is below it
                        return number
            except BlockingIOError:
                os.close(number)
                raise
            except OSError as error:
                os.close(number)
                raise FeatureUnsupported("lock", str(self.root), error.errno or 0, hint=HINT) from error
            os.close(number)  # of a directory that was removed before the lock was ours

    def _make(self) -> None:
        try:
            there = next(path for path in (self.root, *self.root.parents) if path.exists())
            if not on_bpffs(there):
                raise FeatureUnsupported("pin in", str(self.base), detail="not a BPF file system", hint=HINT)
            self.base.parent.mkdir(parents=True, exist_ok=True)
            # Each by itself: `parents` would make the ones above for everybody to open.
            for directory in (self.base, self.root, self._maps, self._links, self._clsact):
                directory.mkdir(mode=0o700, exist_ok=True)
            if {self.base.stat().st_uid, self.root.lstat().st_uid} - {0, os.geteuid()}:
                raise PermissionError(errno.EACCES, "")
            if stat.S_IMODE(self.root.stat().st_mode) & 0o077:
                self.root.chmod(0o700)
        except OSError as error:
            raise FeatureUnsupported(
                "make pin directory", str(self.root), error.errno or 0, hint=HINT
            ) from error

    @_translated
    def _finish(self) -> None:
        """End what an agent killed inside `put_link` began: its link is attached, so it must have its name or go."""
        for fresh in [name for name in _names(self._links) if name.startswith(FRESH)]:
            name = fresh.removeprefix(FRESH)
            if (self._links / name).exists():
                self.drop_link(fresh)
            else:
                (self._links / fresh).rename(self._links / name)

    @_translated
    def map_names(self) -> frozenset[str]:
        return frozenset(name for name in _names(self._maps) if not name.startswith(FRESH))

    @_translated
    def link_names(self) -> frozenset[str]:
        return frozenset(name for name in _names(self._links) if not name.startswith(FRESH))

    def open_map(self, name: str) -> Map:
        return Map.from_pin(self._maps / name)

    def open_link(self, name: str) -> Link:
        return Link.from_pin(self._links / name)

    @_translated
    def put_map(self, table: Map) -> None:
        """Pin a table by its name, in place of the one that has it."""
        fresh = self._maps / f"{FRESH}{table.name}"
        fresh.unlink(missing_ok=True)
        table.pin(fresh)
        fresh.rename(self._maps / table.name)

    @_translated
    def put_link(self, link: Link, name: str) -> None:
        """Pin `link` as `name`. A link of that name is taken off its hook when the new one has its place."""
        fresh = self._links / f"{FRESH}{name}"
        fresh.unlink(missing_ok=True)
        link.pin(fresh)
        before = self.open_link(name) if (self._links / name).exists() else None
        fresh.rename(self._links / name)
        if before is not None:
            _end(before)

    @_translated
    def drop_map(self, name: str) -> None:
        (self._maps / name).unlink(missing_ok=True)

    @_translated
    def drop_link(self, name: str) -> None:
        """Take a pinned link off its hook, now, and remove the pin."""
        path = self._links / name
        if path.exists():
            _end(Link.from_pin(path))
            path.unlink()

    @_translated
    def clsact_interfaces(self) -> frozenset[int]:
        """Interfaces that have or had our clsact filters."""
        return frozenset(int(name) for name in _names(self._clsact))

    @_translated
    def mark_clsact(self, ifindex: int, *, made: bool = False) -> None:
        """Remember the interface; with `made`, that the qdisc is ours to remove."""
        (self._clsact / str(ifindex)).mkdir(exist_ok=True)
        if made:
            (self._clsact / str(ifindex) / "made").mkdir(exist_ok=True)

    @_translated
    def made_clsact(self, ifindex: int) -> bool:
        return (self._clsact / str(ifindex) / "made").exists()

    @_translated
    def unmark_clsact(self, ifindex: int) -> None:
        for path in (self._clsact / str(ifindex) / "made", self._clsact / str(ifindex)):
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()

    @_translated
    def clear(self) -> None:
        """Unpin everything of this ABI; the directories, and with them the lock, stay."""
        for name in _names(self._links):
            self.drop_link(name)
        for name in _names(self._maps):
            self.drop_map(name)
        for ifindex in self.clsact_interfaces():
            self.unmark_clsact(ifindex)

    @_translated
    def remove_all(self) -> None:
        """Unpin everything of this ABI and remove the directories, also PIN_DIR when it is empty then."""
        self.clear()
        self.remove_empty()

    def remove_empty(self) -> None:
        """Remove the directories while nothing is pinned. Whoever calls it holds the lock."""
        for directory in (self._links, self._maps, self._clsact, self.root, self.base):
            with contextlib.suppress(OSError):
                directory.rmdir()


def _end(link: Link) -> None:
    """Detach and close. An unlinked pin alone would let the kernel detach some time later."""
    with contextlib.suppress(
        KernelError
    ):  # a tracepoint's link knows no detach, one without its hook is detached
        link.detach()
    link.close()


def _names(directory: Path) -> Iterable[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return ()


def close_all(maps: Iterable[Map]) -> None:
    for each in maps:
        with contextlib.suppress(KernelError):
            each.close()
