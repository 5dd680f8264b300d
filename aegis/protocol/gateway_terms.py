"""Who a gateway is, and what it puts up with."""

from __future__ import annotations

import msgspec

from aegis.protocol import base64text, v1
from aegis.protocol.crypto import Signer


class GatewayKeys:
    """The gateway's key pair from its 32-byte seed. Says nothing of the seed."""

    __slots__ = ("public_key", "public_text", "sign")

    def __init__(self, seed: bytes) -> None:
        signer = Signer(seed)
        self.public_key = signer.public_key
        self.public_text = base64text.encode(signer.public_key)
        self.sign = signer.sign


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Counts are of one connection. `attempts`: what may be refused before authentication; `errors`: after it."""

    attempts: int = 3
    errors: int = 64
    registrations: int = 8
    authentications: int = 9  # that held: the first, and eight again
    first_message_s: float = v1.FIRST_MESSAGE_S
    idle_s: float = v1.IDLE_S
    skew_s: int = v1.SKEW_S
    session_s: int = v1.SESSION_S
