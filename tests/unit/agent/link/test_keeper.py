"""The link kept against a gateway on the loopback: states, identity, conditions, pauses."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import cbor2
import pytest

from aegis.agent import identity, private_file
from aegis.agent.link import keeper
from aegis.agent.link.dial import dial
from aegis.agent.link.unsaid import Change, Reply
from aegis.errors import StorageError
from aegis.model.block import Block, BlockClass
from aegis.model.event import LossEvent
from aegis.model.link import LinkState
from aegis.model.records import encode
from aegis.protocol.agent import AgentSession
from tests.support.linked import Linked, comes
from tests.support.small_gateway import SmallGateway, serving

EVENT = BlockClass.EVENT


def block(first: int, count: int, *, cls: BlockClass = EVENT, stream: int = 1) -> Block:
    loss = encode(LossEvent(time_ns=5, stage="ring", kind="exec", reason="ring_full", count=1), 0)
    return Block(
        cls=cls, stream=stream, first=first, count=count, boot_id=bytes(16), base_ns=0, records=loss * count
    )


async def test_an_agent_registers_once_and_comes_back_as_the_same(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        first = Linked(url, tmp_path)
        assert first.uplink.status().state is LinkState.DISCONNECTED
        async with first.kept():
            await comes(lambda: first.uplink.connected)
            status = first.uplink.status()
            assert (status.protocol, status.insecure_v1, status.url) == ("v1", True, f"{url}/ws/agent")
            assert isinstance(status.authenticated_ns, int)
            uid = status.uid
            await comes(lambda: gateway.heartbeats)
        assert first.uplink.status().state is LinkState.DISCONNECTED
        await comes(lambda: gateway.closes)
        assert gateway.closes == ["1000 websocket_communication was stopped"]
        second = Linked(url, tmp_path)
        async with second.kept():
            await comes(lambda: second.uplink.connected)
            assert second.uplink.status().uid == uid
        assert [one.uid for one in gateway.registrations] == [uid]
        assert [headers["X-Agent-ID"] for headers in gateway.headers] == [uid, uid]
        assert all(one.uid == uid for one in gateway.heartbeats)  # none came before the registration
        assert first.pauses == []


async def test_a_gateway_that_forgets_is_told_again(tmp_path: Path) -> None:
    """A deployed one makes a key and forgets its agents at each start, and says nothing of either."""
    first, restarted = SmallGateway(ours=False), SmallGateway(ours=False)
    async with serving(first) as url:
        for _ in range(2):
            linked = Linked(url, tmp_path)
            async with linked.kept():
                await comes(lambda: linked.uplink.connected)  # noqa: B023
    async with serving(restarted, int(url.rpartition(":")[2])):
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
    assert (len(first.registrations), len(restarted.registrations)) == (1, 1)
    assert first.registrations[0].uid == restarted.registrations[0].uid


async def test_the_uid_is_on_disk_before_success_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[LinkState] = []
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        remember = identity.Identity.remember

        def noted(one: identity.Identity, registration: identity.Registration) -> None:
            said.append(linked.uplink.status().state)
            remember(one, registration)

        monkeypatch.setattr(identity.Identity, "remember", noted)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
    assert said == [LinkState.REGISTERING]


async def test_a_key_that_cannot_be_trusted_says_nothing_to_anybody(tmp_path: Path) -> None:
    (tmp_path / "agent.key").symlink_to(tmp_path / "elsewhere")
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: "identity_unusable" in linked.codes())
            assert linked.uplink.status().state is LinkState.REFUSED
            assert str(tmp_path / "agent.key") in linked.uplink.status().reason
            (tmp_path / "agent.key").unlink()
            await comes(lambda: linked.uplink.connected)
            assert linked.codes() == set()
    assert gateway.opened == 1


async def test_nobody_there_is_backed_off_from_and_found_when_it_comes(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        pass
    linked = Linked(url, tmp_path)
    async with linked.kept():
        await comes(lambda: len(linked.pauses) >= 4)
        assert linked.uplink.status().state in {LinkState.BACKOFF, LinkState.CONNECTING}
        assert linked.codes() == {"gateway_unreachable"}
        assert all(pause <= 60 for pause in linked.pauses)
        assert linked.pauses[0] <= 5
        port = int(url.rpartition(":")[2])
        async with serving(gateway, port):
            await comes(lambda: linked.uplink.connected)
            assert linked.codes() == set()


async def test_a_gateway_that_refuses_is_named_and_asked_again(tmp_path: Path) -> None:
    gateway = SmallGateway()
    gateway.refuses = "not on my list"
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: len(linked.pauses) >= 2)
            status = linked.uplink.status()
            assert linked.codes() == {"gateway_refused"}
            assert "not on my list" in next(one.text for one in linked.conditions.all())
            gateway.refuses = None
            await comes(lambda: linked.uplink.connected)
            assert linked.codes() == set()
    assert status.state in {LinkState.REFUSED, LinkState.CONNECTING, LinkState.AUTHENTICATING}


async def test_a_gateway_without_room_is_given_the_time_it_asks_for(tmp_path: Path) -> None:
    gateway = SmallGateway()
    gateway.unavailable = (503, "Maximum connections reached", {"Retry-After": "17"})
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: linked.pauses)
            assert 17 <= linked.pauses[0] <= 17 + 5
            assert linked.codes() == {"gateway_unreachable"}


async def test_another_key_at_the_same_address_is_warned_of(tmp_path: Path) -> None:
    async with serving(SmallGateway()) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            assert linked.codes() == set()
    async with serving(SmallGateway(), int(url.rpartition(":")[2])):
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            assert linked.codes() == {"gateway_key_changed"}


async def test_a_clock_that_was_never_set_does_not_lock_the_host_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        monkeypatch.setattr(linked.clock.__class__, "wall_ns", lambda _: 86_400_000_000_000)  # 1970
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            assert linked.codes() == {"clock_differs"}
            assert len(linked.pauses) == 1


@pytest.mark.parametrize(("ahead_s", "used"), [(86_000, True), (90_000, False), (2_000_000, False)])
async def test_a_refusal_nobody_signed_has_nothing_signed_for_days_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int, *, used: bool
) -> None:
    """Who is on the path once must not collect authentications that hold when it no longer is."""
    gateway = SmallGateway()
    now_s = round(time.time())
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        monkeypatch.setattr(linked.clock.__class__, "wall_ns", lambda _: (now_s - ahead_s) * 10**9)
        signed: list[int] = []
        opened = AgentSession.opened

        def noted(session: AgentSession, now_ns: int, wall_s: int) -> None:
            signed.append(wall_s)
            opened(session, now_ns, wall_s)

        monkeypatch.setattr(AgentSession, "opened", noted)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected if used else len(signed) > 4)
            (told,) = (one.text for one in linked.conditions.all() if one.code == "clock_differs")
        assert ("more than a day, so this host's is used" in told) is not used
        assert all(abs(one - (now_s - ahead_s)) <= 86_400 for one in signed)
        assert any(abs(one - now_s) < 60 for one in signed) is used


async def test_a_clock_that_is_set_while_the_agent_runs_is_gone_by_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = SmallGateway()
    host_s = [86_400]  # 1970
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        monkeypatch.setattr(linked.clock.__class__, "wall_ns", lambda _: host_s[0] * 10**9)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            host_s[0] = round(time.time())
            await gateway.links[0].connection.close(1012)
            await comes(lambda: gateway.opened == 3 and linked.uplink.connected)
    assert len(linked.pauses) == 2  # the refusal of 1970, and the end above: the third was taken at once


class Filled:
    """A disk without room for a registration, until there is; how often it was tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self.tries = 0
        self._replace = private_file.replace
        monkeypatch.setattr(private_file, "replace", self._write)

    def _write(self, path: str, content: bytes) -> None:
        if path.endswith("registration.json"):
            self.tries += 1
            if self.full:
                raise StorageError(f"{path}: No space left on device")
        self._replace(path, content)


