"""One text for each value, standard alphabet, padded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import EnvelopeInvalid
from aegis.protocol.base64text import decode, encode


@pytest.mark.parametrize("size", range(50))
def test_what_was_written_is_read(size: int) -> None:
    data = bytes(range(200, 200 + size))
    assert decode(encode(data), "field") == data


@pytest.mark.parametrize("text", ["QU\nI=", "QUI=\r\n", "\r\nQUI=", "Q\rUI="])
def test_line_ends_inside_are_skipped(text: str) -> None:
    assert decode(text, "field") == b"AB"


@pytest.mark.parametrize(
    "text",
    ["QUI", "QQ", "QQ=", "====", "Q Q==", "QQ== ", "QQ==QQ==", "-_8=", "QUI=x", "QÜI=", "Q\0==", "=QUI", "A"],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"^field: is not standard base64 with padding"):
        decode(text, "field")


@pytest.mark.parametrize(
    "text", ["QR==", "Qf==", "QUJ=", "QUL=", "QUJD=", "QUJD==", "QUJD====", "AQUI=", "AQUJDQUI="]
)
def test_a_second_spelling_is_refused(text: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"^field: is not the base64 text of its bytes"):
        decode(text, "field")


@pytest.mark.parametrize(
    ("size", "lengths", "holds"), [(32, (32,), True), (16, (16, 32), True), (31, (16, 32), False)]
)
def test_lengths(size: int, lengths: tuple[int, ...], holds: bool) -> None:
    text = encode(bytes(size))
    if holds:
        assert len(decode(text, "key", *lengths)) == size
        return
    with pytest.raises(EnvelopeInvalid, match=r"^key: has 31 bytes instead of 16 or 32$"):
        decode(text, "key", *lengths)


LONG = encode(bytes(range(256)) * 8)


@pytest.mark.parametrize("size", [767, 768, 769, 770, 48 * 1024, 48 * 1024 + 1])
def test_long_text_is_read_too(size: int) -> None:
    data = (bytes(range(256)) * 200)[:size]
    assert decode(encode(data), "field") == data
    assert decode(encode(data).replace("A", "A\r\n"), "field") == data


@pytest.mark.parametrize("place", [0, 1, 2, 3, 1000, len(LONG) - 1, len(LONG)])
@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "=",
        "-",
        "_",
        '"',
        "\\",
        "\\n",
        "\\u0041",
        "\0",
        "\t",
        "\u00c4",
        "\ud800",
        "A",
        "AA",
        "AAA",
        "QQ==",
    ],
)
def test_long_text_is_refused_as_short_text_is(place: int, piece: str) -> None:
    """What is put in breaks the alphabet or the length, except at the end, where another whole text is one too many."""
    with pytest.raises(EnvelopeInvalid, match=r"^field: is not"):
        decode(LONG[:place] + piece + LONG[place:], "field")


def test_a_second_spelling_of_long_text_is_refused() -> None:
    data = bytes(1024)
    text = encode(data)
    assert text.endswith("AA==")
    with pytest.raises(EnvelopeInvalid, match=r"^field: is not the base64 text of its bytes"):
        decode(text[:-3] + "B==", "field")


@given(
    st.integers(700, 1100),
    st.integers(0, 1500),
    st.sampled_from([*'=AB/+-_ "\\', "==", "====", "\u00e9", ""]),
    st.integers(0, 3),
)
def test_whatever_is_read_is_the_text_of_its_bytes(size: int, place: int, piece: str, cut: int) -> None:
    text = encode(bytes(range(256)) * 5)[: size * 4 // 3]
    changed = text[:place] + piece + text[place + cut :]
    try:
        data = decode(changed, "field")
    except EnvelopeInvalid:
        return
    assert encode(data) == changed
