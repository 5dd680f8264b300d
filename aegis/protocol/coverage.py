"""What our agent signs beside the legacy text, so that payload, channel and type are covered towards our gateway too."""

from __future__ import annotations

import hashlib

from aegis.errors import EnvelopeInvalid
from aegis.protocol import base64text
from aegis.protocol.crypto import SIGNATURE_BYTES, Signer, verifies
from aegis.protocol.envelope import Envelope

HEADER = "x-aegis-signature"
# A blank and a NUL: no id has them, so no authentication reads like this.
_CONTEXT = b"AEGIS-v1 envelope\0"


def cover(
    signer: Signer, identity: str, kind: str, channel: str, timestamp: int, nonce: str, payload: str
) -> dict[str, str]:
    """The header that covers an envelope of these parts."""
    signed = digest(identity, kind, channel, timestamp, nonce, payload)
    return {HEADER: base64text.encode(signer.sign(signed))}


def is_covered(message: Envelope, key: bytes) -> bool:
    """Whether `key` signed this envelope, its payload included."""
    try:
        signature = base64text.decode((message.headers or {}).get(HEADER, ""), HEADER, SIGNATURE_BYTES)
        signed = digest(
            message.id or "",
            message.type or "",
            message.channel,
            message.timestamp or 0,
            message.nonce or "",
            message.payload,
        )
    except (EnvelopeInvalid, UnicodeEncodeError):
        return False
    return verifies(key, signature, signed)


def digest(identity: str, kind: str, channel: str, timestamp: int, nonce: str, payload: str) -> bytes:
    """What is signed: every part with its length before it, hashed, behind a context of its own."""
    hashed = hashlib.sha256()
    for part in (identity, kind, channel, str(timestamp), nonce, payload):
        data = part.encode()
        hashed.update(len(data).to_bytes(4, "big"))
        hashed.update(data)
    return _CONTEXT + hashed.digest()