async def test_success_is_not_said_before_the_registration_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, gateway = Filled(monkeypatch), SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path, heartbeat_interval_s=0.05)
        linked.changes = [Change(subject=("module", "a"), state={"name": "a"})]
        async with linked.kept():
            await comes(lambda: linked.uplink.up and disk.tries >= 5)
            status = linked.uplink.status()
            assert (status.state, linked.uplink.connected) == (LinkState.REGISTERING, False)
            assert "not written down: " in status.reason
            assert "No space left" in status.reason
            assert isinstance(status.authenticated_ns, int)
            assert linked.codes() == {"registration_not_kept"}
            # Nothing else waits for it: records, what changes, heartbeats.
            linked.shelf.put(block(0, 3))
            await comes(lambda: linked.shelf.acknowledgements and gateway.states and gateway.heartbeats)
            linked.uplink.tell(Change(subject=("module", "b"), state={"name": "b"}))
            await comes(lambda: [one["name"] for one in gateway.states] == ["a", "b"])
            assert all(pause <= keeper.LONGEST_WRITE_S for pause in linked.pauses)
            assert identity.load(str(tmp_path)).registration(status.url) is None  # type: ignore[union-attr, arg-type]

            disk.full = False
            await comes(lambda: linked.uplink.connected)
            assert (linked.codes(), linked.uplink.status().reason) == (set(), "")
            assert linked.uplink.status().authenticated_ns == status.authenticated_ns
            tries = disk.tries
            await asyncio.sleep(0.05)
            assert disk.tries == tries  # once is enough
        kept = identity.load(str(tmp_path))
        assert kept is not None
        assert kept.uid == linked.uplink.status().uid
        assert (gateway.opened, len(gateway.registrations)) == (1, 1)


