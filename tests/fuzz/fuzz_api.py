"""Any request at the Actions API: an answer with a status that says what is wrong with it, never 500.

`METHOD TARGET`, a line for each header, an empty line, the body. What HTTP itself refuses does not come this far. The
conditions of a query that the routes have checked already are the entry `items`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/gateway/api/requests.py",
    "aegis/gateway/api/instants.py",
    "aegis/gateway/api/records.py",
    "aegis/gateway/api/items.py",
    "aegis/gateway/store/reading.py:_place",
    "aegis/gateway/store/reading.py:place_after",
)
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD")
MOST = 1 << 63


@functools.cache
def running() -> Any:
    """The application over a hub that reads cursors as the store does."""
    import msgspec

    from aegis.gateway.api import application
    from aegis.gateway.keys import OperatorToken
    from aegis.gateway.store import items, reading
    from tests.support.api import TOKEN, ScriptedHub

    class Hub(ScriptedHub):
        async def items(self, query: Any) -> Any:
            query = items.checked(query)
            before = reading._place(query.cursor)
            after = None if query.after is None else reading.place_after(query.after)
            assert all(-1 <= each < MOST for each in (*(before or ()), *(after or ())))  # of a column
            page = await super().items(_numbered(query, before, after))
            rest = ".0.0" if after is None else ".0"
            return msgspec.structs.replace(page, next=None if page.next is None else page.next + rest)

        async def place(self) -> str:
            return f"{len(self.stored)}.0"

    hub = Hub()
    hub.store(
        {"type": "exec", "pid": 7, "exe": "/bin/true"},
        {
            "type": "connect",
            "pid": 7,
            "protocol": "tcp",
            "src": "10.0.0.1",
            "dst": "10.0.0.2",
            "dst_port": 80,
        },
        {"type": "exec", "pid": "seven"},
        {"type": "exec", "pid": 7, "comm": "true"},
        {"type": "exec", "pid": 7, "comm": "true"},
    )
    hub.stored.append(msgspec.structs.replace(hub.stored[0], json=b"{}"))
    return application(hub, OperatorToken(TOKEN), allow_v1=True, version="0.1.0")


def _numbered(query: Any, before: Any, after: Any) -> Any:
    """The query with the places as the scripted hub has them."""
    from msgspec import structs

    return structs.replace(
        query,
        cursor=None if before is None else str(before[0]),
        after=None if after is None else str(after[0]),
    )


async def asked(app: Any, scope: dict[str, Any], body: bytes) -> tuple[int, bytes, bytes]:
    """Status, media type and body of one request."""
    told: list[dict[str, Any]] = []
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return sent.pop() if sent else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await app(scope, receive, send)
    media_type = dict(told[0]["headers"]).get(b"content-type", b"")
    return told[0]["status"], media_type, b"".join(each.get("body", b"") for each in told[1:])


def one(data: bytes) -> None:
    import json

    from aegis.gateway.api.repeats import Repeats
    from tests.support.api import TOKEN

    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.partition(b" ")
    # What the server takes off the wire: other bytes of a target are refused there.
    target = b"".join(bytes((each,)) if 0x21 <= each <= 0x7E else b"%%%02X" % each for each in target)
    path, _, query = target.partition(b"?")
    told = [(b"authorization", b"Bearer " + TOKEN.encode())]
    told += [
        (name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)
    ]
    app = running()
    app.place.stopping, app.place.repeats = asyncio.Event(), Repeats()  # of this request's loop
    if b"wait=" not in query and b"ndjson" not in head:  # nobody waits for what does not come
        app.place.stopping.set()
    word = method.decode("latin-1")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
        "method": word if word in METHODS else "GET", "path": "/" + path.decode("utf-8", "replace").lstrip("/"),
        "raw_path": path, "query_string": query, "headers": told, "client": ("127.0.0.1", 1), "server": ("h", 1),
    }  # fmt: skip
    with small(), asyncio.Runner() as runner:
        status, media_type, answer = runner.run(asked(app, scope, body))
    assert status < 500 or status == 501, (status, answer)
    if b"json" in media_type:
        for line in answer.split(b"\n"):
            assert not line or isinstance(json.loads(line), dict)


@contextlib.contextmanager
def small() -> Iterator[None]:
    """Followers give up after a few thousandths of a second, and a page is soon full."""
    from unittest import mock

    from aegis.gateway.api import items, records

    with (
        mock.patch.multiple(records, LONGEST_WAIT_S=0.004),
        mock.patch.multiple(items, LIMIT=2, MOST_LOOKED_AT=4),
    ):
        yield


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("api")
