"""Registrations that have begun, at the gateway: each bound to its key, host and holder, completed once, for a minute.

Shared by the socket and by HTTP; a `holder` is the id of a connection, or what HTTP has instead.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from aegis.errors import EnvelopeInvalid, RegistrationRefused
from aegis.protocol import base64text, canonical, v1
from aegis.protocol.crypto import KEY_BYTES, SIGNATURE_BYTES, is_sound, uid_of, verifies
from aegis.protocol.payloads import (
    RegistrationCompletion,
    RegistrationInit,
    RegistrationOffer,
    encode,
    kept_init,
)

NONCE_BYTES = 32
# Texts and statuses as the deployed Actions API has them.
BAD_KEY = (400, "bad pubkey")
UNKNOWN = (404, "unknown registration")
BAD_SIGNATURE = (400, "bad signature")
WRONG_SIGNATURE = (401, "signature verify failed")
BAD_HOST = (400, "bad host_id")


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """A registration whose signature held. `host_id` is the signed one."""

    key: bytes
    uid: str
    host_id: str
    init: RegistrationInit


class _Pending(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    key: bytes
    holder: str
    host_id: str
    init: bytes  # as JSON: the objects in it would be many times as large
    nonce: bytes
    server_time: str
    until_ns: int


class Registrations:
    """At most `capacity` begun ones in `most_bytes`, one for each holder and key; the oldest goes first.

    Of a holder with more than `of_holder` it is its own oldest.
    """

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes],
        capacity: int = 4096,
        most_bytes: int = 16 << 20,
        of_holder: int = 512,
        life_s: float = v1.PENDING_S,
    ) -> None:
        self._entropy = entropy
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._of_holder = of_holder
        self.waiting_bytes = 0
        self._life_ns = int(life_s * 1e9)
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._stamp = (-1, "")  # the second that was told last, and its text
        self._of: dict[str, dict[bytes, str]] = {}  # holder and key to the registration's id, oldest first

    def __len__(self) -> int:
        return len(self._pending)

    def begin(
        self,
        init: RegistrationInit,
        *,
        holder: str,
        now_ns: int,
        wall_s: int,
        default_host: str = v1.UNKNOWN_HOST,
    ) -> RegistrationOffer:
        """Offer a nonce to sign. Raises RegistrationRefused: the key of `init` is none."""
        key = key_of(init)
        if not (init.host_id and init.org_id and init.agent_version):
            init = msgspec.structs.replace(
                init,
                host_id=init.host_id or default_host,
                org_id=init.org_id or v1.DEFAULT_ORG,
                agent_version=init.agent_version or v1.DEFAULT_VERSION,
            )
        if not init.host_id.isprintable():
            raise refused(BAD_HOST)
        kept = encode(init)
        self._expire(now_ns)
        own = self._of.get(holder, {})
        self._drop(own.get(key))
        if len(own) >= self._of_holder:
            self._drop(next(iter(own.values())))
        while self._pending and (
            len(self._pending) >= self._capacity or self.waiting_bytes + len(kept) > self._most_bytes
        ):
            self._drop(next(iter(self._pending)))
        identity = str(uuid.UUID(bytes=self._entropy(16), version=4))
        pending = _Pending(
            key=key,
            holder=holder,
            host_id=init.host_id,
            init=kept,
            nonce=self._entropy(NONCE_BYTES),
            server_time=self._told(wall_s),
            until_ns=now_ns + self._life_ns,
        )
        self._pending[identity] = pending
        self._of.setdefault(holder, {})[key] = identity
        self.waiting_bytes += len(kept)
        return RegistrationOffer(identity, base64text.encode(pending.nonce), pending.server_time)

    def complete(self, completion: RegistrationCompletion, *, holder: str, now_ns: int) -> Proven:
        """Check the signature, and forget the registration. Raises RegistrationRefused; one that failed stays."""
        self._expire(now_ns)
        pending = self._pending.get(completion.registration_id)
        if pending is None or pending.holder != holder or pending.host_id != completion.host_id:
            raise refused(UNKNOWN)
        try:
            signature = base64text.decode(completion.signature, "signature", SIGNATURE_BYTES)
        except EnvelopeInvalid:
            raise refused(BAD_SIGNATURE) from None
        signed = canonical.registration(pending.nonce, pending.server_time, completion.host_id)
        if not verifies(pending.key, signature, signed):
            raise refused(WRONG_SIGNATURE)
        self._drop(completion.registration_id)
        init = kept_init(pending.init)
        return Proven(key=pending.key, uid=uid_of(pending.key), host_id=completion.host_id, init=init)

    def forget(self, holder: str) -> None:
        """Drop what a holder that is gone has begun."""
        for identity in list(self._of.get(holder, {}).values()):
            self._drop(identity)

    def _told(self, wall_s: int) -> str:
        if self._stamp[0] != wall_s:
            self._stamp = wall_s, datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._stamp[1]

    def _expire(self, now_ns: int) -> None:
        while self._pending:
            identity, pending = next(iter(self._pending.items()))
            if now_ns < pending.until_ns:
                return
            self._drop(identity)

    def _drop(self, identity: str | None) -> None:
        pending = None if identity is None else self._pending.pop(identity, None)
        if pending is None:
            return
        self.waiting_bytes -= len(pending.init)
        own = self._of[pending.holder]
        del own[pending.key]
        if not own:
            del self._of[pending.holder]


def key_of(init: RegistrationInit) -> bytes:
    """The raw key of a registration. Raises RegistrationRefused."""
    try:
        key = base64text.decode(init.key_text, "agent_pubkey", KEY_BYTES)
    except EnvelopeInvalid:
        raise refused(BAD_KEY) from None
    if not is_sound(key):
        raise refused(BAD_KEY)
    return key


def refused(why: tuple[int, str]) -> RegistrationRefused:
    status, text = why
    return RegistrationRefused(text, status=status)
