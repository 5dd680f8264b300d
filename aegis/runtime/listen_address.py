"""ADDR:PORT as an option gives it."""

from __future__ import annotations

import ipaddress

SHAPE = "must be ADDR:PORT, an IPv4 address, or an IPv6 address in brackets, and a port from 0 to 65535"


def parse(text: str) -> tuple[str, int] | None:
    """Address and port; None where it is none. Names are not looked up."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (str(address), int(port)) if (address.version == 6) == bracketed else None


def problem(text: str) -> str | None:
    """The sentence for one that is none."""
    return None if parse(text) is not None else f"{SHAPE}, not {text!r}"
