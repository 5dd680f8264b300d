"""The upgrade request as nearly every agent sends it, read in one go.

Only what is beyond doubt is taken: one piece, one header of each name, the words the standard has. Anything else, a
request that is lawful but unusual as much as a broken one, is for the library, which judges it and words the refusal.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from websockets.utils import accept_key

from aegis.errors import EnvelopeInvalid
from aegis.protocol import base64text

KEY_BYTES: Final = 16
HEAD_BYTES: Final = 8192
# Each header is `name: value` with one blank, and a value of printable ASCII that neither begins nor ends with a blank.
_SHAPE: Final = re.compile(
    rb"GET [!-~]{1,1024} HTTP/1\.1\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}: [!-~](?:[ -~]*[!-~])?\r\n){1,64}\r\n"
)
# A whole head behind which anything may come.
_OTHER: Final = re.compile(
    rb"(POST|PUT|PATCH|DELETE|OPTIONS) ([!-~]{1,1024}) HTTP/1\.1\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}:[ \t]*(?:[!-~](?:[ -~]*[!-~])?)?\r\n){1,64}\r\n"
)
# What says that more follows, or that there is something to agree upon.
_UNUSUAL: Final = frozenset(
    {
        "content-length",
        "transfer-encoding",
        "expect",
        "origin",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
    }
)


class Opening(msgspec.Struct, frozen=True, gc=False):
    """A GET that asks for an upgrade to WebSocket as the standard has it. `headers` as they came."""

    target: str
    headers: list[tuple[str, str]]
    key: str  # of the WebSocket handshake, which is no secret and proves nothing


def read(data: bytes) -> Opening | None:
    """None: let the library look at it."""
    if _SHAPE.fullmatch(data) is None:
        return None
    lines = data[:-4].decode("ascii").split("\r\n")
    headers: list[tuple[str, str]] = []
    found: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(": ")
        headers.append((name, value))
        found[name.lower()] = value
    key = found.get("sec-websocket-key", "")
    if (
        len(found) != len(headers)
        or found.get("upgrade", "").lower() != "websocket"
        or found.get("connection", "").lower() != "upgrade"
        or found.get("sec-websocket-version") != "13"
        or not _UNUSUAL.isdisjoint(found)
    ):
        return None
    try:
        base64text.decode(key, "key", KEY_BYTES)
    except EnvelopeInvalid:
        return None
    return Opening(lines[0][4:-9], headers, key)


def other(data: bytes) -> tuple[str, str] | None:
    """Method and target of a request that can be no upgrade, with a body or none. The library knows no bodies."""
    found = _OTHER.match(data, 0, HEAD_BYTES)
    return None if found is None else (found[1].decode("ascii"), found[2].decode("ascii"))


def answer(opening: Opening) -> bytes:
    """The upgrade is done: what comes behind it are frames."""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(opening.key)}\r\n\r\n"
    ).encode()