async def test_a_registration_is_written_down_whatever_becomes_of_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, gateway = Filled(monkeypatch), SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: linked.uplink.up)
            await gateway.links[0].connection.close(1012)
            await comes(lambda: gateway.opened == 2 and linked.uplink.up)
            assert linked.uplink.status().state is LinkState.REGISTERING
            gateway.unavailable = (503, "Maximum connections reached", {"Retry-After": "17"})
            await gateway.links[0].connection.close(1012)
            await comes(lambda: linked.uplink.status().state is LinkState.BACKOFF)
            assert "registration_not_kept" in linked.codes()
            disk.full = False
            await comes(lambda: linked.codes() == {"gateway_unreachable"})
            assert not linked.uplink.connected
            gateway.unavailable = None
            await comes(lambda: linked.uplink.connected)
        assert len(gateway.registrations) == 1
        disk.full, tries = True, disk.tries
        async with Linked(url, tmp_path).kept() as again:  # what is on disk is not written again
            await comes(lambda: again.uplink.connected)
        assert disk.tries == tries


async def test_nothing_is_written_any_more_once_the_link_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Filled(monkeypatch)
    async with serving(SmallGateway()) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: disk.tries >= 2)
        disk.full, tries = False, disk.tries
        await asyncio.sleep(0.05)
        assert disk.tries == tries
        assert linked.uplink.status().state is LinkState.DISCONNECTED


async def test_two_with_one_key_are_told_apart_from_a_gateway_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path, heartbeat_interval_s=0.05)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            await gateway.links[0].connection.close(4001, "a newer connection of the same key")
            await comes(lambda: gateway.opened == 2 and linked.uplink.connected)
            assert linked.pauses[0] >= 60
            (told,) = linked.conditions.all()
            assert (told.code, "newer connection" in told.text) == ("session_conflict", True)
            assert "agent.key" in told.hint
            monkeypatch.setattr(keeper, "ALONE_NS", 0)
            await comes(lambda: linked.codes() == set())


async def test_a_key_that_was_warned_of_is_met_again_without_a_warning(tmp_path: Path) -> None:
    port = 0
    for count in (0, 1):
        gateway = SmallGateway()
        async with serving(gateway, port) as url:
            port = int(url.rpartition(":")[2])
            linked = Linked(url, tmp_path)
            async with linked.kept():
                await comes(lambda: linked.uplink.connected)  # noqa: B023
                assert linked.codes() == ({"gateway_key_changed"} if count else set())
                await gateway.links[0].connection.close(1012)
                await comes(lambda: gateway.opened == 2 and linked.uplink.connected)  # noqa: B023
                assert linked.codes() == set()


