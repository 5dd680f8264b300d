"""One connection: ends that are told apart, pings, and blocks that cannot be sent as they are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aegis.agent.link import dial, drive, keeper
from aegis.agent.link.drive import parts_of
from aegis.agent.link.unsaid import Change
from aegis.agent.outbox.shelf import MOST_LOSSES
from aegis.model.block import Block, BlockClass
from aegis.model.event import ExecEvent, LossEvent
from aegis.model.link import LinkState
from aegis.model.process import Ancestor, Cgroup, Process
from aegis.model.records import encode
from tests.support.linked import Linked, comes
from tests.support.small_gateway import SmallGateway, serving

LOSS = encode(LossEvent(time_ns=5, stage="ring", kind="exec", reason="ring_full", count=1), 0)


def block(first: int, records: bytes, count: int, **more: Any) -> Block:
    return Block(
        cls=BlockClass.EVENT, stream=1, first=first, count=count, boot_id=bytes(16), base_ns=0, records=records, **more
    )  # fmt: skip


async def test_a_peer_that_answers_no_ping_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "PONG_S", 0.2)
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path, heartbeat_interval_s=0.05)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            await comes(lambda: len(gateway.heartbeats) > 10)  # pongs came all the while
            assert gateway.opened == 1
            gateway.links[0].connection.transport.pause_reading()
            await comes(lambda: linked.pauses)
            assert "answered no ping" in linked.uplink.status().reason or gateway.opened > 1
            await comes(lambda: gateway.opened >= 2)


async def test_losses_are_told_once_where_a_block_becomes_many_batches(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        linked.shelf.put(block(0, LOSS * 600, 600, losses=(("queue", "event", "queue_full", 1),)))
        async with linked.kept():
            await comes(lambda: (1, BlockClass.EVENT, 600) in linked.shelf.acknowledgements)
    assert len(gateway.batches) > 1
    assert [len(batch.losses) for batch in gateway.batches] == [1] + [0] * (len(gateway.batches) - 1)


async def test_a_record_of_any_length_arrives_whatever_else_is_told_with_it(tmp_path: Path) -> None:
    """As long as texts of a process may be, and as many losses as a block tells of, are one batch a gateway takes."""
    process = Process(
        pid=7, start_ns=8, ppid=1, uid=0, gid=0, comm=b"x" * 15, exe=b"/" + b"\x01" * 4094, exe_deleted=False,
        exe_truncated=False, args=b"\x01" * 16_000 + b"\0", args_total=16_001, cwd=b"/" + b"\x01" * 4094,
        cgroup=Cgroup(id=1, path="/" + "\x01" * 4094, unit="\x01" * 255),
        ancestors=(Ancestor(pid=1, start_ns=2, comm=b"\x01" * 15, exe=b"\x01" * 4095),) * 16,
    )  # fmt: skip
    long = encode(ExecEvent(time_ns=5, owner=process), 0)
    losses = tuple(("s" * 64, "k" * 64, f"{number:064}", 1 << 62) for number in range(MOST_LOSSES))
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        linked.shelf.put(block(0, LOSS * 200 + long + LOSS * 200, 401, losses=losses))
        async with linked.kept():
            await comes(lambda: (1, BlockClass.EVENT, 401) in linked.shelf.acknowledgements)
    assert gateway.refused == []
    assert sum(len(batch.items) for batch in gateway.batches) == 401
    assert len(gateway.batches[0].losses) == MOST_LOSSES
    (found,) = (
        one
        for batch in gateway.batches
        for item in batch.items
        if (one := msgspec.json.decode(item))["type"] == "exec"
    )
    assert (found["pid"], found["args"], found["args_bytes"]) == (7, None, 16_001)


SHORT = Process(
    pid=7, start_ns=8, ppid=1, uid=0, gid=0, comm=b"sh", exe=b"/bin/sh", exe_deleted=False, exe_truncated=False,
    args=b"sh\0", args_total=3, cwd=b"/", cgroup=Cgroup(id=1, path="/", unit=None),
    ancestors=(Ancestor(pid=1, start_ns=2, comm=b"init", exe=b"/sbin/init"),),
)  # fmt: skip


async def test_items_share_with_a_gateway_that_takes_it(tmp_path: Path) -> None:
    records = encode(ExecEvent(time_ns=5, owner=SHORT), 0) * 300
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        linked.shelf.put(block(0, records, 300))
        async with linked.kept():
            await comes(lambda: (1, BlockClass.EVENT, 300) in linked.shelf.acknowledgements)
    assert gateway.refused == []
    (batch,) = gateway.batches
    assert len(batch.shared) == 2
    plain = [
        one
        for _, items, shared in parts_of(block(0, records, 300), shares=False)
        for one in msgspec.json.decode(items)
        if shared == b""
    ]
    assert gateway.items("event") == plain
    assert len(plain) == 300


async def test_a_block_that_cannot_be_read_is_told_as_a_loss_and_holds_nobody_up(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        linked.shelf.put(block(0, b"\xff" * 20, 3))
        linked.shelf.put(block(3, LOSS, 1))
        async with linked.kept():
            await comes(lambda: (1, BlockClass.EVENT, 4) in linked.shelf.acknowledgements)
    assert [(batch.first, len(batch.items), batch.losses) for batch in gateway.batches] == [
        (0, 1, ()),
        (3, 1, ()),
    ]


async def test_a_session_that_is_over_is_followed_by_another_at_once(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            for count in (1, 2):  # the first is answered by a registration on the same connection
                await comes(lambda: len(gateway.registrations) == count)  # noqa: B023
                await gateway.links[0].connection.send(
                    '{"id":"x","type":"response","channel":"error","payload":'
                    '"{\\"message\\":\\"agent not registered\\"}","timestamp":1,"nonce":"","signature":"","headers":{}}'
                )
            await comes(lambda: gateway.opened == 2)
            await comes(lambda: linked.uplink.connected)
            assert linked.codes() == set()
            assert linked.pauses == [0.0]
            assert linked.uplink.status().state is LinkState.CONNECTED


OFFER_OF_NOTHING = (
    '{"id":"x","type":"response","channel":"agent.registration","payload":"e30=","timestamp":1}'
)


async def test_who_answers_nonsense_is_left_as_a_breach_of_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = SmallGateway()

    async def nonsense(link: Any, one: Any) -> None:
        await link.connection.send(OFFER_OF_NOTHING.replace("agent.registration", "auth"))

    monkeypatch.setattr(gateway, "_take", nonsense)
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: gateway.closes)
            assert gateway.closes[0] == "1002 protocol: auth: Object missing required field `success`"
            assert linked.codes() == {"gateway_unreachable"}


async def test_who_refuses_is_told_goodbye_and_why(tmp_path: Path) -> None:
    gateway = SmallGateway()
    gateway.refuses = "no \u00e9" + "x" * 300
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: gateway.closes)
    assert gateway.closes[0].startswith("1000 the gateway refused: no \u00e9x")
    assert len(gateway.closes[0].removeprefix("1000 ").encode()) == 123  # what a close frame holds


async def test_who_sends_errors_without_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "MOST_COMPLAINTS", 20)
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            for _ in range(20):
                await gateway.links[0].connection.send(b"x")
            await comes(lambda: gateway.closes)
    assert gateway.closes[0] == "1002 20 of its frames were errors"


async def test_a_tick_that_fails_ends_the_connection_and_not_the_ticking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = SmallGateway()
    broken = [True]
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path, heartbeat_interval_s=0.05)
        beat = keeper.Keeper._beat

        def fails(one: keeper.Keeper) -> None:
            if broken[0]:
                broken[0] = False
                raise ZeroDivisionError("in a callback")
            beat(one)

        monkeypatch.setattr(keeper.Keeper, "_beat", fails)
        async with linked.kept():
            await comes(lambda: gateway.closes)
            assert gateway.closes == ["1011 an error of the agent's own"]
            before = len(gateway.heartbeats)
            await comes(lambda: len(gateway.heartbeats) > before + 5)
            assert linked.codes() == set()
            assert gateway.opened == 2


class Offered:
    """Notes what is offered to the connection, which `takes` it or says that there is no room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.last: list[str | bytearray] = []
        self.takes = True
        offer = dial.Connection.offer

        def noting(connection: dial.Connection, frame: str | bytearray) -> bool:
            self.count += 1
            self.last.append(frame)
            return self.takes and offer(connection, frame)

        monkeypatch.setattr(dial.Connection, "offer", noting)


