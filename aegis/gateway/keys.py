"""The gateway's own secrets in its data directory: the key that agents know it by, and the operators' token.

Made at the first start, each whole or not at all (written beside, synced, renamed). A file that others could have read
or written is refused, not repaired: what it holds may be known.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
from typing import Final, Self

from aegis.errors import StateFileRefused, StorageError

KEY_FILE: Final = "gateway.key"
TOKEN_FILE: Final = "operator.token"  # noqa: S105  a name, not a token
LOCK_FILE: Final = "gateway.lock"
SEED_BYTES: Final = 32
_PREFIX: Final = "aegis-operator-"
_MOST_BYTES: Final = 4096


class DataDirectory:
    """The gateway's directory, made where missing, and held by one gateway at a time."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def take(cls, path: str) -> Self:
        """Raises StorageError: no directory, not ours, writable by others, or in use by another gateway."""
        hint = "choose another with --data-dir"
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            found = os.stat(path)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {0, os.geteuid()}:
                raise StorageError(f"{path}: is not a directory of ours", hint=hint)
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise StorageError(f"{path}: others may write in it", hint=f"chmod go-w {path}, or {hint}")
            lock = os.open(
                os.path.join(path, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}", hint=hint) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            text = "another gateway uses it" if error.errno == errno.EWOULDBLOCK else error.strerror
            raise StorageError(f"{path}: {text}", hint=hint) from error
        return cls(path, lock)

    def close(self) -> None:
        """Let others have it. The lock file stays: removing it would let two hold one each."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def secret(self, name: str, make: bytes) -> bytes:
        """What the file holds; `make` where there was none, kept before it is returned. Raises StateFileRefused."""
        path = os.path.join(self.path, name)
        try:
            return _read(path)
        except FileNotFoundError:
            _write(path, make)
            return make
        except OSError as error:
            raise StateFileRefused(f"{path}: {error.strerror}") from error


class OperatorToken:
    """What an operator shows. Only its digest is held, so that no log or dump has the token."""

    def __init__(self, text: str) -> None:
        self._digest = _digest(text)

    def matches(self, text: str) -> bool:
        """In the same time for every text."""
        return hmac.compare_digest(self._digest, _digest(text))


def gateway_seed(directory: DataDirectory) -> bytes:
    """The seed of the gateway's Ed25519 key. Raises StateFileRefused, StorageError."""
    held = directory.secret(KEY_FILE, base64.b64encode(secrets.token_bytes(SEED_BYTES)) + b"\n")
    try:
        seed = base64.b64decode(held.strip(), validate=True)
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise StateFileRefused(
            f"{os.path.join(directory.path, KEY_FILE)}: holds no key",
            hint="restore it from a backup; without it every agent that pinned this gateway must be enrolled anew",
        )
    return seed


def operator_token(directory: DataDirectory) -> OperatorToken:
    """Raises StateFileRefused, StorageError."""
    held = directory.secret(TOKEN_FILE, f"{_PREFIX}{secrets.token_urlsafe(32)}\n".encode())
    text = held.decode("ascii", "replace").strip()
    if len(text) < 20 or not text.isprintable() or " " in text:
        path = os.path.join(directory.path, TOKEN_FILE)
        raise StateFileRefused(f"{path}: holds no token", hint=f"remove {path}, and a new one is made")
    return OperatorToken(text)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _read(path: str) -> bytes:
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in {0, os.geteuid()}:
            raise StateFileRefused(f"{path}: is not a file of ours")
        if found.st_mode & 0o077:
            raise StateFileRefused(
                f"{path}: others may read it",
                hint=f"chmod 600 {path}, and replace it where others had access",
            )
        return os.read(number, _MOST_BYTES)
    finally:
        os.close(number)


def _write(path: str, content: bytes) -> None:
    beside = f"{path}.{secrets.token_hex(4)}"
    try:
        number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(number, content)
            os.fsync(number)
        finally:
            os.close(number)
        os.rename(beside, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise StorageError(f"{path}: {error.strerror}") from error
