"""Any text as a gateway's address: its parts, which a standard reader of addresses finds too, or None."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/runtime/gateway_url.py",)


def one(data: bytes) -> None:
    from urllib.parse import urlsplit

    from aegis.runtime import gateway_url

    text = data.decode("utf-8", "replace")
    found = gateway_url.parse(text)
    assert (gateway_url.problem(text) is None) == (found is not None)
    if found is None:
        return
    assert text.isascii()
    assert text.isprintable()
    assert 0 < found.port < 65536
    assert found.host
    assert gateway_url.parse(found.text) == found
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        assert "[" in text  # what stands between brackets is looked at when it is connected to
        return
    assert parts.scheme == ("wss" if found.secure else "ws")
    assert host == found.host.lower()
    assert (parts.port or found.port) == found.port
    assert [parts.username, parts.password, parts.query, parts.fragment] == [None, None, "", ""]
    assert found.path == (parts.path if len(parts.path) > 1 else gateway_url.PATH)


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("gateway_url")
