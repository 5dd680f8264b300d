"""What the agent feeds the management path with: where the gateway is, what it was, resolvers, the operator's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from aegis.agent import management_room
from aegis.agent.management_room import CONDITION, ManagementRoom
from aegis.errors import MapAccessFailed
from aegis.kernel.management import MOST, Managed, to_host
from aegis.kernel.names_resolvers import Resolvers
from aegis.model.absent import Absent
from aegis.model.link import LinkState, LinkStatus
from aegis.runtime.clock import SystemClock
from aegis.runtime.gateway_url import parse
from aegis.runtime.health import Conditions
from tests.support import dns


class Log:
    def __getattr__(self, name: str) -> Any:
        return lambda _text, **_: None


class Path:
    """In place of `ManagementPath`."""

    def __init__(self, held: Sequence[Managed] = ()) -> None:
        self.entries = list(held)
        self.refuses = False

    def put(self, wanted: Sequence[Managed]) -> bool:
        if self.refuses:
            raise MapAccessFailed("update", "aegis_management", 1)
        changed = set(wanted) != set(self.entries)
        self.entries = list(wanted)
        return changed

    def held(self) -> tuple[Managed, ...]:
        return tuple(self.entries)

    def close(self) -> None:
        pass

    def gateways(self) -> set[str]:
        return {each.network.partition("/")[0] for each in self.entries if each.port == 8443}


def status(state: LinkState, since: int | None) -> LinkStatus:
    nothing = Absent("not in this test")
    return LinkStatus(
        state=state,
        reason="",
        since_ns=0,
        url=nothing,
        uid=nothing,
        protocol=nothing,
        authenticated_ns=nothing if since is None else since,
        insecure_v1=nothing,
    )


class Host:
    """A room, its tables, and what the gateway's name stands for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, **options: Any) -> None:
        self.path, self.addresses = path, ["192.0.2.10"]
        monkeypatch.setattr(management_room, "ManagementPath", self)
        self.conditions = Conditions(SystemClock(), lambda *_: None)
        self.room = ManagementRoom(
            self.conditions.scoped("agent"),
            Log(),
            **{"gateway": parse("wss://gateway.example:8443"), **options},
            find=lambda _: Resolvers(addresses=(dns.mapped("192.0.2.53"),)),
            resolve=self._resolve,
        )
        self.room.open(self)  # type: ignore[arg-type]

    def of(self, _tables: object) -> Path:
        return self.path

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("gateway.example", 8443)
        if not self.addresses:
            raise OSError("no such name")
        return self.addresses

    def look(self, state: LinkState = LinkState.CONNECTED, since: int | None = 1) -> set[str]:
        asyncio.run(self.room.look(status(state, since)))
        return self.path.gateways()

    def codes(self) -> set[str]:
        return {each.code for each in self.conditions.all()}


def test_resolvers_and_what_is_allowed_are_there_before_anybody_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path()
    host = Host(monkeypatch, path, allowed=("ingress:tcp:192.0.2.0/24:22", "nonsense"))
    assert to_host("192.0.2.53", 17, 53) in path.entries
    assert to_host("192.0.2.53", 6, 53) in path.entries
    assert [each.port for each in path.entries].count(22) == 1
    assert path.gateways() == set()
    (told,) = host.conditions.all()
    assert told.code == CONDITION
    assert told.text.startswith("policy.management_allow[1]")


def test_an_address_needs_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path()
    host = Host(monkeypatch, path, gateway=parse("wss://192.0.2.7:8443"))
    assert path.gateways() == {"192.0.2.7"}
    assert host.look() == {"192.0.2.7"}


def test_what_an_agent_before_put_stays_until_the_name_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path([to_host("192.0.2.9", 6, 8443), to_host("192.0.2.8", 6, 22)])
    host = Host(monkeypatch, path)
    assert path.gateways() == {"192.0.2.9"}
    assert to_host("192.0.2.8", 6, 22) not in path.entries
    host.addresses = []
    assert host.look(LinkState.BACKOFF, None) == {"192.0.2.9"}
    host.addresses = ["192.0.2.10"]
    assert host.look(LinkState.BACKOFF, None) == {"192.0.2.9", "192.0.2.10"}
    assert host.look(LinkState.CONNECTED, 5) == {"192.0.2.10"}


def test_a_gateway_that_moves_keeps_its_old_address_while_a_session_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch, Path())
    assert host.look(since=1) == {"192.0.2.10"}
    host.addresses = ["192.0.2.20"]
    both = {"192.0.2.10", "192.0.2.20"}
    assert host.look(since=1) == both
    assert host.look(since=1) == both, "the session is the one from before"
    assert host.look(LinkState.BACKOFF, 1) == both
    assert host.look(LinkState.CONNECTED, 2) == {"192.0.2.20"}
    host.addresses = []
    assert host.look(since=2) == {"192.0.2.20"}, "a resolver that is away takes nothing"


def test_what_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path()
    many = tuple(f"ingress:tcp:203.0.113.{number}:22" for number in range(MOST + 1))
    host = Host(monkeypatch, path, allowed=many)
    assert len(path.entries) == MOST
    assert host.codes() == {CONDITION}
    assert host.look() == {"192.0.2.10"}, "the gateway comes first"


def test_a_kernel_that_refuses_is_a_condition_and_ends_when_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path()
    host = Host(monkeypatch, path)
    path.refuses = True
    host.look()
    assert host.codes() == {CONDITION}
    path.refuses = False
    assert host.look() == {"192.0.2.10"}
    assert host.codes() == set()
