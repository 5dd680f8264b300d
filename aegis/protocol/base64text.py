"""Base64 as the wire has it: standard alphabet, padding required, one text for each value."""

from __future__ import annotations

import binascii

import msgspec

from aegis.errors import EnvelopeInvalid

_SKIPPED = ("\r", "\n")
_LONG = 1024
_encode_long = msgspec.json.Encoder().encode
_decode_long = msgspec.json.Decoder(bytes).decode


def encode(data: bytes) -> str:
    """One line, padded."""
    if len(data) > _LONG:
        return _encode_long(data)[1:-1].decode("ascii")  # as a JSON string; three times as quick
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode(text: str, name: str, *lengths: int) -> bytes:
    """The bytes; of one of `lengths` where any is given. Raises EnvelopeInvalid with `name` of the field.

    `\\r` and `\\n` are skipped, as deployed peers do. Trailing bits that carry nothing must be 0: a text with others
    would be a second one of the same value, which a replay cache would take for another.
    """
    if "\n" in text or "\r" in text:
        for each in _SKIPPED:
            text = text.replace(each, "")
    data = _long(text) if len(text) > _LONG else None
    if data is None:
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except ValueError:  # binascii.Error, or letters beyond ASCII
            raise EnvelopeInvalid(f"{name}: is not standard base64 with padding") from None
    # Strict mode lets too much padding pass; of long text only the end is left to be compared.
    start = 0 if len(text) <= _LONG else (len(data) - 1) // 3 * 3
    if encode(data[start:]) != text[start // 3 * 4 :]:
        raise EnvelopeInvalid(f"{name}: is not the base64 text of its bytes")
    if lengths and len(data) not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise EnvelopeInvalid(f"{name}: has {len(data)} bytes instead of {wanted}")
    return data


def _long(text: str) -> bytes | None:
    """The same by msgspec, which is twice as quick and takes no more than binascii does; None where it does not."""
    if "\\" in text:  # JSON would read an escape
        return None
    try:
        return _decode_long(f'"{text}"')
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
