"""The policies in force, on disk: what a later agent needs to name the rules of the kernel, or to load them again.

`next.json` is written before the kernel switches and becomes `committed.json` after it. An agent that died between the
two, or could not commit, finds in the kernel's state word which of them is true.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from aegis.errors import PolicyError, StorageError
from aegis.model.policy import PolicySet
from aegis.model.policy_document import parse_document

SCHEMA = "aegis.policy_set"
NEXT, COMMITTED, HISTORY = "next.json", "committed.json", "history"
PAST_KEPT = 16  # sets


class StoredPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A document as it was given, and where it came from."""

    origin: str
    document: str


class StoredSet(msgspec.Struct, frozen=True, kw_only=True):
    """`image_digest` is the SHA-256 of what was compiled from the documents.

    `boot_epoch_ms` is the Unix time at which the boot clock was 0, as rules that expire were compiled with, and `wall_ms`
    the time of the switch: a clock that was set back revives no rule.
    """

    generation: int
    image_digest: str
    boot_epoch_ms: int = 0
    wall_ms: int = 0
    policies: tuple[StoredPolicy, ...]

    def decode(self) -> PolicySet:
        """The policies. Raises StorageError when a document cannot be read any more."""
        found = PolicySet()
        for each in self.policies:
            try:
                policy = parse_document(each.document.encode())
            except PolicyError as error:
                raise StorageError(f"a stored policy cannot be read: {error}") from error
            found = found.with_policy(msgspec.structs.replace(policy, origin=each.origin))
        return found


class _File(msgspec.Struct, frozen=True, kw_only=True):
    schema: str
    version: int
    sha256: str  # of the bytes of `content`
    content: msgspec.Raw  # a StoredSet


class PolicyStore:
    """The two files, below STATE_DIR/policy."""

    def __init__(self, state_dir: Path) -> None:
        self.directory = state_dir / "policy"

    def prepare(
        self,
        generation: int,
        image_digest: str,
        policies: PolicySet,
        *,
        in_force: int = 0,
        boot_epoch_ms: int = 0,
        wall_ms: int = 0,
    ) -> None:
        """Write what is about to be switched to, durably. Raises StorageError, and what is in force stays on disk then.

        `in_force` is the kernel's generation: a prepared set of it is no left-over but the only record of what is
        enforced, so it is committed before its place is taken.
        """
        if in_force and self._generation_of(NEXT) == in_force:
            self.commit()
        stored = StoredSet(
            generation=generation,
            image_digest=image_digest,
            boot_epoch_ms=boot_epoch_ms,
            wall_ms=wall_ms,
            policies=tuple(
                StoredPolicy(origin=each.origin, document=each.document.decode()) for each in policies
            ),
        )
        content = msgspec.json.encode(stored)
        file = _File(
            schema=SCHEMA,
            version=1,
            sha256=hashlib.sha256(content).hexdigest(),
            content=msgspec.Raw(content),
        )
        path = self.directory / NEXT
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, msgspec.json.encode(file))
        except OSError as error:
            raise StorageError(f"{path}: {os.strerror(error.errno or 0)}") from error

    def commit(self) -> None:
        """Make the prepared set the committed one. Raises StorageError."""
        try:
            self._remember()
            os.replace(self.directory / NEXT, self.directory / COMMITTED)
            _sync(self.directory)
        except OSError as error:
            raise StorageError(f"{self.directory / COMMITTED}: {os.strerror(error.errno or 0)}") from error

    def _remember(self) -> None:
        """Keep the set that is about to be replaced, and so many before it; what cannot be kept is forgotten."""
        history, committed = self.directory / HISTORY, self.directory / COMMITTED
        with contextlib.suppress(OSError):
            history.mkdir(mode=0o700, exist_ok=True)
            os.link(committed, history / f"{committed.stat().st_mtime_ns:020}.json")
        with contextlib.suppress(OSError):
            for old in sorted(history.glob("*.json"))[:-PAST_KEPT]:
                old.unlink()

    def past(self) -> tuple[StoredSet, ...]:
        """Sets that were committed before the one that is, oldest first; without those that cannot be read."""
        found = []
        for path in sorted((self.directory / HISTORY).glob("*.json")):
            with contextlib.suppress(StorageError):
                stored = self._read(f"{HISTORY}/{path.name}")
                if stored is not None:
                    found.append(stored)
        return tuple(found)

    def keep(
        self,
        generation: int,
        image_digest: str,
        policies: PolicySet,
        *,
        boot_epoch_ms: int = 0,
        wall_ms: int = 0,
    ) -> None:
        """Make the set in force the committed one, writing it again where it is not prepared. Raises StorageError."""
        if self._generation_of(NEXT) != generation:
            self.prepare(generation, image_digest, policies, boot_epoch_ms=boot_epoch_ms, wall_ms=wall_ms)
        self.commit()

    def committed(self, generation: int) -> bool:
        """Whether the set of this generation is the committed one."""
        return self._generation_of(COMMITTED) == generation

    def discard(self) -> None:
        """Forget a prepared set that was not switched to."""
        with contextlib.suppress(OSError):
            (self.directory / NEXT).unlink()

    def load(self, generation: int | None) -> StoredSet | None:
        """The set of that generation, committed or only prepared; None: the committed one.

        Returns None when nothing was ever stored. Raises StorageError when what is there cannot be read, or is of
        other generations.
        """
        committed = self._read(COMMITTED)
        if generation is None:
            return committed
        if committed is not None and committed.generation == generation:
            return committed
        prepared = self._read(NEXT)
        if prepared is not None and prepared.generation == generation:
            return prepared
        known = ", ".join(str(each.generation) for each in (committed, prepared) if each is not None)
        raise StorageError(
            f"{self.directory}: holds generation {known or 'none'}, the kernel has {generation}"
        )

    def last_generation(self) -> int:
        """The highest generation that can be read from the files."""
        return max(self._generation_of(COMMITTED), self._generation_of(NEXT))

    def _generation_of(self, name: str) -> int:
        """The generation in a file; 0 where there is none or it cannot be read."""
        with contextlib.suppress(StorageError):
            found = self._read(name)
            return found.generation if found else 0
        return 0

    def _read(self, name: str) -> StoredSet | None:
        path = self.directory / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path}: {os.strerror(error.errno or 0)}") from error
        try:
            file = msgspec.json.decode(data, type=_File)
            content = bytes(file.content)
            if file.schema != SCHEMA or hashlib.sha256(content).hexdigest() != file.sha256:
                raise StorageError(f"{path}: the digest does not agree with the content")
            return msgspec.json.decode(content, type=StoredSet)
        except msgspec.DecodeError as error:
            raise StorageError(f"{path}: {error}") from error


def _write(path: Path, data: bytes) -> None:
    """Replace the file in one step; what was there stays until the new content is on the disk."""
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(fresh, path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
