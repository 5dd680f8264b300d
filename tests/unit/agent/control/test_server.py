"""The control socket with real clients; what is behind the verbs is the test's own."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosedError

from aegis.agent.control.envelope import MAX_REQUEST_BYTES
from aegis.agent.control.peers import Peer
from aegis.agent.control.server import KEPT_FOR_ROOT, MAX_CONNECTIONS, MAX_REQUESTS, OPENING, ControlServer
from aegis.agent.control.verbs import Verb, Verbs
from aegis.errors import PolicyNotFound, StorageError
from aegis.runtime import log

ALL = MAX_CONNECTIONS + OPENING
TABLE = (
    Verb(name="echo", help="h.", args={"n": int}),
    Verb(name="fail", help="h."),
    Verb(name="bug", help="h."),
    Verb(name="forever", help="h."),
    Verb(name="change", help="h.", changes=True),
)


class Served:
    def __init__(self, server: ControlServer) -> None:
        self.server = server
        self.path = server.path
        self.left = asyncio.Event()

    def connect(self) -> unix_connect:
        return unix_connect(self.path, "ws://localhost/", compression=None, ping_interval=None)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[Served]:
    verbs = Verbs(TABLE)
    server = ControlServer(str(path / "agent.sock"), verbs, log.logger())
    served = Served(server)

    async def echo(args: dict[str, Any]) -> list[object]:
        return [args] * args.get("n", 1)

    async def fail(_: dict[str, Any]) -> list[object]:
        raise PolicyNotFound("p", "is not there", hint="look")

    async def bug(_: dict[str, Any]) -> list[object]:
        raise ZeroDivisionError

    async def forever(_: dict[str, Any]) -> AsyncGenerator[object, None]:
        try:
            yield "begun"
            await asyncio.Event().wait()
        finally:
            served.left.set()

    with (
        verbs.answer("echo", echo),
        verbs.answer("fail", fail),
        verbs.answer("bug", bug),
        verbs.stream("forever", forever),
        verbs.answer("change", echo),
    ):
        await server.open()
        try:
            yield served
        finally:
            await server.close()


async def ask(client: ClientConnection, verb: str, identity: int = 1, **args: Any) -> list[dict[str, Any]]:
    await client.send(json.dumps({"id": identity, "verb": verb, "args": args}))
    return await answers(client)


async def answers(client: ClientConnection) -> list[dict[str, Any]]:
    found = []
    while True:
        found.append(json.loads(await client.recv()))
        if "item" not in found[-1]:
            return found


async def test_items_then_the_end(tmp_path: Path) -> None:
    async with served(tmp_path) as it, it.connect() as client:
        assert await ask(client, "echo", 5, n=3) == [{"id": 5, "item": {"n": 3}}] * 3 + [
            {"id": 5, "end": True}
        ]


async def test_a_failure_is_an_answer_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path) as it, it.connect() as client:
        (refused,) = await ask(client, "fail")
        assert (refused["error"]["code"], refused["error"]["hint"]) == ("policy_not_found", "look")
        (broken,) = await ask(client, "bug")
        assert broken["error"]["code"] == "aegis_error"
        (unknown,) = await ask(client, "nonsense")
        assert unknown["error"]["code"] == "envelope_invalid"
        assert len(await ask(client, "echo")) == 2


@pytest.mark.parametrize("frame", ["", "x", b"\x00", "[]", '{"id": 1}', "{" * 1000, '{"verb": "echo"}'])
async def test_garbage_gets_a_typed_error(tmp_path: Path, frame: str | bytes) -> None:
    async with served(tmp_path) as it, it.connect() as client:
        await client.send(frame)
        assert json.loads(await client.recv())["error"]["code"] == "envelope_invalid"
        assert len(await ask(client, "echo")) == 2
        assert it.server.refused == 1


async def test_a_frame_over_the_cap_ends_only_its_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as it, it.connect() as good:
        bad = await it.connect()
        await bad.send(" " * (MAX_REQUEST_BYTES + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            await bad.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        await bad.wait_closed()
        assert len(await ask(good, "echo")) == 2


async def test_bytes_that_are_no_websocket_disturb_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(11)
    async with served(tmp_path) as it, it.connect() as good:
        for _ in range(53):
            with socket.socket(socket.AF_UNIX) as bad:
                bad.connect(it.path)
                bad.sendall(chance.randbytes(chance.choice((0, 1, 17, 4096))))
            assert len(await ask(good, "echo")) == 2
    assert capfd.readouterr().err == ""


async def test_requests_of_one_connection_run_side_by_side_up_to_a_number(tmp_path: Path) -> None:
    async with served(tmp_path) as it, it.connect() as client:
        for number in range(MAX_REQUESTS):
            await client.send(json.dumps({"id": number, "verb": "forever"}))
            assert json.loads(await client.recv()) == {"id": number, "item": "begun"}
        (refused,) = await ask(client, "echo", 99)
        assert (refused["id"], refused["error"]["code"]) == (99, "envelope_invalid")


async def test_a_client_that_goes_away_ends_its_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        async with it.connect() as client:
            await client.send('{"id": 1, "verb": "forever"}')
            await client.recv()
        async with asyncio.timeout(10):
            await it.left.wait()


async def test_close_ends_live_streams(tmp_path: Path) -> None:
    async with served(tmp_path) as it, it.connect() as client:
        await client.send('{"id": 1, "verb": "forever"}')
        await client.recv()
        async with asyncio.timeout(10):
            await it.server.close()
            with pytest.raises(Exception, match="1001"):
                await client.recv()
        assert it.left.is_set()
        assert not os.listdir(tmp_path)


async def test_too_many_clients_are_turned_away(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        clients = [await it.connect() for _ in range(MAX_CONNECTIONS)]
        try:
            assert len(await ask(clients[-1], "echo")) == 2
            async with it.connect() as late:
                with pytest.raises(Exception, match="1013"):
                    await late.recv()
        finally:
            for client in clients:
                await client.close()


async def half_open(path: str) -> socket.socket:
    """A connection that says nothing, once the server has taken it or cut it."""
    one = socket.socket(socket.AF_UNIX)
    one.setblocking(False)
    one.connect(path)
    await asyncio.sleep(0)
    return one


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  what the kernel says of the sockets tells nobody
            await asyncio.sleep(0.005)


async def test_connections_that_say_nothing_are_bounded(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        silent = [await half_open(it.path) for _ in range(ALL + 23)]
        try:
            await until(lambda: cut(silent) == 23)
            assert len(it.server._there) == ALL
        finally:
            for one in silent:
                one.close()
        await until(lambda: not it.server._there)
        async with it.connect() as client:
            assert len(await ask(client, "echo")) == 2


def cut(connections: list[socket.socket]) -> int:
    """How many of them the server has ended."""
    count = 0
    for one in connections:
        try:
            count += not one.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        except ConnectionError:
            count += 1
    return count


async def test_root_has_places_of_its_own_among_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "may_change", property(lambda _: ordinary_may_change))
    ordinary_may_change = False
    async with served(tmp_path) as it:
        silent = [await half_open(it.path) for _ in range(ALL)]
        try:
            await until(lambda: cut(silent) == KEPT_FOR_ROOT)
            ordinary_may_change = True
            async with it.connect() as client:
                assert len(await ask(client, "change")) == 2
        finally:
            for one in silent:
                one.close()


async def test_one_that_says_nothing_does_not_hold_the_exit(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        silent = await half_open(it.path)
        await until(lambda: bool(it.server._there))
        with silent:
            async with asyncio.timeout(2):  # a handshake may take 5 s
                await it.server.close()


async def test_the_mask_is_never_left_changed_over_an_await(tmp_path: Path) -> None:
    """What modules make while the socket is opened has the modes they asked for."""
    before = os.umask(0o022)
    seen: set[int] = set()

    async def look() -> None:
        while True:
            seen.add(os.umask(0o022))
            await asyncio.sleep(0)

    looking = asyncio.ensure_future(look())
    try:
        await asyncio.sleep(0)
        async with served(tmp_path):
            await asyncio.sleep(0)
    finally:
        looking.cancel()
        os.umask(before)
    assert seen == {0o022}


async def test_the_socket_is_for_root_and_the_group(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        mode = stat.S_IMODE(os.stat(it.path).st_mode)
        assert mode == (0o600 if it.server.group_missing else 0o660)


async def test_the_socket_of_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "agent.sock"))
    async with served(tmp_path) as it, it.connect() as client:
        assert len(await ask(client, "echo")) == 2


async def test_where_there_can_be_no_socket(tmp_path: Path) -> None:
    server = ControlServer(str(tmp_path / "no" / "agent.sock"), Verbs(()), log.logger())
    with pytest.raises(StorageError):
        await server.open()
    server = ControlServer(str(tmp_path / ("x" * 120)), Verbs(()), log.logger())
    with pytest.raises(StorageError, match="too long"):
        await server.open()
    assert not os.listdir(tmp_path)
