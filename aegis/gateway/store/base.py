"""The contract of a store: what it keeps, what may be asked of it, and when a write counts.

A write that returned is committed and survives the loss of power. Instants are nanoseconds since 1970. Items are kept
as the JSON object that came, byte for byte; what a query may name is read off them once, when they come in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

# The place in it is a class's number in the tables; the order is the priority of `aegis.model.block`.
CLASSES: tuple[str, ...] = ("finding", "verdict", "event", "flow", "sample")
LIMIT = 1000  # items of a page, at most


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One agent for ever: `uid` follows from `key` (32 raw bytes), and neither changes.

    `capabilities`, `platform` and `network` are JSON text. `floor` is the lowest protocol version it may speak.
    """

    uid: str
    key: bytes
    agent_id: str
    host_id: str
    org_id: str
    version: str
    machine_id_hash: str
    capabilities: str
    platform: str
    network: str
    labels: tuple[str, ...] = ()
    note: str = ""
    created_ns: int
    last_seen_ns: int
    floor: int = 1


class Batch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Items `first`, `first + 1`, ... of one (agent, boot, stream, class): checked, not yet stored.

    `items` is the JSON array as it came. `types` has a bit for each `type` in it (`store.items.TYPES`); `peers` are
    the addresses (normal text form, source and destination), `policies` the policies' names; each once.
    """

    uid: str
    cls: str
    stream: int
    first: int
    count: int
    boot_id: str
    items: bytes
    oldest_ns: int
    newest_ns: int
    types: int
    peers: frozenset[str]
    policies: frozenset[str]
    received_ns: int


class Appended(NamedTuple):
    """What became of a batch: `next` is where its cursor stands, `fresh` how many of its items were new."""

    next: int
    fresh: int


class Cursor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All items of (boot, stream, class) before `next` are stored, or known to be lost.

    The boot is part of it: an agent that lost its start counter must not have its new items taken for old ones.
    """

    boot_id: str
    stream: int
    cls: str
    next: int


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which items, newest first: every condition that is given must hold.

    `uid` one agent; `types` any of them; `since_ns` <= time < `until_ns`; `peer` an address that is source or
    destination; `policy` and `verdict` by name; `name` of a sample (`cpu.*` with the star: a prefix).
    `cursor` goes on where a page ended. `after` turns the order round: items that were stored later than that place,
    in the order of their coming (what a follower asks); "" is the beginning, `Store.place()` is now. Without `losses`
    what tells of lost items, which is kept with their class, is left out.
    """

    cls: tuple[str, ...] = ("event",)
    uid: str | None = None
    types: frozenset[str] = frozenset()
    since_ns: int | None = None
    until_ns: int | None = None
    peer: str | None = None
    policy: str | None = None
    verdict: str | None = None
    name: str | None = None
    losses: bool = True
    limit: int = 100
    cursor: str | None = None
    after: str | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One stored item: whose, when it says it happened, when it came, and its JSON object."""

    uid: str
    time_ns: int
    received_ns: int
    json: bytes


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """`next` is the `cursor` (or, of a query with `after`, the `after`) of the next page; None: there is none yet."""

    items: list[Item]
    next: str | None


class MessageRow(msgspec.Struct, frozen=True, kw_only=True):
    """An order to one agent, and what became of it.

    `status`: queued (not yet on the wire), sent (its bytes were written), answered, expired (ttl over before it could
    be sent), failed (`error` says why). `body` is the JSON object the agent gets. `answer` is the JSON object it sent.
    """

    id: str
    uid: str
    command_id: str
    channel: str
    type: str
    body: str
    status: str
    error: str = ""
    created_ns: int
    expires_ns: int
    sent_ns: int | None = None
    answered_ns: int | None = None
    answer: str | None = None


class MessageChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of a message; None leaves a column as it is."""

    id: str
    status: str
    error: str = ""
    sent_ns: int | None = None
    answered_ns: int | None = None
    answer: str | None = None


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """Retention of one class: what is older than `age_ns` goes, then the oldest while more than `total_bytes` is kept."""

    age_ns: int
    total_bytes: int


DAY_NS = 86_400 * 1_000_000_000
RETENTION: dict[str, Keep] = {
    "event": Keep(age_ns=7 * DAY_NS, total_bytes=1 << 30),
    "flow": Keep(age_ns=3 * DAY_NS, total_bytes=1 << 30),
    "verdict": Keep(age_ns=7 * DAY_NS, total_bytes=256 << 20),
    "finding": Keep(age_ns=30 * DAY_NS, total_bytes=256 << 20),
    "sample": Keep(age_ns=1 * DAY_NS, total_bytes=256 << 20),
}
MESSAGE_AGE_NS = 7 * DAY_NS


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What a class holds."""

    items: int
    bytes: int


class Store(Protocol):
    """All calls are made from one loop; each may raise StorageError, and then nothing of that call is kept."""

    async def open(self) -> None:
        """Make or bring up to date the tables. Raises StorageError, also where the data is of a later version."""

    async def close(self) -> None:
        """What was asked for before is done first. Twice is harmless."""

    async def probe(self) -> None:
        """Write something that changes nothing. Raises StorageError where the store takes no writes."""

    # Agents

    async def agents(self) -> list[AgentRow]:
        """Every agent, oldest first."""
        ...

    async def save_agent(self, row: AgentRow) -> None:
        """Insert, or change what may change of the agent with that key: never a second row, never another uid."""

    async def save_seen(self, seen: Iterable[tuple[str, int]]) -> None:
        """(uid, last_seen_ns) of agents heard from."""

    # Items

    def append(self, batches: Sequence[Batch]) -> Awaitable[list[Appended]]:
        """Store batches and move their cursors in one transaction; what became of each, in their order.

        What a cursor is already past is not stored again, in part or whole. Followers may see what is stored before
        this is done, which it is when no loss of power takes it away. Raises AgentUnknown.
        """
        ...

    async def cursors(self, uid: str) -> list[Cursor]:
        """Where each stream of an agent stands."""
        ...

    async def items(self, query: Query) -> Page:
        """The items that fulfil it. Raises QueryInvalid for a cursor that is none of ours."""
        ...

    async def place(self) -> str:
        """The `after` that means: from now on."""
        ...

    async def more(self, query: Query, within_s: float) -> None:
        """Wait until something is committed behind the query's `after` that it may ask for; so long at most."""

    def stop_waiting(self) -> None:
        """Every `more` ends, and none waits from now on."""

    async def totals(self) -> dict[str, Totals]:
        """What is kept, by class."""
        ...

    async def prune(self, now_ns: int, keep: dict[str, Keep], *, most_batches: int) -> int:
        """Delete a step of what retention no longer covers; the number of batches that went. 0: nothing is left to do."""
        ...

    # Messages

    async def add_messages(self, rows: Sequence[MessageRow]) -> None:
        """Keep new messages, all or none."""

    async def change_messages(self, changes: Sequence[MessageChange]) -> None:
        """Take down what became of them."""

    async def message(self, message_id: str) -> MessageRow | None:
        """One message, None when there is none (any more)."""
        ...

    async def waiting(self) -> list[MessageRow]:
        """Every message that is still queued, oldest first."""
        ...

    async def prune_messages(self, before_ns: int, *, most: int) -> int:
        """Delete messages made before that instant that are no longer queued; how many."""
        ...

    # Replay protection across restarts: (key, nonce) of an authentication is remembered for its window.

    async def save_nonces(self, nonces: Iterable[tuple[bytes, int]], now_s: int) -> None:
        """(digest, forget after s) of accepted authentications; those whose second is before `now_s` are forgotten."""

    async def nonces(self) -> list[tuple[bytes, int]]:
        """What is remembered."""
        ...
