"""Who this agent is to gateways: one Ed25519 seed for the life of the host, and what gateways answered to it.

STATE_DIR/agent.key holds the seed and exists before it is used for the first time. STATE_DIR/registration.json holds,
for that key, the uid a gateway gave, which gateway, and the gateway's own key: written before success is said. Losing it
costs one more registration of the same key, which gives the same identity.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import msgspec

from aegis.agent import private_file
from aegis.errors import StorageError

KEY, REGISTRATION = "agent.key", "registration.json"
SEED_BYTES = 32
MAX_BYTES = 4096
MOST_GATEWAYS = 4  # whose answers are kept, the newest
# What the decoder raises for bytes that are not its document.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Key(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content, JSON with the seed in base64."""

    seed: bytes


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway knows of this agent. `gateway_key` is empty where it never named one."""

    uid: str
    url: str
    gateway_key: bytes = b""


class _Registrations(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content. `key` is the SHA-256 of the seed all this is about, so that none outlives its key."""

    key: str
    gateways: list[Registration]


class Identity:
    """The seed and the registrations of one state directory. Its repr holds no secret."""

    def __init__(self, state_dir: str, seed: bytes, gateways: tuple[Registration, ...]) -> None:
        self._state_dir = state_dir
        self.seed = seed
        self._gateways = {one.url: one for one in gateways}
        self._on_disk = True

    def __repr__(self) -> str:
        return f"Identity({os.path.join(self._state_dir, KEY)!r})"

    def registration(self, url: str) -> Registration | None:
        """What the gateway at `url` last said, None where it never did."""
        return self._gateways.get(url)

    @property
    def uid(self) -> str | None:
        """The newest one."""
        return next(reversed(self._gateways.values())).uid if self._gateways else None

    def remember(self, registration: Registration) -> None:
        """Keep it, durably when this returns. Raises StorageError; then it is known until the process ends only."""
        if self._on_disk and self._gateways.get(registration.url) == registration:
            return
        self._on_disk = False
        self._gateways.pop(registration.url, None)
        self._gateways[registration.url] = registration
        while len(self._gateways) > MOST_GATEWAYS:
            del self._gateways[next(iter(self._gateways))]
        content = _Registrations(key=_digest(self.seed), gateways=list(self._gateways.values()))
        private_file.replace(os.path.join(self._state_dir, REGISTRATION), msgspec.json.encode(content))
        self._on_disk = True


def load(state_dir: str) -> Identity | None:
    """The identity kept there; None where none was ever made. Raises StorageError that names the file."""
    path = os.path.join(state_dir, KEY)
    content = private_file.read(path, MAX_BYTES)
    if content is None:
        return None
    try:
        seed = msgspec.json.decode(content, type=_Key).seed
    except _MALFORMED as error:
        raise private_file.refused(path, f"is no key of an agent: {error}") from None
    if len(seed) != SEED_BYTES:
        raise private_file.refused(path, f"holds a seed of {len(seed)} bytes, not {SEED_BYTES}")
    return Identity(state_dir, seed, _registrations(state_dir, seed))


def load_or_make(state_dir: str, entropy: Callable[[int], bytes]) -> Identity:
    """As `load`; where there is none, one is made and on disk when this returns. `entropy(n)` gives n random bytes."""
    kept = load(state_dir)
    if kept is not None:
        return kept
    seed = entropy(SEED_BYTES)
    private_file.replace(os.path.join(state_dir, KEY), msgspec.json.encode(_Key(seed=seed)))
    return Identity(state_dir, seed, ())


def _registrations(state_dir: str, seed: bytes) -> tuple[Registration, ...]:
    """Those of this key. A file that cannot be read costs a registration, so it is none."""
    try:
        content = private_file.read(os.path.join(state_dir, REGISTRATION), MAX_BYTES)
        kept = msgspec.json.decode(content or b"", type=_Registrations)
    except (StorageError, *_MALFORMED):
        return ()
    return tuple(kept.gateways) if kept.key == _digest(seed) else ()


def _digest(seed: bytes) -> str:
    return hashlib.sha256(b"aegis registration of " + seed).hexdigest()
