"""Makes what was committed survive the loss of power: the WAL is flushed by us, not by SQLite's commit.

So readers see a commit at once, and only what promises durability waits for the disk. SQLite still flushes the WAL
before, and the database after, each checkpoint (synchronous = NORMAL), so what is not in the WAL any more is safe.
Belongs to the one writer's thread.
"""

from __future__ import annotations

import os
from typing import Final

from aegis.errors import StorageError

_PIECE: Final = 1 << 20  # bytes


class Durable:
    """One database's WAL. A file that is not there has nothing in it: SQLite flushed it before it took it away."""

    def __init__(self, database: str) -> None:
        self._path = f"{database}-wal"
        self._number = -1
        self._in_doubt = False

    def sync(self) -> None:
        """All that was committed is on the disk. Raises StorageError: nobody knows what is, until `mend` has been."""
        try:
            if self._is_open():
                os.fdatasync(self._number)
        except OSError as error:
            self._in_doubt = True
            raise _told(error) from error

    def mend(self) -> None:
        """Before anything else is promised behind a `sync` that failed. Raises StorageError: it is so still.

        The kernel holds what it could not write for written, and flushing it again would succeed: it is given the same
        bytes once more. Nobody else writes the file meanwhile.
        """
        if not self._in_doubt:
            return
        self.forget()
        try:
            if self._is_open():
                at = 0
                while piece := os.pread(self._number, _PIECE, at):
                    at += os.pwrite(self._number, piece, at)
                os.fdatasync(self._number)
        except OSError as error:
            raise _told(error) from error
        self._in_doubt = False

    def forget(self) -> None:
        """The connection was closed, and the file perhaps taken away with it."""
        if self._number >= 0:
            number, self._number = self._number, -1
            os.close(number)

    def _is_open(self) -> bool:
        """The file's name is flushed with it, which SQLite leaves to its own flush of the file."""
        if self._number >= 0:
            return True
        try:
            number = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            directory = os.open(
                os.path.dirname(self._path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            )
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError:
            os.close(number)
            raise
        self._number = number
        return True


def _told(error: OSError) -> StorageError:
    return StorageError(
        f"the gateway's database cannot be flushed to the disk: {error.strerror}",
        hint="look at the disk of the data directory; agents send again what it did not take",
    )
