"""The signature of our agent over the whole of an envelope."""

from __future__ import annotations

import msgspec
import pytest

from aegis.protocol import base64text, envelope
from aegis.protocol.coverage import HEADER, cover, covered_frame, digest, is_covered
from aegis.protocol.crypto import Signer

ME = Signer(bytes(range(32)))


def message(**changed: object) -> envelope.Envelope:
    parts = {"identity": "i", "kind": "event", "channel": "c", "timestamp": 1, "nonce": "n", "payload": "p"}
    headers = cover(ME, "i", "event", "c", 1, "n", "p")
    frame = envelope.write(**parts, headers=headers)  # type: ignore[arg-type]
    return msgspec.structs.replace(envelope.read(frame), **changed)


def test_what_was_covered_is() -> None:
    assert is_covered(message(), ME.public_key)
    assert not is_covered(message(), Signer(bytes(32)).public_key)


@pytest.mark.parametrize(
    "changed",
    [{"id": "x"}, {"type": "x"}, {"channel": "x"}, {"timestamp": 2}, {"nonce": "x"}, {"payload": "x"}, {"headers": None},
     {"headers": {}}, {"headers": {HEADER: "x"}}, {"id": None}, {"timestamp": None}, {"payload": "\ud800"}],
)  # fmt: skip
def test_any_other_envelope_is_not(changed: dict[str, object]) -> None:
    assert not is_covered(message(**changed), ME.public_key)


def test_the_digest_of_an_envelope_covers_every_part() -> None:
    parts: list[tuple[str, str, str, int, str, str]] = [("i", "event", "c", 1, "n", "p")]
    for place in range(6):
        changed = list(parts[0])
        changed[place] = 2 if place == 3 else f"{changed[place]}x"
        parts.append(tuple(changed))  # type: ignore[arg-type]
    parts.append(("ie", "vent", "c", 1, "n", "p"))  # a border that moves
    digests = {digest(*each) for each in parts}
    assert len(digests) == len(parts)
    assert all(each.startswith(b"AEGIS-v1 envelope\0") and len(each) == 50 for each in digests)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100_000])
@pytest.mark.parametrize("identity", ["i", 'quote " back \\ line \n snow \u2603'])
def test_a_frame_made_in_place_is_the_one_made_of_its_parts(size: int, identity: str) -> None:
    content = bytes(number % 251 for number in range(size))
    payload = base64text.encode(content)
    headers = cover(ME, identity, "event", "c", 1, "n", payload)
    written = envelope.write(
        identity=identity, kind="event", channel="c", timestamp=1, nonce="n", payload=payload, headers=headers
    )
    frame = covered_frame(ME, identity, "event", "c", 1, "n", content)
    assert bytes(frame) == written.encode()
    assert is_covered(envelope.read(frame.decode()), ME.public_key)
