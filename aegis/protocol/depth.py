"""How deep JSON is nested, without a Python step a byte."""

from __future__ import annotations

import re

_REST = bytes(set(range(256)) - set(b'[]{}"'))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_STRING = re.compile(rb'"[^"]*"')


def is_deeper(data: bytes, most: int) -> bool:
    """Whether JSON text is nested deeper than `most`. Of text that is no JSON the answer means nothing.

    Strings go first: escapes from the left, then pairs of quotes with nothing between them (which keeps every other
    character inside or outside of a string as it was), then strings with brackets in them. Of brackets alone, each
    round takes the innermost pairs.
    """
    # To take them out and look at the length is ten times quicker than `count`.
    if 2 * len(data) - len(data.replace(b"{", b"")) - len(data.replace(b"[", b"")) <= most:
        return False
    left = data
    if b"\\" in left:  # of escapes only these two could leave a quote behind
        left = left.replace(b"\\\\", b"").replace(b'\\"', b"")
    left = left.translate(_SQUARE, _REST)
    left = left.replace(b'""', b"")
    if b'"' in left:
        left = _STRING.sub(b"", left)
    for _ in range(most):
        if not left:
            return False
        left = left.replace(b"[]", b"")
    return bool(left)
