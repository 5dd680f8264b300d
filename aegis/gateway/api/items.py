"""Pages of stored items: what the store cannot choose by is chosen here, and each item is told with its agent.

An item stays the bytes that were stored; only where a condition needs it, the few members it names are read off them.
"""

from __future__ import annotations

import asyncio
import ipaddress

import msgspec
from msgspec import structs

from aegis.errors import QueryInvalid
from aegis.gateway.hub import Hub
from aegis.gateway.store.base import LIMIT, Item, Query
from aegis.model.net import PROTOCOL_NUMBERS, protocol_name

MOST_LOOKED_AT = 20_000  # items a page may look at; what is behind them is on the next one


class Seen(msgspec.Struct, frozen=True, gc=False):
    """The members of an event or flow that a request may choose by. What is of another type is as if absent."""

    pid: int | None = None
    exe: str | None = None
    comm: str | None = None
    protocol: str | None = None
    src: str | None = None
    dst: str | None = None
    src_port: int | None = None
    dst_port: int | None = None


_read = msgspec.json.Decoder(Seen).decode


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on one item; all that are given must hold."""

    pid: int | None = None
    exe: str | None = None
    process: str | None = None
    protocol: str | None = None
    port: int | None = None
    src: str | None = None
    dst: str | None = None

    @classmethod
    def of(
        cls,
        *,
        pid: int | None = None,
        exe: str | None = None,
        process: str | None = None,
        protocol: str | None = None,
        port: int | None = None,
        src: str | None = None,
        dst: str | None = None,
    ) -> Choice:
        """Addresses and protocol in the form the items have. Raises QueryInvalid."""
        return cls(
            pid=pid,
            exe=exe,
            process=process,
            protocol=None if protocol is None else _protocol(protocol),
            port=port,
            src=None if src is None else address(src, name="src"),
            dst=None if dst is None else address(dst, name="dst"),
        )

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__struct_fields__)

    def holds(self, item: Item) -> bool:
        """Whether the item fulfils every condition."""
        try:
            seen = _read(item.json)
        except msgspec.DecodeError:  # a member of another type: nothing of ours, but stored
            return False
        return (
            (self.pid is None or seen.pid == self.pid)
            and (self.exe is None or seen.exe == self.exe)
            and (
                self.process is None or self.process in (seen.exe or "") or self.process in (seen.comm or "")
            )
            and (self.protocol is None or seen.protocol == self.protocol)
            and (self.port is None or self.port in (seen.src_port, seen.dst_port))
            and (self.src is None or seen.src == self.src)
            and (self.dst is None or seen.dst == self.dst)
        )


def address(text: str, *, name: str) -> str:
    """The normal form of an address. Raises QueryInvalid."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise QueryInvalid(f"{name} is no address") from None
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


def _protocol(text: str) -> str:
    name = text.lower()
    if name in PROTOCOL_NUMBERS:
        return name
    if name.isascii() and name.isdecimal() and len(name) <= 3 and int(name) <= 255:
        return protocol_name(int(name))
    raise QueryInvalid(f"unknown protocol {text[:20]!r}")


async def chosen_page(hub: Hub, query: Query, choice: Choice, most: int) -> tuple[list[bytes], str | None]:
    """At most `most` items as they are answered, and where to go on: None when there is nothing more.

    With a choice the page may have fewer, even none, and still go on: it looks at `MOST_LOOKED_AT` at most.
    """
    if not choice:
        page = await hub.items(structs.replace(query, limit=most))
        return [told(item) for item in page.items], page.next
    found: list[bytes] = []
    looked_at = 0
    step = LIMIT
    while True:
        page = await hub.items(structs.replace(query, limit=step))
        matching = [item for item in page.items if choice.holds(item)]
        if len(found) + len(matching) > most:
            # The page must end behind the last item that still fits: ask again for exactly that many.
            last = matching[most - len(found) - 1]
            step = next(place for place, item in enumerate(page.items, 1) if item is last)
            continue
        found += [told(item) for item in matching]
        looked_at += len(page.items)
        if page.next is None or len(found) == most or looked_at >= MOST_LOOKED_AT or not page.items:
            return found, page.next
        query = (
            structs.replace(query, cursor=page.next)
            if query.after is None
            else structs.replace(query, after=page.next)
        )
        step = LIMIT
        await asyncio.sleep(0)  # others' turn: a page of a thousand takes milliseconds


def told(item: Item) -> bytes:
    """The stored object with `agent_uid` as its first member."""
    rest = item.json.lstrip()[1:].lstrip()
    comma = b"" if rest.startswith(b"}") else b","
    return b'{"agent_uid":' + msgspec.json.encode(item.uid) + comma + rest


def spliced(items: list[bytes], next_: str | None) -> bytes:
    """The JSON of a page, without reading the items again."""
    return b'{"items":[' + b",".join(items) + b'],"next":' + msgspec.json.encode(next_) + b"}"
