"""Any request at the Actions API: an answer with a status that says what is wrong with it, never 500.

`METHOD TARGET`, a line for each header, an empty line, the body.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/gateway/api/requests.py",
    "aegis/gateway/api/instants.py",
    "aegis/gateway/api/records.py",
    "aegis/gateway/api/items.py",
    "aegis/gateway/store/items.py:checked",
    "aegis/gateway/store/reading.py:_place",
    "aegis/gateway/store/reading.py:_after",
)
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD")
MOST = 1 << 63


@functools.cache
def running() -> Any:
    """The application, a loop of its own for it, and the hub behind it, which reads cursors as the store does."""
    from aegis.gateway.api import application
    from aegis.gateway.keys import OperatorToken
    from aegis.gateway.store import items, reading
    from tests.support.api import TOKEN, ScriptedHub

    class Hub(ScriptedHub):
        async def items(self, query: Any) -> Any:
            query = items.checked(query)
            before = reading._place(query.cursor)
            after = None if query.after is None else reading._after(query.after)
            assert all(0 <= each < MOST for each in (*(before or ()), *(after or ())))  # of a column
            return await super().items(_numbered(query, before, after))

        async def place(self) -> str:
            return f"{len(self.stored)}.0"

    loop = asyncio.new_event_loop()
    hub = Hub()
    hub.store(
        {"type": "exec", "pid": 7, "exe": "/bin/true"},
        {"type": "connect", "pid": 7, "protocol": "tcp", "src": "10.0.0.1", "dst": "10.0.0.2", "dst_port": 80},
        {"type": "exec", "pid": "seven"},
    )

    async def made() -> Any:
        return application(hub, OperatorToken(TOKEN), allow_v1=True, version="0.1.0")

    return loop.run_until_complete(made()), loop


def _numbered(query: Any, before: Any, after: Any) -> Any:
    """The query with the places as the scripted hub has them."""
    from msgspec import structs

    return structs.replace(
        query,
        cursor=None if before is None else str(before[0]),
        after=None if after is None else str(after[0]),
    )


async def asked(app: Any, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
    """Status and body of one request."""
    told: list[dict[str, Any]] = []
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return sent.pop() if sent else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await app(scope, receive, send)
    return told[0]["status"], b"".join(each.get("body", b"") for each in told[1:])


def one(data: bytes) -> None:
    import json

    from tests.support.api import TOKEN

    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.partition(b"?")
    told = [(b"authorization", b"Bearer " + TOKEN.encode())]
    told += [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    app, loop = running()
    app.place.stopping.clear()
    if b"wait=" not in query:  # nobody waits for what does not come
        app.place.stopping.set()
    word = method.decode("latin-1")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
        "method": word if word in METHODS else "GET", "path": "/" + path.decode("utf-8", "replace").lstrip("/"),
        "raw_path": path, "query_string": query, "headers": told, "client": ("127.0.0.1", 1), "server": ("h", 1),
    }  # fmt: skip
    with mock_wait():
        status, answer = loop.run_until_complete(asked(app, scope, body))
    assert status < 500 or status == 501, (status, answer)
    if status >= 400 and answer:
        problem = json.loads(answer)
        assert problem["code"] != "internal_error"
    elif answer and not path.startswith((b"/metrics", b"metrics")):
        for line in answer.splitlines():
            json.loads(line)


def mock_wait() -> Any:
    """Followers give up after a thousandth of a second."""
    from unittest import mock

    from aegis.gateway.api import records

    return mock.patch.multiple(records, LONGEST_WAIT_S=0.002, POLL_S=0.001)


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("api")
