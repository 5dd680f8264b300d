"""The state and run directories: made when missing, checked, and held by one agent at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Self

from aegis.errors import StorageError
from aegis.runtime.settings import Settings


class Directories:
    """Both directories, locked (flock on the directory itself, so that nothing is left) until closed."""

    def __init__(self, state: str, run: str, held: tuple[int, ...]) -> None:
        self.state = state
        self.run = run
        self._held = held

    @classmethod
    def take(cls, agent: Settings) -> Self:
        """Raises StorageError: not a directory, not writable, another's, or in use by another agent."""
        state, run = agent.text("state_dir"), agent.text("run_dir")
        held: list[int] = []
        try:
            for path, mode, flag in ((state, 0o700, "--state-dir"), (run, 0o755, "--run-dir")):
                if not (held and os.path.realpath(path) == os.path.realpath(state)):
                    held.append(_take(path, mode, flag))
        except BaseException:
            for number in held:
                os.close(number)
            raise
        return cls(state, run, tuple(held))

    @property
    def socket(self) -> str:
        return os.path.join(self.run, "agent.sock")

    def close(self) -> None:
        for number in self._held:
            os.close(number)
        self._held = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take(path: str, mode: int, flag: str) -> int:
    hint = f"choose another with {flag}"
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", hint=hint) from error
    try:
        found = os.fstat(number)
        if found.st_uid not in {0, os.geteuid()}:
            raise StorageError(f"{path}: belongs to uid {found.st_uid}", hint=hint)
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            raise StorageError(f"{path}: others may write in it", hint=f"chmod go-w {path}, or {hint}")
        if not os.access(path, os.W_OK | os.X_OK):
            raise StorageError(f"{path}: {os.strerror(errno.EACCES)}", hint=hint)
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except StorageError:
        os.close(number)
        raise
    except OSError as error:
        os.close(number)
        text = "another agent uses it" if error.errno == errno.EWOULDBLOCK else error.strerror
        raise StorageError(f"{path}: {text}", hint=hint) from error
    return number
