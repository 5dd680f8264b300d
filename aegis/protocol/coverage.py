"""What our agent signs beside the legacy text, so that payload, channel and type are covered towards our gateway too."""

from __future__ import annotations

import hashlib

import msgspec

from aegis.errors import EnvelopeInvalid
from aegis.protocol import base64text
from aegis.protocol.crypto import SIGNATURE_BYTES, Signer, verifies
from aegis.protocol.envelope import Envelope

HEADER = "x-aegis-signature"
_encode = msgspec.json.Encoder().encode
_encode_into = msgspec.json.Encoder().encode_into
# A blank and a NUL: no id has them, so no authentication reads like this.
_CONTEXT = b"AEGIS-v1 envelope\0"


def cover(
    signer: Signer, identity: str, kind: str, channel: str, timestamp: int, nonce: str, payload: str
) -> dict[str, str]:
    """The header that covers an envelope of these parts."""
    signed = digest(identity, kind, channel, timestamp, nonce, payload)
    return {HEADER: base64text.encode(signer.sign(signed))}


def covered_frame(
    signer: Signer, identity: str, kind: str, channel: str, timestamp: int, nonce: str, content: bytes
) -> bytearray:
    """The frame of a covered envelope whose payload is base64 of `content`, which is long: made in place, in UTF-8.

    The same bytes as of `envelope.write` with the header of `cover`.
    """
    frame = bytearray(
        b'{"id":%b,"type":%b,"channel":%b,"payload":' % (_encode(identity), _encode(kind), _encode(channel))
    )
    start = len(frame)
    _encode_into(content, frame, start)
    with memoryview(frame) as whole, whole[start + 1 : -1] as payload:
        signed = _digest(_parts(identity, kind, channel, timestamp, nonce), payload)
    signature = base64text.encode(signer.sign(signed))
    frame += b',"timestamp":%d,"nonce":%b,"signature":"","headers":{"%b":"%b"}}' % (
        timestamp,
        _encode(nonce),
        HEADER.encode(),
        signature.encode(),
    )
    return frame


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
    return _digest(_parts(identity, kind, channel, timestamp, nonce), payload.encode())


def _parts(identity: str, kind: str, channel: str, timestamp: int, nonce: str) -> bytes:
    """All but the payload, as they are hashed."""
    parts = [part.encode() for part in (identity, kind, channel, str(timestamp), nonce)]
    return b"".join([piece for part in parts for piece in (len(part).to_bytes(4, "big"), part)])


def _digest(parts: bytes, payload: bytes | memoryview) -> bytes:
    hashed = hashlib.sha256(parts)
    hashed.update(len(payload).to_bytes(4, "big"))
    hashed.update(payload)
    return _CONTEXT + hashed.digest()
