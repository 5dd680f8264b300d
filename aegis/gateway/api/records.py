"""Routes that read what agents sent: events, flows, findings, samples; pages newest first, or followed as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter, SkipValidation
from litestar.response import Stream
from msgspec import structs

from aegis.errors import QueryInvalid
from aegis.gateway.api.documents import RecordsPage
from aegis.gateway.api.instants import instant_ns, span_s
from aegis.gateway.api.items import Choice, address, chosen_page, spliced
from aegis.gateway.api.place import Place, ThePlace
from aegis.gateway.api.requests import JSON, NDJSON, prefers_ndjson
from aegis.gateway.store.base import CLASSES, Query
from aegis.model.event import TYPES
from aegis.runtime.clock import SystemClock

MOST_ITEMS = 1000  # of a page
MOST_STREAMED = 100_000  # of newline-delimited JSON
LONGEST_WAIT_S = 60.0
REST = 4
OFFERS = {"offers": (JSON, NDJSON)}
NOW = "now"

Name = Annotated[str | None, QueryParameter(max_length=256)]
Agent = Annotated[str | None, QueryParameter(description="uid of one agent", max_length=64)]
Since = Annotated[
    str | None,
    QueryParameter(description="RFC 3339 with a zone, or a span before now such as 5m", max_length=64),
]
Until = Annotated[str | None, QueryParameter(description="as since; what happened before", max_length=64)]
Verdict = Annotated[Literal["allow", "audit", "deny"] | None, QueryParameter()]
Pid = Annotated[int | None, QueryParameter(ge=0, le=2**32)]
Exe = Annotated[str | None, QueryParameter(description="path of the executable, exactly", max_length=4096)]
Process = Annotated[str | None, QueryParameter(description="part of the path or name", max_length=4096)]
Protocol = Annotated[str | None, QueryParameter(description="tcp, udp, ... or a number", max_length=16)]
Port = Annotated[int | None, QueryParameter(description="either end", ge=0, le=65535)]
Address = Annotated[str | None, QueryParameter(description="an address", max_length=64)]
Limit = Annotated[
    int | None,
    QueryParameter(
        description=f"at most so many (default 100); {MOST_ITEMS} of a page, {MOST_STREAMED} as {NDJSON}",
        ge=1,
        le=MOST_STREAMED,
    ),
]
Cursor = Annotated[str | None, QueryParameter(description="`next` of the page before", max_length=256)]
After = Annotated[
    str | None,
    QueryParameter(
        description="follow: items in order of coming after this place (`now`, then `next` of each answer)",
        max_length=256,
    ),
]
Wait = Annotated[
    str | None,
    QueryParameter(description="with after: wait so long for the first item, e.g. 20s", max_length=16),
]

_wall_ns = SystemClock().wall_ns
_monotonic_ns = SystemClock().monotonic_ns


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What every list may be asked: whose, from when, how many, and where to go on."""

    agent: str | None
    since: str | None
    until: str | None
    limit: int | None
    last: int | None
    cursor: str | None
    after: str | None
    wait: str | None


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions that the store's index answers, of what a policy judges."""

    peer: str | None
    verdict: str | None
    policy: str | None


def _asked(
    agent: Agent = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    last: Limit = None,
    cursor: Cursor = None,
    after: After = None,
    wait: Wait = None,
) -> Asked:
    return Asked(
        agent=agent, since=since, until=until, limit=limit, last=last, cursor=cursor, after=after, wait=wait
    )


def _judged(peer: Address = None, verdict: Verdict = None, policy: Name = None) -> Judged:
    return Judged(peer=peer, verdict=verdict, policy=policy)


def _choice(
    pid: Pid = None,
    exe: Exe = None,
    process: Process = None,
    protocol: Protocol = None,
    port: Port = None,
    src: Address = None,
    dst: Address = None,
) -> Choice:
    return Choice.of(pid=pid, exe=exe, process=process, protocol=protocol, port=port, src=src, dst=dst)


ASKED = {"asked": Provide(_asked, sync_to_thread=False)}
CHOSEN = {
    **ASKED,
    "judged": Provide(_judged, sync_to_thread=False),
    "choice": Provide(_choice, sync_to_thread=False),
}
TheAsked: TypeAlias = NamedDependency[SkipValidation[Asked]]
TheJudged: TypeAlias = NamedDependency[SkipValidation[Judged]]
TheChoice: TypeAlias = NamedDependency[SkipValidation[Choice]]


@get(
    "/events",
    opt=OFFERS,
    dependencies=CHOSEN,
    operation_id="listEvents",
    summary="Events and verdicts of the agents.",
)
async def list_events(
    place: ThePlace,
    request: Request[Any, Any, Any],
    asked: TheAsked,
    judged: TheJudged,
    choice: TheChoice,
    type_: Annotated[
        list[str] | None, QueryParameter(name="type", description="any of; may be repeated")
    ] = None,
) -> Response[RecordsPage]:
    types = frozenset(type_ or ())
    if unknown := types - set(TYPES):
        raise QueryInvalid(f"unknown type {min(unknown)[:40]!r}; known: {', '.join(TYPES)}")
    classes = tuple(
        name
        for name, wanted in (
            ("event", not types or types - {"verdict"}),
            ("verdict", not types or "verdict" in types),
        )
        if wanted
    )
    if "loss" in types:
        classes = CLASSES  # what was lost is told with the class it is of
    query = _query(classes, asked, **structs.asdict(judged), types=types)
    return await _answer(place, request, query, choice, asked)


