"""How a batch is stored whose items have members in common: as it came, these told once.

The column holds the array of the items, or an object of two arrays, the second that of the items.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw

from aegis.errors import EnvelopeInvalid
from aegis.protocol import shared_items, v1


class _Read(msgspec.Struct):
    """What is read off an item, by its own members: none of it may be shared."""

    agent_uid: object = UNSET
    schema: object = UNSET
    type: object = UNSET
    time_ns: object = UNSET
    src: object = UNSET
    dst: object = UNSET
    policy: object = UNSET
    verdict: object = UNSET
    name: object = UNSET


class _Stored(msgspec.Struct):
    shared: list[Raw]
    items: Raw


_NOTHING = _Read()
_read = msgspec.json.Decoder(list[_Read])
_stored = msgspec.json.Decoder(_Stored)


def written(array: bytes, shared: Sequence[bytes]) -> bytes:
    """What the column holds."""
    return b'{"shared":[' + b",".join(shared) + b'],"items":' + array + b"}" if shared else array


def opened(stored: bytes) -> tuple[bytes, list[bytes]]:
    """The array of the items, and the shared objects."""
    if not stored.startswith(b"{"):
        return stored, []
    found = _stored.decode(stored)
    return bytes(found.items), [bytes(each) for each in found.shared]


def check(
    items: Sequence[Raw] | Sequence[bytes], size: int, names: Sequence[bytes], shared: Sequence[bytes]
) -> None:
    """Raises EnvelopeInvalid. `size` is that of the items; `names` their members `shared`, as they stand there."""
    joined = b"[" + b",".join(shared) + b"]"
    try:
        if not joined.isascii():
            joined.decode()
        objects = _read.decode(joined)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeInvalid(f"shared: {error}") from None
    if len(objects) != len(shared):
        raise EnvelopeInvalid("shared: not one JSON object each")
    if b"\n" in joined or b"\r" in joined:
        raise EnvelopeInvalid("shared: more than one line")
    for place, each in enumerate(objects):
        if each != _NOTHING:
            raise EnvelopeInvalid(f"shared: {place} has a member that only an item has")
    sizes = shared_items.sizes(shared)
    total = size
    for place, name in enumerate(names):
        if not name:
            continue
        if (
            len(name) <= 4 and name.isdigit() and int(name) < len(sizes)
        ):  # if it is no name, some bytes too many
            total += sizes[int(name)]
        elif shared_items.named(bytes(items[place])) is not None:
            raise EnvelopeInvalid(f"items: {place} names a shared object that is not there")
    if total > v1.BATCH_EXPANDED_BYTES:
        raise EnvelopeInvalid(f"items: more than {v1.BATCH_EXPANDED_BYTES} bytes, each with all its members")
