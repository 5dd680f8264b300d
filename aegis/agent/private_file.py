"""Small files of secrets and of what must never be lost: read with suspicion, replaced whole and durably.

A file is ours alone: mode 0600, one name, an owner who is root or this process. Anything else at its place is refused
and left as it is. A replacement is written beside it, flushed, renamed over it, and the directory flushed: a process that
dies at any instruction leaves the content before or the content after, and at most a `.new` that the next one removes.
"""

from __future__ import annotations

import contextlib
import os
import stat

from aegis.errors import StateFileRefused, StorageError

MODE = 0o600


def read(path: str, most: int) -> bytes | None:
    """The content, None where there is no file. Raises StateFileRefused, and StorageError where it cannot be read."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if os.path.islink(path):
            raise refused(path, "is a symbolic link") from None
        raise StorageError(f"{path}: {error.strerror}") from error
    try:
        judge(path, os.fstat(number), most)
        content = b""
        while part := os.read(number, most + 1 - len(content)):
            content += part
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    finally:
        os.close(number)
    return content


def judge(path: str, found: os.stat_result, most: int) -> None:
    """Raises StateFileRefused for what is not a file of ours alone."""
    if not stat.S_ISREG(found.st_mode):
        raise refused(path, "is no regular file")
    if found.st_uid not in {0, os.geteuid()}:
        raise refused(path, f"belongs to uid {found.st_uid}")
    if found.st_mode & 0o177:
        raise refused(path, f"has mode {stat.S_IMODE(found.st_mode):04o}, not {MODE:04o}")
    if found.st_nlink != 1:
        raise refused(path, f"has {found.st_nlink} names: it can be reached past this directory")
    if found.st_size > most:
        raise refused(path, f"has {found.st_size} bytes, more than {most}")


def refused(path: str, why: str) -> StateFileRefused:
    return StateFileRefused(
        f"{path}: {why}", hint=f"find out who changed it; to begin anew, move {path} away"
    )


def replace(path: str, content: bytes) -> None:
    """Make `content` what the file holds, durably when this returns. Raises StorageError: the old content holds, or the new."""
    fresh = f"{path}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)  # of one that died here; a link is removed, not followed
        number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(number, left) :]
            os.fsync(number)
        finally:
            os.close(number)
        os.rename(fresh, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise StorageError(f"{path}: {error.strerror}") from error


def sync_directory(path: str) -> None:
    """Flush a directory, so that a rename in it outlives a power cut. Raises OSError."""
    number = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
