"""Which authentications were used, so that none is taken twice, whatever ends the process.

Each is written to a file before its answer goes out. There it is safe from the end of the process, at the price of one
`write`: no sync, no thread. Once a second all of them go to the store, which survives the end of the machine too.
"""

from __future__ import annotations

import os
from typing import Final

from aegis.errors import StorageError
from aegis.gateway.store.base import Store
from aegis.protocol import v1
from aegis.protocol.replay import DIGEST_BYTES, ReplayCache
from aegis.runtime.clock import SystemClock

FILES: Final = ("nonces.0", "nonces.1")
SECOND: Final = 1_000_000_000
_INSTANT_BYTES: Final = 8
_RECORD_BYTES: Final = DIGEST_BYTES + _INSTANT_BYTES
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Nonces:
    """Two files: one is written while what stands in the other goes to the store. A record is a digest and the unix second
    after which it may be forgotten.
    """

    def __init__(self, directory: str, store: Store, clock: SystemClock) -> None:
        self._store = store
        self._clock = clock
        self._paths = [os.path.join(directory, name) for name in FILES]
        self._files: list[int] = []
        self._sizes = [0, 0]
        self._now = 0  # the file that is written
        self._unsaved: list[tuple[bytes, int]] = []

    async def load(self, replay: ReplayCache) -> None:
        """What earlier processes took. Raises StorageError."""
        for path in self._paths:
            try:
                self._files.append(os.open(path, _FLAGS, 0o600))
            except OSError as error:
                raise StorageError(f"{path}: {error.strerror}") from error
        for path, number in zip(self._paths, self._files, strict=True):
            try:
                self._unsaved += _records(number)
            except OSError as error:
                raise StorageError(f"{path}: {error.strerror}") from error
        wall_s = self._clock.wall_ns() // SECOND
        # A record of another day, or of a disk that lost its mind, is none of ours.
        self._unsaved = [each for each in self._unsaved if wall_s <= each[1] <= wall_s + 2 * v1.REPLAY_S]
        held = dict(await self._store.nonces()) | dict(self._unsaved)
        replay.load(
            (
                (digest, max(0, wall_s - (forget_s - v1.REPLAY_S)) * SECOND)
                for digest, forget_s in held.items()
            ),
            self._clock.monotonic_ns(),
        )
        if self._unsaved:
            await self._store.save_nonces(self._unsaved, wall_s)
            self._unsaved = []
        for at in range(len(FILES)):
            self._empty(at)

    def keep(self, digest: bytes) -> None:
        """It is used from now on. Raises StorageError: then it is not, and the authentication must not be taken."""
        forget_s = self._clock.wall_ns() // SECOND + v1.REPLAY_S
        at, record = self._now, digest + forget_s.to_bytes(_INSTANT_BYTES, "big")
        try:
            written = os.write(self._files[at], record)
            if written != _RECORD_BYTES:
                os.ftruncate(self._files[at], self._sizes[at])
                raise StorageError(f"{self._paths[at]}: no room")
        except OSError as error:
            raise StorageError(f"{self._paths[at]}: {error.strerror}") from error
        self._sizes[at] += written
        self._unsaved.append((digest, forget_s))

    def probe(self) -> None:
        """Whether a record could be kept now; none is. Raises StorageError."""
        at = self._now
        try:
            written = os.write(
                self._files[at], bytes(_RECORD_BYTES)
            )  # forgotten since 1970, whoever reads it
            os.ftruncate(self._files[at], self._sizes[at])
        except OSError as error:
            raise StorageError(f"{self._paths[at]}: {error.strerror}") from error
        if written != _RECORD_BYTES:
            raise StorageError(f"{self._paths[at]}: no room")

    async def save(self) -> None:
        """Those that the store does not have. Raises StorageError; they are kept for the next time then."""
        wall_s = self._clock.wall_ns() // SECOND
        saved, self._unsaved = self._unsaved, []
        if not saved:
            return
        self._now = 1 - self._now
        try:
            await self._store.save_nonces(saved, wall_s)
        except BaseException:
            self._unsaved = [each for each in saved if each[1] >= wall_s] + self._unsaved
            raise
        self._empty(1 - self._now)  # all of it stands in the store: the rest came after the change of files

    def close(self) -> None:
        files, self._files = self._files, []
        for number in files:
            os.close(number)

    def _empty(self, at: int) -> None:
        try:
            os.ftruncate(self._files[at], 0)
        except OSError as error:
            raise StorageError(f"{self._paths[at]}: {error.strerror}") from error
        self._sizes[at] = 0


def _records(number: int) -> list[tuple[bytes, int]]:
    """Those in a file; a piece at its end that is none was never answered."""
    data = b""
    while piece := os.pread(number, 1 << 20, len(data)):
        data += piece
    whole = len(data) // _RECORD_BYTES * _RECORD_BYTES
    return [
        (
            data[at : at + DIGEST_BYTES],
            int.from_bytes(data[at + DIGEST_BYTES : at + _RECORD_BYTES], "big"),
        )
        for at in range(0, whole, _RECORD_BYTES)
    ]
