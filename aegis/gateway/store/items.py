"""What the store reads off an item: its instant, and what a query may name. The item itself is kept as it came."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final

import msgspec

from aegis.errors import EnvelopeInvalid, QueryInvalid
from aegis.gateway.store import sharing
from aegis.gateway.store.base import CLASSES, Batch, Query
from aegis.model.event import LossEvent, encode

# A type's place is its bit in a batch's `types`. Only ever longer; what is not in it shares the last bit.
TYPES: Final = ("exec", "exit", "connect", "accept", "listen", "verdict", "loss", "dns", "file")
_OTHER: Final = 1 << 62
_BITS: Final = {name: 1 << place for place, name in enumerate(TYPES)}
MOST_INTEGER: Final = (1 << 63) - 1  # of a column
AHEAD_NS: Final = 300 * 1_000_000_000  # how much later than its coming an item may have happened
MOST_KEY: Final = 256  # characters of an indexed value; a query for a longer one finds by its beginning


class Head(msgspec.Struct, gc=False):
    """The members of an item that are looked at; the decoder skips the others, checking their form only.

    A record of a type that an agent does not know yet has no instant: `time_ns` is -1. `agent_uid` may not be there: it
    is put in by us, when an item is told.
    """

    time_ns: Annotated[int, msgspec.Meta(ge=0, le=MOST_INTEGER)] = -1
    type: str | int = ""
    src: str | None = None
    dst: str | None = None
    policy: str | None = None
    verdict: str | None = None
    name: str | None = None
    schema: str | None = None
    agent_uid: msgspec.Raw = msgspec.Raw(b"")
    shared: msgspec.Raw = msgspec.Raw(b"")


_heads = msgspec.json.Decoder(list[Head])
_raws = msgspec.json.Decoder(list[msgspec.Raw])


def batch(
    *,
    uid: str,
    cls: str,
    stream: int,
    first: int,
    boot_id: str,
    items: list[msgspec.Raw] | list[bytes],
    received_ns: int,
    losses: tuple[tuple[str, str, str, int], ...] = (),
    shared: list[msgspec.Raw] | list[bytes] | tuple[()] = (),
) -> Batch:
    """A batch of these JSON objects. Raises EnvelopeInvalid for the first thing that is wrong.

    They are kept as they came, with the objects of `shared` they name: none of what is read here may be in these.
    `losses` are told of as events of the instant of the newest item, which have no place in the sequence.
    """
    if not items:
        raise EnvelopeInvalid("a batch without items")
    return _batch(
        uid, cls, stream, first, boot_id, items, received_ns, losses, [bytes(each) for each in shared]
    )


def without_first(old: Batch, count: int) -> Batch:
    """The batch without its first items, which are stored already."""
    array, shared = sharing.opened(old.items)
    raws = split(array)
    kept = _batch(
        old.uid,
        old.cls,
        old.stream,
        old.first + count,
        old.boot_id,
        raws[count:],
        old.received_ns,
        (),
        shared,
    )
    return msgspec.structs.replace(kept, count=old.count - count)


def _batch(
    uid: str,
    cls: str,
    stream: int,
    first: int,
    boot_id: str,
    items: list[msgspec.Raw] | list[bytes],
    received_ns: int,
    losses: tuple[tuple[str, str, str, int], ...],
    shared: list[bytes],
) -> Batch:
    if not (0 <= stream <= MOST_INTEGER and 0 <= first <= MOST_INTEGER - len(items)):
        raise EnvelopeInvalid("stream or first is out of range")
    if cls not in CLASSES:
        raise EnvelopeInvalid(f"there is no class {cls[:20]!r}")
    joined = b"[" + b",".join(items) + b"]"
    heads = read(joined)
    if len(heads) != len(items):
        raise EnvelopeInvalid("items: not one JSON object each")
    if b"\n" in joined or b"\r" in joined:  # outside of texts, which cannot have one: an item is one line
        raise EnvelopeInvalid("items: more than one line")
    if shared:
        sharing.check(items, len(joined), [bytes(head.shared) for head in heads], shared)
    times = instants(heads, received_ns)
    oldest, newest = min(times), max(times)
    types, peers, policies = 0, set(), set()
    for kind in {head.type for head in heads}:
        types |= _BITS.get(kind, _OTHER) if isinstance(kind, str) else _OTHER
    for head in heads:
        if head.agent_uid:
            raise EnvelopeInvalid("items: one that names an agent")
        if head.time_ns < 0 or not head.type:
            _must_say(head)
        if head.dst is not None:
            peers.add(head.dst[:MOST_KEY])
        if head.src is not None:
            peers.add(head.src[:MOST_KEY])
        if head.policy is not None:
            policies.add(head.policy[:MOST_KEY])
    if losses:
        types |= _BITS["loss"]
        joined = b",".join((joined[:-1], *loss_items(losses, newest))) + b"]"
    return Batch(
        uid=uid,
        cls=cls,
        stream=stream,
        first=first,
        count=len(items),
        boot_id=boot_id,
        items=sharing.written(joined, shared),
        oldest_ns=oldest,
        newest_ns=newest,
        types=types,
        peers=frozenset(peers),
        policies=frozenset(policies),
        received_ns=received_ns,
    )


def instants(heads: list[Head], received_ns: int) -> list[int]:
    """When each happened, as it is sorted by: its coming where it does not say; never much later than that."""
    latest = received_ns + AHEAD_NS
    times = [head.time_ns for head in heads]
    if min(times) < 0 or max(times) > latest:
        return [received_ns if time < 0 else min(time, latest) for time in times]
    return times


def _must_say(head: Head) -> None:
    """Raises EnvelopeInvalid for an item that lacks what its schema always has; one that we do not know may."""
    if head.schema == "aegis.event" or (head.schema == "aegis.flow" and head.time_ns < 0):
        raise EnvelopeInvalid(f"items: an {head.schema} without its type or instant")


def loss_items(losses: tuple[tuple[str, str, str, int], ...], time_ns: int) -> list[bytes]:
    """Loss entries of a block, (stage, kind, reason, count), as items."""
    return [
        encode(LossEvent(time_ns=time_ns, stage=stage, kind=kind, reason=reason, count=count))
        for stage, kind, reason, count in losses
    ]


def read(items: bytes) -> list[Head]:
    """The heads of a JSON array of items. Raises EnvelopeInvalid."""
    try:
        if not items.isascii():
            items.decode()  # the decoder does not look into text it skips
        return _heads.decode(items)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeInvalid(f"items: {error}") from None


def split(items: bytes) -> list[msgspec.Raw]:
    """Each item's bytes."""
    return _raws.decode(items)