@contextlib.asynccontextmanager
async def settled(gateway: SmallGateway, state: Path) -> AsyncIterator[Linked]:
    """An end of a new connection on which all that is said at first was said, and nothing is on its way."""
    async with serving(gateway) as url:
        linked = Linked(url, state)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            linked.shelf.put(block(0, LOSS, 1))
            await comes(lambda: (1, BlockClass.EVENT, 1) in linked.shelf.acknowledgements)
            await asyncio.sleep(0.05)
            yield linked


async def test_a_block_of_one_batch_is_written_in_the_turn_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = Offered(monkeypatch)
    made: list[int] = []  # counts of the blocks that became JSON
    parts = drive.parts_of

    def noting(one: Block, **more: Any) -> Any:
        made.append(one.count)
        return parts(one, **more)

    monkeypatch.setattr(drive, "parts_of", noting)
    gateway = SmallGateway()
    async with settled(gateway, tmp_path) as linked:
        before = offered.count
        linked.shelf.put(block(1, LOSS * 511, 511))
        assert offered.count == before + 1
        linked.shelf.put(block(512, LOSS * 600, 600))
        linked.shelf.put(block(1112, LOSS, 1))
        assert offered.count == before + 1  # nothing overtakes what is more than a batch
        await comes(lambda: (1, BlockClass.EVENT, 1113) in linked.shelf.acknowledgements)
    assert gateway.refused == []
    assert sum(len(batch.items) for batch in gateway.batches) == 1113
    assert [batch.first for batch in gateway.batches] == sorted(batch.first for batch in gateway.batches)
    assert [batch.first for batch in gateway.batches][:3] == [0, 1, 512]
    assert made == [1, 511, 600, 1]  # none twice


