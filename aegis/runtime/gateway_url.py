"""The address of a gateway as a person writes it: `ws://HOST[:PORT][/PATH]`, or `wss://` with TLS."""

from __future__ import annotations

import re

import msgspec

SHAPE = "must be ws://HOST:PORT or wss://HOST:PORT"
PATH = "/ws/agent"  # where a gateway takes agents; it is exact there
_URL = re.compile(
    r"(?P<scheme>wss?)://(?P<host>\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[!$-;=@-Z_a-z~]*)?"
)


class GatewayUrl(msgspec.Struct, frozen=True, kw_only=True):
    """The parts. `host` has no brackets; `text` is the whole again, with port and path."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def text(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}{self.path}"


def parse(text: str) -> GatewayUrl | None:
    """None where it is no such address: another scheme, no host, a port out of range, a query, a user or blanks."""
    found = _URL.fullmatch(text)
    if found is None:
        return None
    secure = found["scheme"] == "wss"
    port = int(found["port"] or (443 if secure else 80))
    if not 0 < port < 65536:
        return None
    path = found["path"]
    return GatewayUrl(
        secure=secure,
        host=found["host"].strip("[]"),
        port=port,
        path=PATH if path in {None, "", "/"} else path,
    )


def problem(text: str) -> str | None:
    """The sentence for an address that is none."""
    return None if parse(text) is not None else f"{SHAPE}, not {text!r}"