def type_bits(types: frozenset[str]) -> int:
    """The bits of which a batch must have one, to hold an item of one of these types."""
    bits = 0
    for name in types:
        bits |= _BITS.get(name, _OTHER)
    return bits


def checked(query: Query) -> Query:
    """The query with its address in normal form and its limit in bounds. Raises QueryInvalid."""
    peer = query.peer
    if peer is not None:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            raise QueryInvalid(f"peer: {peer[:60]!r} is no address") from None
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        peer = str(mapped or address)
    unknown = set(query.cls) - set(CLASSES)
    if unknown or not query.cls:
        raise QueryInvalid(f"class: there are {', '.join(CLASSES)}")
    if not 1 <= query.limit <= 1000:
        raise QueryInvalid("limit: between 1 and 1000")
    if query.cursor is not None and query.after is not None:
        raise QueryInvalid("cursor and after: one of them")
    for instant in (query.since_ns, query.until_ns):
        if instant is not None and not 0 <= instant <= MOST_INTEGER:
            raise QueryInvalid("an instant is out of range")
    return msgspec.structs.replace(query, peer=peer)


def fulfils(head: Head, time_ns: int, query: Query) -> bool:
    """Whether an item is one that a (checked) query asks for; `time_ns` is its instant."""
    if query.types and head.type not in query.types:
        return False
    if not query.losses and head.type == "loss":
        return False
    if query.since_ns is not None and time_ns < query.since_ns:
        return False
    if query.until_ns is not None and time_ns >= query.until_ns:
        return False
    if query.peer is not None and query.peer not in (head.src, head.dst):
        return False
    if query.policy is not None and query.policy != head.policy:
        return False
    if query.verdict is not None and query.verdict != head.verdict:
        return False
    return query.name is None or _named(head.name, query.name)


def _named(name: str | None, wanted: str) -> bool:
    if name is None:
        return False
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted
