"""What is checked of an authentication: by the gateway of the request, by the agent of the answer."""

from __future__ import annotations

from aegis.errors import EnvelopeInvalid
from aegis.protocol import base64text, canonical, v1
from aegis.protocol.crypto import KEY_BYTES, SIGNATURE_BYTES, is_sound, verifies
from aegis.protocol.envelope import Envelope
from aegis.protocol.payloads import AuthRequest
from aegis.protocol.replay import ReplayCache


def wrong(
    request: AuthRequest, *, key: bytes, skew_s: int, replay: ReplayCache, now_ns: int, wall_s: int
) -> str | None:
    """What is wrong with a request on a connection of `key`, the cheap checks first; None where the key is proven."""
    try:
        said = base64text.decode(request.public_key, "public_key", KEY_BYTES)
    except EnvelopeInvalid:
        return v1.AUTH_BAD_KEY
    if not is_sound(said):
        return v1.AUTH_BAD_KEY
    if said != key:
        return v1.AUTH_OTHER_KEY
    if not v1.ID.fullmatch(request.agent_id):
        return v1.AUTH_BAD_ID
    if abs(request.timestamp - wall_s) > skew_s:
        return v1.AUTH_SKEW
    if request.nonce.startswith(v1.MESSAGE_NONCES) or replay.seen(key, request.nonce, now_ns):
        return v1.AUTH_REPLAY
    try:
        signature = base64text.decode(request.signature, "signature", SIGNATURE_BYTES)
    except EnvelopeInvalid:
        return v1.AUTH_BAD_SIGNATURE
    signed = canonical.authentication(request.agent_id, request.public_key, request.timestamp, request.nonce)
    return None if verifies(key, signature, signed) else v1.AUTH_BAD_SIGNATURE


def lifetime(expires_at: int | None, gateway_s: int | None, wall_s: int) -> int | None:
    """Seconds the session holds, by the gateway's own clock where it told the time; None where it said nothing."""
    if not expires_at:
        return None
    left = expires_at - (gateway_s if gateway_s is not None else wall_s)
    return left if 0 < left < 1 << 31 else None


def answer_verifies(message: Envelope, key: bytes) -> bool:
    """Whether `key` signed an answer. The timestamp that was signed is taken a moment after the envelope's."""
    try:
        signature = base64text.decode(message.signature or "", "signature", SIGNATURE_BYTES)
    except EnvelopeInvalid:
        return False
    stamp = message.timestamp or 0
    return any(
        verifies(key, signature, canonical.authentication_answer(each, message.payload))
        for each in (stamp, stamp + 1)
    )
