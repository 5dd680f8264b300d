"""The files of the outbox in the state directory, and how one takes another's place.

outbox.db, -wal            the rows
outbox.key                 what they are sealed with
outbox.stream              the counter of streams
outbox.db.part             a successor in the making; of no worth
outbox.db.new              a successor that is whole; takes the place of outbox.db at the next chance
outbox.db.corrupt-N, -wal  set aside, the newest two
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import Final

from aegis.agent import private_file
from aegis.agent.outbox.rows import KEY_BYTES
from aegis.errors import StorageError

DATABASE: Final = "outbox.db"
KEY: Final = "outbox.key"
KEPT: Final = 2
_WAL = "-wal"


class Files:
    """Paths of one state directory and the steps between them. Everything raises StorageError."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.database = os.path.join(directory, DATABASE)
        self.wal = self.database + _WAL
        self.part = f"{self.database}.part"
        self.fresh = f"{self.database}.new"
        self.mended = f"{self.database}.mended"

    def key(self) -> bytes:
        """The key, made when there is none. Raises StateFileRefused where it cannot be trusted."""
        path = os.path.join(self.directory, KEY)
        content = private_file.read(path, KEY_BYTES)
        if content is None:
            content = os.urandom(KEY_BYTES)
            private_file.replace(path, content)
        if len(content) != KEY_BYTES:
            raise private_file.refused(path, f"holds {len(content)} bytes, not {KEY_BYTES}")
        return content

    def prepare(self) -> None:
        """Finish a change of files that was begun; see that the database is a file of ours, made when missing."""
        self.discard(self.part)
        self.discard(self.mended)
        if os.path.lexists(self.fresh):
            self.switch()
        try:
            number = os.open(
                self.database, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            if os.path.islink(self.database):
                raise private_file.refused(self.database, "is a symbolic link") from None
            raise StorageError(f"{self.database}: {error.strerror}") from error
        try:
            private_file.judge(self.database, os.fstat(number), 1 << 62)
        finally:
            os.close(number)

    @staticmethod
    def begin(path: str) -> None:
        """An empty file of ours alone, to become a database: SQLite would take its mode from the umask. Raises OSError."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def finish(self) -> None:
        """The successor in `part` is whole and closed: from here on it is the one that counts."""
        try:
            number = os.open(self.part, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(number)
            finally:
                os.close(number)
            os.rename(self.part, self.fresh)
            private_file.sync_directory(self.directory)
        except OSError as error:
            raise StorageError(f"{self.fresh}: {error.strerror}") from error
        self.switch()

    def switch(self) -> None:
        """Set the old file aside, its log first, and put the new one there. Can be begun again at any step."""
        number = max(self._set_aside(), default=0) + 1
        aside = f"{self.database}.corrupt-{number}"
        try:
            for path, name in ((self.wal, aside + _WAL), (self.database, aside)):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, name)
            private_file.sync_directory(self.directory)
            os.rename(self.fresh, self.database)
            private_file.sync_directory(self.directory)
        except OSError as error:
            raise StorageError(f"{self.database}: {error.strerror}") from error
        for old in sorted(self._set_aside())[:-KEPT]:
            self.discard(f"{self.database}.corrupt-{old}")

    def _set_aside(self) -> set[int]:
        try:
            names = os.listdir(self.directory)
        except OSError as error:
            raise StorageError(f"{self.directory}: {error.strerror}") from error
        found = (
            re.fullmatch(rf"{re.escape(DATABASE)}\.corrupt-([0-9]{{1,9}})({_WAL})?", name) for name in names
        )
        return {int(one[1]) for one in found if one is not None}

    def discard(self, path: str) -> None:
        """Remove a database and its log; what is not there is fine."""
        for name in (path, path + _WAL, f"{path}-journal"):
            try:
                os.unlink(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EISDIR:
                    raise StorageError(f"{name}: {error.strerror}") from error
                raise private_file.refused(name, "is a directory") from None
