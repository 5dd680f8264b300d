"""Any bytes as a row of the outbox: the block that was sealed there, or SpoolCorrupt and nothing else.

As the sealed row itself, which nobody without the key can make; and as what is inside a seal that holds, which an older
or later agent has made.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/agent/outbox/rows.py",)


@functools.cache
def key() -> Any:
    from aegis.agent.outbox.rows import Key

    return Key(bytes(32))


def found(sealer: Any, likely: Any, stream: int, first: int, sealed: bytes) -> Any:
    """What `Key.find` says of a row; None: it is none."""
    from aegis.errors import SpoolCorrupt

    try:
        return sealer.find(likely, stream, first, sealed)
    except SpoolCorrupt:
        return None


def one(data: bytes) -> None:
    from aegis.agent.outbox import rows
    from aegis.errors import SpoolCorrupt
    from aegis.model.block import BlockClass

    sealer = key()
    stream = int.from_bytes(data[1:10], "big") if data[:1] == b"s" else 1
    for cls, place in ((BlockClass.EVENT, 1), (BlockClass.SAMPLE, 7)):
        try:
            associated = rows.associated(cls, stream, place)
        except SpoolCorrupt:
            assert stream >= 1 << 64
            continue
        for sealed in (data, sealer._sealed(data, associated)):
            try:
                block, upto = sealer.open(cls, place, stream, place, sealed)
            except SpoolCorrupt as error:
                said = str(error)
                assert "\n" not in said
                assert sealed is not data or not found(sealer, None, stream, place, sealed)
                continue
            assert sealed is not data  # only who has the key makes a row
            for likely in (None, cls, BlockClass.FINDING):
                assert found(sealer, likely, stream, place, sealed) == (cls, place, block, upto)
            try:
                sealer.open(cls, place + 1, stream, place, sealed)
                raise AssertionError("a row at another's place opened")
            except SpoolCorrupt:
                pass
            assert (block.cls, block.stream, block.first, len(block.boot_id)) == (cls, stream, place, 16)
            again = sealer.seal(block, place, upto)
            assert sealer.open(cls, place, stream, place, again) == (block, upto)
            assert rows.row_bytes(len(again)) == rows.stored_bytes(block)
    try:
        sealer.open_state(data)
        raise AssertionError("a state that nobody sealed opened")
    except SpoolCorrupt:
        pass
    assert sealer.open_state(sealer.seal_state(data)) == data
    try:
        rows.Key(data)
    except ValueError:
        assert len(data) != rows.KEY_BYTES


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("outbox_rows")