async def test_what_is_left_behind_a_block_at_once_is_the_writing_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source gives less than it has, and says so: nobody would call again."""
    gateway = SmallGateway()
    async with settled(gateway, tmp_path) as linked:
        give = linked.shelf.sendable
        monkeypatch.setattr(linked.shelf, "sendable", lambda _most: give(1))
        linked.shelf.waiting.append(block(1, LOSS, 1))
        linked.shelf.waiting.append(block(2, LOSS, 1))
        linked.shelf.put(block(3, LOSS, 1))
        await comes(lambda: (1, BlockClass.EVENT, 4) in linked.shelf.acknowledgements)
    assert [batch.first for batch in gateway.batches] == [0, 1, 2, 3]


async def test_a_block_there_is_no_room_for_goes_first_when_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = Offered(monkeypatch)
    made: list[drive.Drive] = []
    run = drive.Drive.run

    async def running(self: drive.Drive) -> None:
        made.append(self)
        await run(self)

    monkeypatch.setattr(drive.Drive, "run", running)
    gateway = SmallGateway()
    async with settled(gateway, tmp_path) as linked:
        offered.takes = False
        linked.shelf.put(block(1, LOSS, 1))
        offered.takes = True
        made[0]._session.state({"x": 1}, wall_s=int(time.time()))
        linked.shelf.put(block(2, LOSS, 1))
        left, first = offered.last[-1], len(offered.last)
        await comes(lambda: (1, BlockClass.EVENT, 3) in linked.shelf.acknowledgements)
    assert gateway.refused == []
    assert offered.last[first] is left
    assert [batch.first for batch in gateway.batches] == [0, 1, 2]


async def test_what_is_to_be_said_goes_before_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = Offered(monkeypatch)
    gateway = SmallGateway()
    async with settled(gateway, tmp_path) as linked:
        before = offered.count
        linked.uplink.unsaid.change(Change(subject=("x",), state={"x": 1}))
        linked.shelf.put(block(1, LOSS, 1))
        assert offered.count == before
        await comes(lambda: (1, BlockClass.EVENT, 2) in linked.shelf.acknowledgements)


async def test_a_mistake_while_a_block_is_written_at_once_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = SmallGateway()
    async with settled(gateway, tmp_path) as linked:
        with monkeypatch.context() as patched:
            patched.setattr(drive, "parts_of", lambda *_, **__: 1 / 0)
            linked.shelf.put(block(1, LOSS, 1))  # nothing is raised to who has a record
        await comes(lambda: (1, BlockClass.EVENT, 2) in linked.shelf.acknowledgements)
    assert gateway.opened == 2
