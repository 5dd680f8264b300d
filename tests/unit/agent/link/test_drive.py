"""One connection: ends that are told apart, pings, and blocks that cannot be sent as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from aegis.agent.link import drive, keeper
from aegis.agent.link.drive import hint_of, lost, parts_of
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


@pytest.mark.parametrize(
    ("code", "reason", "seconds"),
    [
        (1013, "retry in 12 s", 12.0),
        (1012, "restarts; back in 1.5s", 1.5),
        (1001, "lame duck 7 s", 7.0),
        (1013, "no room", None),
        (1013, "12 seconds", None),
        (1013, "error 5xs", None),
        (1000, "retry in 12 s", None),
        (1008, "retry in 12 s", None),
        (1013, "999999999999 s", None),
        (1013, "", None),
    ],
)
def test_a_gateways_hint_is_read_from_its_reason(code: int, reason: str, seconds: float | None) -> None:
    assert hint_of(code, reason) == seconds
    closed = ConnectionClosedError(Close(code, reason), None)
    assert lost(closed).retry_s == seconds
    assert str(lost(closed)) == f"closed by the gateway: {code} {reason}".strip()


def test_a_gateways_reason_is_shown_without_its_control_characters() -> None:
    closed = ConnectionClosedError(Close(1013, "\x1b[2J retry in 5 s"), None)
    assert str(lost(closed)) == "closed by the gateway: 1013 \\x1b[2J retry in 5 s"
    assert lost(closed).retry_s == 5


def test_an_end_of_ours_says_so() -> None:
    closed = ConnectionClosedError(None, Close(1009, "too long"))
    assert str(lost(closed)) == "closed here: 1009 too long"


def test_an_end_without_a_close_frame_has_its_cause() -> None:
    closed = ConnectionClosedError(None, None)
    assert str(lost(closed)) == "the connection broke: no close frame came"
    closed.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert str(lost(closed)) == "the connection broke: Connection reset by peer"


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
