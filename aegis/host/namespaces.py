"""Network and mount namespaces and the two file systems Aegis needs in them, by system call.

A network namespace is held by a descriptor: it lives while the descriptor, a process or a socket is in it. Entering
one moves the calling thread only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from aegis._native._system import ffi, lib
from aegis.errors import HostError

_OWN_WORKING_DIRECTORY = 0x00000200  # CLONE_FS
_RESTRICTED = lib.MS_NOSUID | lib.MS_NODEV | lib.MS_NOEXEC


def _checked(operation: str, result: int) -> None:
    if result < 0:
        code = ffi.errno
        raise HostError(f"{operation}: {os.strerror(code)}", errno=code)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"open {path}: {error.strerror}", errno=error.errno or 0) from error


class NetworkNamespace:
    """A network namespace held by the descriptor `fd`. A context manager that closes it.

    All methods raise HostError; entering and creating need CAP_SYS_ADMIN.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def current(cls) -> NetworkNamespace:
        """The one the calling thread is in."""
        return cls(_open("/proc/thread-self/ns/net"))

    @classmethod
    def of_process(cls, pid: int) -> NetworkNamespace:
        """The one of a process."""
        return cls(_open(f"/proc/{pid}/ns/net"))

    @classmethod
    def create(cls) -> NetworkNamespace:
        """A new one, empty but for its loopback interface, which is down."""
        with cls.current() as before:
            _checked("make a network namespace", lib.unshare(lib.CLONE_NEWNET))
            try:
                return cls.current()
            finally:
                before.enter()

    @property
    def inode(self) -> int:
        """The kernel's number of it: equal for two descriptors of one namespace."""
        return os.fstat(self.fd).st_ino

    def enter(self) -> None:
        """Move the calling thread into it for good; `entered` is the way with a return."""
        _checked("enter a network namespace", lib.setns(self.fd, lib.CLONE_NEWNET))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in it until the block ends. Sockets made inside stay inside."""
        with type(self).current() as before:
            self.enter()
            try:
                yield
            finally:
                before.enter()

    def close(self) -> None:
        """Let go of it; twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PrivateMounts:
    """A mount namespace for the calling thread and the processes it starts; left at the end of the block.

    Nothing mounted inside is seen outside, and all of it is gone with the last process in it.
    """

    def __init__(self) -> None:
        self._before = self._root = self._directory = -1

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as held:
            for name, path in (("_before", "/proc/thread-self/ns/mnt"), ("_root", "/"), ("_directory", ".")):
                descriptor = _open(path)
                held.callback(os.close, descriptor)
                setattr(self, name, descriptor)
            _checked("make a mount namespace", lib.unshare(lib.CLONE_NEWNS))
            try:
                _make_private()
            except HostError:
                self._leave()
                raise
            self._held = held.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._held:
            self._leave()

    def _leave(self) -> None:
        # A thread that shares its working directory with another may not change mount namespaces.
        _checked("part working directories", lib.unshare(_OWN_WORKING_DIRECTORY))
        _checked("return to the mount namespace", lib.setns(self._before, lib.CLONE_NEWNS))
        # setns puts root and working directory to the namespace's own root, which in a chroot is another one.
        os.fchdir(self._root)
        os.chroot(".")
        os.fchdir(self._directory)


def _make_private() -> None:
    """Let no mount or unmount of this namespace be seen in the one it was copied from."""
    try:
        mount("none", "/", "", flags=lib.MS_REC | lib.MS_PRIVATE)
    except HostError as error:
        if error.errno != errno.EINVAL:
            raise
        # In a chroot "/" is no mount point: take the mounts below it one by one.
        with open("/proc/thread-self/mountinfo", encoding="utf-8") as lines:
            points = [line.split(" ")[4] for line in lines if " shared:" in line]
        for point in points:
            mount(
                "none",
                re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point),
                "",
                flags=lib.MS_PRIVATE,
            )


def mount(source: str, target: str, kind: str, *, flags: int = 0) -> None:
    """mount(2) without data. An empty `kind` changes how an existing mount propagates."""
    result = lib.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else ffi.NULL,
        flags,
        ffi.NULL,
    )
    _checked(f"mount {kind or 'propagation'} at {target}", result)


def mount_bpffs(target: str) -> None:
    """An own BPF file system at the directory `target`."""
    mount("bpf", target, "bpf", flags=_RESTRICTED)


def mount_cgroup2(target: str) -> None:
    """The cgroup v2 hierarchy (one for the whole machine) at the directory `target`."""
    mount("cgroup2", target, "cgroup2", flags=_RESTRICTED)


def unmount(target: str) -> None:
    """Take away what is mounted at `target`; users that are still in it keep it until they are done."""
    _checked(f"unmount {target}", lib.umount2(os.fsencode(target), lib.MNT_DETACH))
