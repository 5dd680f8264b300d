"""The envelope around every message, both directions: one JSON object with eight members.

Read strictly (`read`), written in one way (`write`). Unknown members are ignored, as deployed peers do.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from aegis.errors import EnvelopeInvalid
from aegis.protocol import v1
from aegis.protocol.depth import is_deeper

Instant = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # as a 64-bit integer of the deployed peers
_HeaderText = Annotated[str, Meta(max_length=1024)]


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A message. `payload` is text: base64 of JSON, or raw JSON, as `protocol.v1` says for the channel.

    `timestamp` is unix seconds. Members that may be absent may also be null.
    """

    channel: Annotated[str, Meta(max_length=v1.CHANNEL_LENGTH)]
    payload: str = ""
    type: Annotated[str, Meta(max_length=32)] | None = None
    id: Annotated[str, Meta(max_length=v1.ENVELOPE_ID_LENGTH)] | None = None
    timestamp: Instant | None = None
    nonce: Annotated[str, Meta(max_length=v1.NONCE_LENGTH)] | None = None
    signature: Annotated[str, Meta(max_length=v1.SIGNATURE_LENGTH)] | None = None
    headers: (
        Annotated[dict[Annotated[str, Meta(max_length=128)], _HeaderText], Meta(max_length=v1.HEADERS)] | None
    ) = None


class _Written(msgspec.Struct, frozen=True, gc=False):
    """The same, in the order and with the members that deployed peers write."""

    id: str
    type: str
    channel: str
    payload: str
    timestamp: int
    nonce: str
    signature: str
    headers: dict[str, str]


_decode = msgspec.json.Decoder(Envelope).decode
_encode = msgspec.json.Encoder().encode
_NO_HEADERS: dict[str, str] = {}


def read(frame: str, most_bytes: int = v1.FRAME_BYTES_AFTER) -> Envelope:
    """The envelope in a text frame. Raises EnvelopeInvalid, which names the member."""
    # A frame of deployed peers is ASCII; any other is measured in bytes.
    if len(frame) > most_bytes or not (frame.isascii() or _utf8_length(frame) <= most_bytes):
        raise EnvelopeInvalid(f"frame: is larger than {most_bytes} bytes")
    if _may_be_deep(frame) and is_deeper(frame.encode("utf-8", "surrogatepass"), v1.JSON_DEPTH):
        raise EnvelopeInvalid(f"frame: is nested deeper than {v1.JSON_DEPTH}")
    try:
        return _decode(frame)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise EnvelopeInvalid(f"frame: {_said(error)}") from None


def _may_be_deep(frame: str) -> bool:
    """Whether there are brackets enough. Mostly there are two, which `find` passes over quicker than `count` counts."""
    found = 0
    for bracket in "{[":
        place = frame.find(bracket)
        while place >= 0:
            found += 1
            if found > v1.JSON_DEPTH:
                return True
            place = frame.find(bracket, place + 1)
    return False


def write(
    *,
    identity: str,
    kind: str,
    channel: str,
    payload: str,
    timestamp: int,
    nonce: str = "",
    signature: str = "",
    headers: dict[str, str] = _NO_HEADERS,
) -> str:
    """The text frame of a message."""
    return _encode(_Written(identity, kind, channel, payload, timestamp, nonce, signature, headers)).decode()


def _utf8_length(frame: str) -> int:
    return len(frame.encode("utf-8", "surrogatepass"))


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"is nested deeper than {v1.JSON_DEPTH}"
    if isinstance(error, UnicodeEncodeError):
        return "holds half of a surrogate pair"
    return str(error)
