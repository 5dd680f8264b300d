"""What an envelope may be: every class of bad input has a typed answer that names the member."""

from __future__ import annotations

import json

import pytest

from aegis.errors import EnvelopeInvalid
from aegis.protocol import envelope, v1

GOOD = {
    "id": "auth_1",
    "type": "request",
    "channel": "auth",
    "payload": "e30=",
    "timestamp": 1700000000,
    "nonce": "AAAA",
    "signature": "AAAA",
    "headers": {"a": "b"},
}


def text(**changed: object) -> str:
    return json.dumps(GOOD | changed)


def test_every_member_is_read() -> None:
    message = envelope.read(text())
    assert {name: getattr(message, name) for name in GOOD} == GOOD


def test_what_is_written_is_read() -> None:
    frame = envelope.write(
        identity="i", kind="event", channel="c", payload='{"a":"\\"\u00e9"}', timestamp=1, nonce="n", signature="s",
        headers={"x": "y"},
    )  # fmt: skip
    assert list(json.loads(frame)) == [
        "id",
        "type",
        "channel",
        "payload",
        "timestamp",
        "nonce",
        "signature",
        "headers",
    ]
    message = envelope.read(frame)
    assert (message.id, message.type, message.channel, message.payload) == (
        "i",
        "event",
        "c",
        '{"a":"\\"\u00e9"}',
    )
    assert (message.timestamp, message.nonce, message.signature, message.headers) == (1, "n", "s", {"x": "y"})


def test_only_a_channel_is_needed() -> None:
    assert envelope.read('{"channel":""}') == envelope.Envelope(channel="")


@pytest.mark.parametrize("name", ["id", "type", "timestamp", "nonce", "signature", "headers"])
def test_members_that_may_be_null(name: str) -> None:
    assert getattr(envelope.read(text(**{name: None})), name) is None


@pytest.mark.parametrize("name", ["id", "type", "channel", "payload", "nonce", "signature"])
@pytest.mark.parametrize("value", [1, True, {}, [], 1.5])
def test_texts_are_texts(name: str, value: object) -> None:
    with pytest.raises(EnvelopeInvalid, match=rf"\$\.{name}"):
        envelope.read(text(**{name: value}))


@pytest.mark.parametrize("name", ["channel", "payload"])
def test_members_that_are_needed_are_not_null(name: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=rf"\$\.{name}"):
        envelope.read(text(**{name: None}))


@pytest.mark.parametrize(
    "literal",
    [
        "1.0",
        "1.5",
        '"1"',
        "true",
        "1e3",
        "1E0",
        "[1]",
        "{}",
        "9223372036854775808",
        "-9223372036854775809",
        "9" * 400,
    ],
)
def test_a_timestamp_is_an_integer_literal(literal: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"\$\.timestamp"):
        envelope.read(f'{{"channel":"auth","timestamp":{literal}}}')


@pytest.mark.parametrize("literal", ["0", "-1", "-0", "9223372036854775807"])
def test_timestamps_of_64_bits(literal: str) -> None:
    assert envelope.read(f'{{"channel":"auth","timestamp":{literal}}}').timestamp == int(literal)


@pytest.mark.parametrize(
    "frame",
    [
        "", " ", "x", "null", "1", '"a"', "[]", "true", "\ufeff" + text(), "\0", text() + "x", text() + "{}", text()[:-1],
        '{"channel":"a",}', '{"channel":"a",/**/"x":1}', "{'channel':'a'}", '{"channel":"a","x":NaN}', '{"channel":"a","x":+1}',
        '{"channel":"a","x":01}', '{"channel":"a","x":"\x01"}', '{"channel":"a","timestamp":1e999}', '{"channel":"\\ud800"}',
        '{"channel":"a\ud800"}', '{"channel":"a","x":"\\ud800"}', '{"channel":"\\x"}', '{"channel":"a" "x":1}',
    ],
)  # fmt: skip
def test_what_is_no_envelope(frame: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"^frame: "):
        envelope.read(frame)


@pytest.mark.parametrize("value", [1, [], "a", {"a": 1}, {"a": None}, {"a": {}}])
def test_headers_are_texts_by_name(value: object) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"\$\.headers"):
        envelope.read(text(headers=value))


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("id", v1.ENVELOPE_ID_LENGTH),
        ("channel", v1.CHANNEL_LENGTH),
        ("nonce", v1.NONCE_LENGTH),
        ("signature", 256),
        ("type", 32),
    ],
)
def test_lengths(name: str, most: int) -> None:
    assert getattr(envelope.read(text(**{name: "x" * most})), name) == "x" * most
    with pytest.raises(EnvelopeInvalid, match=rf"\$\.{name}"):
        envelope.read(text(**{name: "x" * (most + 1)}))


def test_unknown_members_are_ignored_and_of_a_repeated_one_the_last_counts() -> None:
    message = envelope.read('{"channel":"a","Channel":"b","x":{"y":[1,2]},"channel":"c"}')
    assert message.channel == "c"


@pytest.mark.parametrize("most", [64, v1.FRAME_BYTES_BEFORE, v1.FRAME_BYTES_AFTER])
def test_the_size_of_a_frame(most: int) -> None:
    bare = len(text(payload=""))
    assert envelope.read(
        text(payload="A" * (most - bare)) if most > bare else '{"channel":"a"}', most
    ).channel
    with pytest.raises(EnvelopeInvalid, match=f"larger than {most} bytes"):
        envelope.read(text(payload="A" * (most - bare + 1)), most)


def test_size_is_counted_in_bytes() -> None:
    frame = '{"channel":"' + "\u20ac" * 100 + '"}'
    assert envelope.read(frame, 314).channel
    with pytest.raises(EnvelopeInvalid, match="larger than 313"):
        envelope.read(frame, 313)


@pytest.mark.parametrize("levels", [31, 32, 100_000])
def test_depth(levels: int) -> None:
    frame = '{"channel":"a","x":' + "[" * levels + "]" * levels + "}"
    if levels == 31:
        assert envelope.read(frame).channel == "a"
        return
    with pytest.raises(EnvelopeInvalid, match="deeper than 32"):
        envelope.read(frame)