@get(
    "/flows",
    opt=OFFERS,
    dependencies=CHOSEN,
    operation_id="listFlows",
    summary="Flow records of the agents.",
)
async def list_flows(
    place: ThePlace,
    request: Request[Any, Any, Any],
    asked: TheAsked,
    judged: TheJudged,
    choice: TheChoice,
) -> Response[RecordsPage]:
    """A flow has a record for each harvest that saw it change; its counters are totals, so the newest says all."""
    query = _query(("flow",), asked, **structs.asdict(judged), losses=False)
    return await _answer(place, request, query, choice, asked)


@get(
    "/findings",
    opt=OFFERS,
    dependencies=ASKED,
    operation_id="listFindings",
    summary="Findings of the agents.",
)
async def list_findings(
    place: ThePlace, request: Request[Any, Any, Any], asked: TheAsked
) -> Response[RecordsPage]:
    return await _answer(place, request, _query(("finding",), asked, losses=False), Choice.of(), asked)


@get(
    "/samples",
    opt=OFFERS,
    dependencies=ASKED,
    operation_id="listSamples",
    summary="Measured numbers of the agents.",
)
async def list_samples(
    place: ThePlace,
    request: Request[Any, Any, Any],
    asked: TheAsked,
    name: Annotated[
        str | None, QueryParameter(description="of what is measured; cpu.* for all of cpu")
    ] = None,
) -> Response[RecordsPage]:
    query = _query(("sample",), asked, name=name, losses=False)
    return await _answer(place, request, query, Choice.of(), asked)


def _query(classes: tuple[str, ...], asked: Asked, **more: Any) -> Query:
    now_ns = _wall_ns()
    since, until = asked.since, asked.until
    if asked.cursor is not None and asked.after is not None:
        raise QueryInvalid("cursor goes back, after goes on: give one of them")
    return Query(
        cls=classes,
        uid=asked.agent,
        since_ns=None if since is None else instant_ns(since, name="since", now_ns=now_ns),
        until_ns=None if until is None else instant_ns(until, name="until", now_ns=now_ns),
        cursor=asked.cursor,
        after=asked.after,
        **(more if more.get("peer") is None else more | {"peer": address(more["peer"], name="peer")}),
    )


async def _answer(
    place: Place,
    request: Request[Any, Any, Any],
    query: Query,
    choice: Choice,
    asked: Asked,
) -> Response[RecordsPage]:
    limit, last, wait = asked.limit, asked.last, asked.wait
    if limit is not None and last is not None:
        raise QueryInvalid("limit and last are the same: give one of them")
    most = limit or last or 100
    streamed = prefers_ndjson(request)
    if streamed and query.after is not None:
        raise QueryInvalid(f"following needs its `next`, which {NDJSON} cannot say: ask for {JSON}")
    if not streamed and most > MOST_ITEMS:
        raise QueryInvalid(f"a page has at most {MOST_ITEMS} items; as {NDJSON} up to {MOST_STREAMED}")
    if wait is not None and query.after is None:
        raise QueryInvalid("wait is for followers: give after=now first")
    wait_s = 0.0 if wait is None else span_s(wait, name="wait", most=LONGEST_WAIT_S)
    if streamed:
        # The first page before the answer begins, so that what is wrong with the query is said by a status.
        first = await chosen_page(place.hub, query, choice, min(most, MOST_ITEMS))
        lines = _lines(place, query, choice, first, most)
        return cast(Response[RecordsPage], Stream(lines, media_type=NDJSON))
    items, next_ = await _page(place, query, choice, most, wait_s)
    # The bytes of a RecordsPage: the items are not read again.
    return cast(Response[RecordsPage], Response(spliced(items, next_), media_type=MediaType.JSON))


async def _page(
    place: Place, query: Query, choice: Choice, most: int, wait_s: float
) -> tuple[list[bytes], str | None]:
    if query.after == NOW:
        query = _at(query, after=await place.hub.place())
        if not wait_s:
            return [], query.after
    deadline_ns = _monotonic_ns() + int(wait_s * 1e9)
    while True:
        began_ns = _monotonic_ns()
        items, next_ = await chosen_page(place.hub, query, choice, most)
        now_ns = _monotonic_ns()
        left_s = (deadline_ns - now_ns) / 1e9
        if items or left_s <= 0 or place.stopping.is_set():
            return items, next_
        if next_ is not None and next_ != query.after:
            query = _at(query, after=next_)  # what came in between was not of the choice
            # Whoever is woken for what it does not want looks a fifth of the time at most.
            await asyncio.sleep(min(REST * (now_ns - began_ns) / 1e9, left_s))
            continue
        await place.hub.more(query, left_s)


async def _lines(
    place: Place, query: Query, choice: Choice, first: tuple[list[bytes], str | None], most: int
) -> AsyncIterator[bytes]:
    items, next_ = first
    while True:
        if items:
            yield b"\n".join(items) + b"\n"
            most -= len(items)
        if next_ is None or most <= 0 or place.stopping.is_set():
            return
        query = _at(query, cursor=next_)
        items, next_ = await chosen_page(place.hub, query, choice, min(most, MOST_ITEMS))


def _at(query: Query, **where: str) -> Query:
    return structs.replace(query, **where)


ROUTES = (list_events, list_flows, list_findings, list_samples)