async def test_words_that_are_no_unicode_do_not_end_the_link(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        linked.changes = [
            Change(subject=("condition", "a"), state={"text": "disk /mnt/\udcff", "l": ["\udcfe", 1]})
        ]
        linked.uplink.answer(Reply(in_reply_to="1", ok=False, code="c" * 300, text="\udcff" + "y" * 9000))
        async with linked.kept():
            await comes(lambda: gateway.answers and gateway.states)
    assert (gateway.refused, gateway.opened) == ([], 1)
    assert gateway.states == [{"text": "disk /mnt/\\udcff", "l": ["\\udcfe", 1]}]
    (answer,) = gateway.answers
    assert (len(answer.code), len(answer.text), answer.text[:8]) == (256, 8192, "\\udcffyy")


async def test_blocks_go_out_in_bounds_and_are_let_go_when_acknowledged(tmp_path: Path) -> None:
    gateway = SmallGateway()
    gateway.acknowledges = False
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path, in_flight_bytes=128 << 10)
        first = 0
        while first < 20_000:
            linked.shelf.put(block(first, 1000))
            first += 1000
        async with linked.kept():
            await comes(lambda: gateway.batches)
            await asyncio.sleep(0.1)
            sent = sum(len(one.items) for one in gateway.batches)
            size = len(block(0, 1).records)
            assert (128 << 10) // size - 5000 < sent < (128 << 10) // size + 5000
            assert all(len(one.items) <= 512 for one in gateway.batches)
            gateway.acknowledges = True
            await gateway.links[0].connection.send(gateway.links[0].session.acknowledge(1, EVENT, sent, 0))
            await comes(lambda: linked.shelf.acknowledgements[-1:] == [(1, EVENT, 20_000)])
        numbers = [one.first + index for one in gateway.batches for index in range(len(one.items))]
        assert numbers == list(range(20_000))


async def test_what_nobody_acknowledged_is_sent_again_on_the_next_connection(tmp_path: Path) -> None:
    gateway = SmallGateway()
    gateway.acknowledges = False
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        linked.shelf.put(block(0, 3))
        async with linked.kept():
            await comes(lambda: len(gateway.batches) == 1)
            gateway.acknowledges = True
            await gateway.links[0].connection.close(1012, "restarts, come back in 3 s")
            await comes(lambda: linked.shelf.acknowledgements)
        assert [(one.first, len(one.items)) for one in gateway.batches] == [(0, 3), (0, 3)]
        assert 3 <= linked.pauses[0] <= 8


async def test_a_gateway_that_takes_no_batches_gets_none(tmp_path: Path) -> None:
    gateway = SmallGateway(ours=False)
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        linked.shelf.put(block(0, 3))
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            linked.uplink.answer(Reply(in_reply_to="1", ok=True))
            await comes(lambda: gateway.answers)
        assert (gateway.batches, len(linked.shelf.waiting)) == ([], 1)


