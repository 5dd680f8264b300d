"""Any text as an envelope: an envelope within its limits, or EnvelopeInvalid.

Not reached: the way out of `is_deeper` for few brackets (`envelope` has counted them; the entry `batch` takes it), and a
RecursionError of the decoder (what would raise one is refused for its depth before).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/envelope.py",
    "aegis/protocol/depth.py",
)


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid
    from aegis.protocol import envelope, v1

    # Every other time with halves of surrogate pairs in it, which no socket gives and a caller might.
    text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
    try:
        message = envelope.read(text, 4096)
    except EnvelopeInvalid as error:
        said = str(error)
        assert said.startswith("frame: ")
        return
    assert len(message.channel) <= v1.CHANNEL_LENGTH
    assert message.timestamp is None or -(1 << 63) <= message.timestamp < 1 << 63
    assert len(message.headers or {}) <= v1.HEADERS
    # What was read can be written, and then says the same.
    again = envelope.read(
        envelope.write(
            identity=message.id or "",
            kind=message.type or "",
            channel=message.channel,
            payload=message.payload,
            timestamp=message.timestamp or 0,
            nonce=message.nonce or "",
            signature=message.signature or "",
            headers=message.headers or {},
        )
    )
    assert (again.channel, again.payload) == (message.channel, message.payload)


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("envelope")
