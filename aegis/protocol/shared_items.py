"""Members that items of a batch have in common, told once: what an item that names them stands for.

An item that ends with `,"shared":K}` has the members of the batch's shared object K too, and so has an object that
ends with it, where K is lower than its own place. Of a batch without shared objects nothing is read that way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aegis.errors import EnvelopeInvalid

# At the end of an object it can be nothing else: a quote inside of a string has a backslash before it.
_NAMES = re.compile(rb'[,{]"shared":([0-9]{1,4})\}$')
_LONGEST = len(b',"shared":1023}')


def named(data: bytes) -> int | None:
    """The place of the object that an object names."""
    found = _NAMES.search(data, max(len(data) - _LONGEST, 0))
    return None if found is None else int(found[1])


def sizes(shared: Sequence[bytes]) -> list[int]:
    """Bytes that each object adds to an item that names it, or some more. Raises EnvelopeInvalid."""
    found: list[int] = []
    for place, each in enumerate(shared):
        below = named(each)
        if below is None:
            found.append(len(each))
        elif below < place:
            found.append(len(each) + found[below])
        else:
            raise EnvelopeInvalid(f"shared: {place} names {below}, which is not before it")
    return found


def expand(item: bytes, shared: Sequence[bytes]) -> bytes:
    """The item with all its members; itself where it names nothing. Raises EnvelopeInvalid."""
    if not shared:
        return item
    parts: list[bytes] = []
    below = len(shared)
    while (found := _NAMES.search(item, max(len(item) - _LONGEST, 0))) is not None:
        place = int(found[1])
        if place >= below:
            raise EnvelopeInvalid(f"shared: there is no {place} before {below}")
        parts.append(item[1 : found.start()])
        item, below = bytes(shared[place]), place
    if not parts:
        return item
    parts.append(item[1:-1].strip())
    return b"{" + b",".join(filter(None, parts)) + b"}"
