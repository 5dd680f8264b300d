"""The state, run and pin directories: made when missing, checked, and held by one agent at a time.

A lock is on something nobody else can open: who can open a file can lock it, and keep the agent from starting.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from aegis.errors import KernelError, StorageError
from aegis.runtime.settings import Settings

if TYPE_CHECKING:
    from aegis.kernel.pins import PinDirectory

LOCK: Final = "agent.lock"
SOCKET: Final = "agent.sock"
SOCKET_BYTES: Final = 107  # what the address of a unix socket has room for, unix(7)
IN_USE: Final = "another agent uses it"


class Directories:
    """All of them, locked until closed; no lock file is left then."""

    def __init__(self, state: str, run: str) -> None:
        self.state = state
        self.run = run
        self._held: list[_Lock] = []
        self._pin_directory: PinDirectory | None = None
        self._pins = -1

    @classmethod
    def take(cls, agent: Settings, pin_dir: str | None = None) -> Self:
        """Raises StorageError: not a directory, not writable, another's, in use by another agent, or a path too long.

        A pin directory that cannot be had at all is none of these: the kernel's room tells, and goes without.
        """
        state, run = agent.text("state_dir"), agent.text("run_dir")
        made = cls(state, run)
        if len(os.fsencode(made.socket)) > SOCKET_BYTES:
            raise StorageError(
                f"{made.socket}: a socket's path has at most {SOCKET_BYTES} bytes, and this one "
                f"{len(os.fsencode(made.socket))}",
                hint="choose a shorter one with --run-dir",
            )
        try:
            for path, mode, flag in ((state, 0o700, "--state-dir"), (run, 0o755, "--run-dir")):
                if not (made._held and os.path.realpath(path) == os.path.realpath(state)):
                    made._held.append(_take(path, mode, flag))
            if pin_dir is not None:
                made._take_pins(pin_dir)
        except BaseException:
            made.close()
            raise
        return made

    def _take_pins(self, path: str) -> None:
        from aegis.kernel.pins import PinDirectory

        try:
            self._pin_directory = PinDirectory(Path(path))
            self._pins = self._pin_directory.hold()
        except BlockingIOError as error:
            raise StorageError(f"{path}: {IN_USE}", hint="choose another with --pin-dir") from error
        except KernelError:
            return  # there is nothing to share then

    @property
    def socket(self) -> str:
        return os.path.join(self.run, SOCKET)

    def leave_nothing(self) -> None:
        """What would outlive a process that ends without `close`; the locks end with it. Twice is harmless."""
        with contextlib.suppress(OSError):
            os.unlink(self.socket)
        for lock in self._held:
            lock.unlink()
        self._remove_empty_pins()

    def _remove_empty_pins(self) -> None:
        """A stop before anything was pinned leaves no directory either; one with pins stays."""
        if self._pin_directory is not None and self._pins >= 0:
            self._pin_directory.remove_empty()

    def close(self) -> None:
        for lock in self._held:
            lock.close()
        self._held.clear()
        if self._pins >= 0:
            self._remove_empty_pins()
            os.close(self._pins)
            self._pins = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Lock:
    """A lock file of ours in a directory, held until closed."""

    def __init__(self, directory: str) -> None:
        """Raises OSError; EWOULDBLOCK when another holds it."""
        self._path = os.path.join(directory, LOCK)
        while True:
            self._number = os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
            )
            try:
                self._check()
                fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._in_place():
                    return
            except BaseException:
                os.close(self._number)
                raise
            os.close(self._number)  # its holder removed it between our open and our lock

    def _check(self) -> None:
        found = os.fstat(self._number)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o077:
            raise StorageError(f"{self._path}: others may lock it", hint=f"remove {self._path}")

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._number), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def unlink(self) -> None:
        """While the lock is held: who opened the file meanwhile finds out, and opens again."""
        with contextlib.suppress(OSError):  # a directory that is gone has nothing to leave
            if self._in_place():
                os.unlink(self._path)

    def close(self) -> None:
        self.unlink()
        os.close(self._number)


def _take(path: str, mode: int, flag: str) -> _Lock:
    hint = f"choose another with {flag}"
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
        found = os.stat(path)
        if found.st_uid not in {0, os.geteuid()}:
            raise StorageError(f"{path}: belongs to uid {found.st_uid}", hint=hint)
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            raise StorageError(f"{path}: others may write in it", hint=f"chmod go-w {path}, or {hint}")
        if not os.access(path, os.W_OK | os.X_OK):
            raise StorageError(f"{path}: {os.strerror(errno.EACCES)}", hint=hint)
        return _Lock(path)
    except OSError as error:
        text = IN_USE if error.errno == errno.EWOULDBLOCK else error.strerror
        raise StorageError(f"{path}: {text}", hint=hint) from error