async def test_findings_go_to_a_gateway_that_takes_nothing_else_and_stay_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than may be in flight: nobody acknowledges them. The next gateway gets them too, and the rest."""
    monkeypatch.setattr(keeper, "SILENT_NS", 0)
    gateway = SmallGateway(ours=False)
    gateway.acknowledges = False
    async with serving(gateway) as url:
        port = int(url.rpartition(":")[2])
        linked = Linked(url, tmp_path, in_flight_bytes=128 << 10, heartbeat_interval_s=0.05)
        linked.shelf.put(block(0, 3))
        finding = encode_finding({"title": "t" * 40_000})
        for first in range(8):
            linked.shelf.put(
                Block(
                    cls=BlockClass.FINDING,
                    stream=1,
                    first=first,
                    count=1,
                    boot_id=bytes(16),
                    base_ns=0,
                    records=finding,
                )
            )
        async with linked.kept():
            await comes(lambda: len(gateway.batches) == 8)
            before = len(gateway.heartbeats)
            await comes(lambda: len(gateway.heartbeats) > before + 3)
            assert linked.codes() == set()  # that it stores nothing is known
    assert [one.first for one in gateway.batches] == list(range(8))
    assert {one.cls for one in gateway.batches} == {BlockClass.FINDING}
    assert (gateway.refused, len(linked.shelf.waiting)) == ([], 9)
    ours = SmallGateway()
    async with serving(ours, port), linked.kept():
        await comes(lambda: not linked.shelf.waiting and not linked.shelf.in_flight)
    assert sorted({(one.cls, one.first) for one in ours.batches}) == [
        ("event", 0),
        *(("finding", n) for n in range(8)),
    ]


def encode_finding(content: dict[str, str]) -> bytes:
    return cbor2.dumps([10, 5, content])


async def test_answers_wait_for_a_connection_and_states_are_told_as_they_stand(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        linked.changes = [Change(subject=("module", "a"), state={"name": "a", "state": "running"})]
        linked.uplink.answer(Reply(in_reply_to="1", ok=False, code="x", text="y", policy=True))
        linked.uplink.tell(Change(subject=("module", "a"), state={"name": "a", "state": "old"}))
        async with linked.kept():
            await comes(lambda: gateway.answers and gateway.states)
            linked.uplink.tell(Change(subject=("module", "a"), state={"name": "a", "state": "failed"}))
            await comes(lambda: len(gateway.states) == 2)
    assert [(one.in_reply_to, one.ok, one.code, one.text) for one in gateway.answers] == [
        ("1", False, "x", "y")
    ]
    assert [one["state"] for one in gateway.states] == ["running", "failed"]


async def test_orders_are_handed_on(tmp_path: Path) -> None:
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        async with linked.kept():
            await comes(lambda: linked.uplink.connected)
            await gateway.links[0].push({"type": "list_modules", "command_id": "7"})
            await comes(lambda: linked.orders)
    (order,) = linked.orders
    assert (order.command_id, order.channel, order.body["type"]) == ("7", "modules", "list_modules")


async def test_a_gateway_that_stores_nothing_is_told_of_and_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "SILENT_NS", 0)
    gateway = SmallGateway()
    gateway.acknowledges = False
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path, heartbeat_interval_s=0.05)
        linked.shelf.put(block(0, 3))
        async with linked.kept():
            await comes(lambda: "gateway_stores_nothing" in linked.codes())
            await gateway.links[0].connection.send(gateway.links[0].session.acknowledge(1, EVENT, 3, 0))
            await comes(lambda: linked.codes() == set())
    assert gateway.opened == 1


async def test_whatever_breaks_is_told_once_backed_off_from_and_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes of errors that nobody thought of, at each place where a connection is made and driven."""
    said: list[dict[str, object]] = []
    attempts = [0]

    async def fails(*arguments: Any) -> Any:
        attempts[0] += 1
        if attempts[0] <= 5:
            raise LookupError("two\x1b[2J headers")
        return await dial(*arguments)

    monkeypatch.setattr(keeper, "dial", fails)
    gateway = SmallGateway()
    async with serving(gateway) as url:
        linked = Linked(url, tmp_path)
        monkeypatch.setattr(linked.uplink, "log", Log(said))
        async with linked.kept():
            await comes(lambda: attempts[0] == 5)
            (condition,) = linked.conditions.all()
            assert condition.code == "link_broken"
            assert re.fullmatch(
                r"LookupError at link/test_keeper.py:\d+: two\\x1b\[2J headers", condition.text
            )
            await comes(lambda: linked.uplink.connected)
            assert linked.codes() == set()
            linked.uplink.on_order = lambda _order: 1 // 0  # type: ignore[assignment]
            await gateway.links[0].push({"type": "list_modules", "command_id": "7"})
            await comes(lambda: gateway.opened == 2 and linked.uplink.connected)
    assert [one["code"] for one in said] == ["LookupError", "ZeroDivisionError"]  # not each time
    assert len(linked.pauses) == 6
    assert all(linked.pauses)


class Log:
    """Keeps errors."""

    def __init__(self, said: list[dict[str, object]]) -> None:
        self._said = said

    def error(self, event: str, **values: object) -> None:
        self._said.append({"event": event, **values})

    def info(self, _event: str, **_values: object) -> None: ...
    def warning(self, _event: str, **_values: object) -> None: ...
