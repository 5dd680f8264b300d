"""The upgrade request at the gateway: which headers, in which order they are checked, and the exact refusals."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from aegis.errors import EnvelopeInvalid
from aegis.protocol import base64text, v1
from aegis.protocol.crypto import KEY_BYTES, is_sound


class Upgrade(msgspec.Struct, frozen=True, kw_only=True):
    """Headers that hold: the id as claimed, and the raw key that the session is bound to once it is proven."""

    agent_id: str
    key: bytes


class UpgradeRefused(msgspec.Struct, frozen=True, kw_only=True):
    """The answer instead of the upgrade: `status`, and `text` as text/plain with a newline behind it."""

    status: int
    text: str


def check(
    headers: Iterable[tuple[str, str]], *, any_user_agent: bool = False, full: bool = False
) -> Upgrade | UpgradeRefused:
    """Headers first, then user agent, key and capacity (`full`), as deployed agents know it.

    Of a repeated header the first counts. `agentID` and `publicKey` of the design document are taken as well.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(name.lower(), value)
    agent_id = _first(found, v1.HEADER_ID_NAMES)
    key_text = _first(found, v1.HEADER_KEY_NAMES)
    if not agent_id or not key_text:
        return UpgradeRefused(status=400, text=v1.MISSING_HEADERS)
    if not any_user_agent and found.get("user-agent") != v1.USER_AGENT:
        return UpgradeRefused(status=400, text=v1.INVALID_USER_AGENT)
    try:
        key = base64text.decode(key_text, v1.HEADER_KEY, KEY_BYTES)
    except EnvelopeInvalid:
        key = b""
    if not is_sound(key):
        return UpgradeRefused(status=400, text=v1.INVALID_KEY)
    if not v1.ID.fullmatch(agent_id):
        return UpgradeRefused(status=400, text=v1.INVALID_ID)
    if full:
        return UpgradeRefused(status=503, text=v1.AT_CAPACITY)
    return Upgrade(agent_id=agent_id, key=key)


def _first(found: dict[str, str], names: Iterable[str]) -> str:
    return next((found[name] for name in names if found.get(name)), "")
