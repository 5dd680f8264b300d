"""Any bytes as a block's content: a block that says the same when it is written again, or ValueError in words.

With either way to find the ends of its items, that in Python and the native one: where both take it, they find the same
block. (Only the one in Python looks into tags, which a record has of one kind.)
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/model/block.py",)


def one(data: bytes) -> None:
    from aegis._native import transcode
    from aegis.model import block

    found: list[block.Block | None] = []
    for end_of in (transcode.end_of, block.end_of):
        try:
            found.append(block.parse(data, end_of=end_of))
        except ValueError as error:
            said = str(error)
            assert said
            found.append(None)
    native, plain = found
    assert native is None or plain is None or native == plain
    for each, end_of in ((native, transcode.end_of), (plain, block.end_of)):
        if each is None:
            continue
        assert len(each.boot_id) == block.BOOT_ID_BYTES
        assert 0 <= each.stream < 1 << 63
        assert block.parse(each.content(), end_of=end_of) == each
        if each.count < 1 << 20:
            assert block.head(0x80, each.count)
    number = int.from_bytes(data[:9], "big")
    if number < 1 << 64:
        written = block.head(0, number)
        assert block.end_of(written, 0, 1) == transcode.end_of(written, 0, 1) == len(written)
    assert block.base_of(number) <= number


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("block")
