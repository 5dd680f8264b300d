"""What the room of names does without a kernel; with one: tests/bpf/test_name_room.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aegis.agent import name_room
from aegis.agent.name_room import NameRoom
from aegis.errors import MapAccessFailed
from aegis.kernel import names_resolve
from aegis.kernel.names import Harvest
from aegis.kernel.names_plan import NamePlan, build_names
from aegis.kernel.names_resolve import Lookup
from aegis.kernel.names_resolvers import Resolvers
from aegis.model.policy_selectors import NameSelector
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from tests.support import dns

SERVER = dns.mapped("192.0.2.53")


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda text, **_: self.lines.append(text)


class Tables:
    """In place of `Names`."""

    def __init__(self) -> None:
        self.asks = True
        self.resolvers: tuple[bytes, ...] = ()
        self.bound: list[tuple[bytes, int, int]] = []
        self.kept: list[int] = []
        self.refuses = False

    def asked(self) -> bool:
        return self.asks

    def set_resolvers(self, addresses: tuple[bytes, ...]) -> None:
        self.resolvers = addresses

    def bind(self, address: bytes, class_: int, ttl: int, now: int) -> str | None:
        self.bound.append((address, class_, ttl))
        return None

    def keep_open(self, until: int, now: int) -> int:
        if self.refuses:
            raise MapAccessFailed("run", "syscall_names", 1)
        self.kept.append(until - now)
        return 0

    def harvest(self, now: int) -> Harvest:
        return Harvest(addresses=3, removed=1)

    def counts(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.asks = False


def made(*resolvers: bytes) -> tuple[NameRoom, Tables, Conditions, Log]:
    conditions, log, tables = Conditions(SystemClock()), Log(), Tables()
    room = NameRoom(
        conditions.scoped("agent"),
        log,
        lambda: 5_000_000_000,
        named=["192.0.2.1"],
        find=lambda named: Resolvers(addresses=resolvers),
    )
    room._names = tables  # type: ignore[assignment]
    return room, tables, conditions, log


def plan(*names: str) -> NamePlan:
    automaton = build_names([NameSelector(name) for name in names])
    classes = {1 << place: place + 1 for place in range(len(names))}
    return NamePlan(automaton=automaton, classes=classes, table=(), exact=names)


def test_before_it_is_opened_nothing_happens() -> None:
    conditions = Conditions(SystemClock())
    room = NameRoom(conditions.scoped("agent"), Log(), lambda: 0)
    room.refresh()
    asyncio.run(room.look())
    asyncio.run(room.look_up())
    assert room.features() == ()
    room.close()


def test_no_resolver_is_a_condition_while_names_are_asked() -> None:
    room, tables, conditions, _ = made()
    room.refresh()
    assert [each.code for each in conditions.all()] == ["names_unavailable"]
    tables.asks = False
    room.refresh()
    assert conditions.all() == ()


def test_resolvers_reach_the_kernel() -> None:
    room, tables, _, _ = made(SERVER)
    asyncio.run(room.look())
    assert tables.resolvers == (SERVER,)
    assert tables.kept == [60]


def test_what_the_kernel_refuses_is_told_and_the_room_goes_on() -> None:
    room, tables, _, log = made(SERVER)
    tables.refuses = True
    asyncio.run(room.look())
    assert log.lines == ["names not looked after"]


def test_a_plan_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def found(names: tuple[str, ...], servers: tuple[bytes, ...], clock: object) -> dict[str, Lookup]:
        asked.append(names)
        return {"a.test": Lookup(addresses={SERVER: 7}), "b.test": Lookup(error="it has no address")}

    monkeypatch.setattr(names_resolve, "look_up", found)
    monkeypatch.setattr(name_room, "LOOK_S", 0.05)
    room, tables, _, log = made(SERVER)
    room._committed(plan("a.test", "b.test"))

    async def a_while() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(room.keep(), 0.3)

    asyncio.run(a_while())
    assert asked == [("a.test", "b.test")]
    assert tables.bound == [(SERVER, 1, 7)]
    assert len(tables.kept) > 2
    assert "names without an address" in log.lines
    reasons = {each.name: each.reason for each in room.features()}
    assert reasons["names_unresolved"] == "b.test: it has no address"


def test_what_was_looked_up_for_a_policy_that_is_gone_is_not_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    room, tables, _, _ = made(SERVER)
    first, second = plan("a.test"), plan("b.test")

    def found(names: tuple[str, ...], servers: tuple[bytes, ...], clock: object) -> dict[str, Lookup]:
        room._committed(second)
        return {"a.test": Lookup(addresses={SERVER: 7})}

    monkeypatch.setattr(names_resolve, "look_up", found)
    room._committed(first)
    asyncio.run(room.look_up())
    assert tables.bound == []
