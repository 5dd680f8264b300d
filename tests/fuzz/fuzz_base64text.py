"""Any text as base64: what the standard library makes of it, or EnvelopeInvalid; each value has one text."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/protocol/base64text.py",)
LONG = 1400  # characters: beyond the length at which another way is taken


def one(data: bytes) -> None:
    import base64

    from aegis.errors import EnvelopeInvalid
    from aegis.protocol import base64text

    text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
    assert base64text.decode(base64text.encode(data), "x") == data
    for each in (text, "QUJD" * (LONG // 4) + text):
        try:
            found = base64text.decode(each, "x")
        except EnvelopeInvalid as error:
            said = str(error)
            assert said.startswith("x: ")
            continue
        plain = each.replace("\r", "").replace("\n", "")
        assert base64.b64encode(found).decode() == plain
        try:
            assert len(base64text.decode(each, "x", 32, 64)) in {32, 64}
        except EnvelopeInvalid:
            assert len(found) not in {32, 64}


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("base64text")
