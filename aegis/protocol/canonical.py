"""The exact bytes that are signed, and those that are compared."""

from __future__ import annotations

from aegis.protocol import v1


def authentication(agent_id: str, key_text: str, timestamp: int, nonce: str) -> bytes:
    """Key and nonce in their base64 text form, as they stand in the JSON."""
    return f"{agent_id}:{key_text}:{timestamp}:{nonce}".encode()


def authentication_answer(timestamp: int, payload: str) -> bytes:
    """Signed before id, type and channel are filled in."""
    return f"{v1.NO_SIGNED_WORDS}{timestamp}:{payload}".encode()


def registration(nonce: bytes, server_time: str, host_id: str) -> bytes:
    """Raw nonce, then both texts as received, nothing between."""
    return nonce + server_time.encode() + host_id.encode()


def message(identity: str, key_text: str, timestamp: int, nonce_text: str) -> bytes:
    """The text beside every other message: uid or agent id, never the payload."""
    return f"{identity}:{key_text}:{timestamp}:{nonce_text}".encode()
