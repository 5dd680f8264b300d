from __future__ import annotations

import msgspec
import pytest

from aegis.errors import AgentUnknown
from aegis.gateway.agents import ONLINE_NS, STALE_NS, AgentTable, view
from tests.unit.gateway.store.test_base import OTHER, UID, agent


def table() -> AgentTable:
    made = AgentTable()
    made.load([agent(UID, labels=("web",)), agent(OTHER, host_id="host-2", platform='{"hostname":"two"}')])
    return made


def test_newest_first_and_every_condition_holds() -> None:
    agents = table()

    def found(**given: str | None) -> list[str]:
        asked = {"label": None, "hostname": None, "host_id": None, "address": None, **given}
        return [each.row.uid for each in agents.select(**asked)]

    assert found() == [OTHER, UID]
    assert found(label="web") == [UID]
    assert found(hostname="two") == [OTHER]
    assert found(hostname="host-1") == [UID]
    assert found(host_id="host-2", label="web") == []
    assert found(address="127.0.0.1") == []


def test_a_changed_row_keeps_what_is_in_memory() -> None:
    agents = table()
    held = agents.of_uid(UID)
    agents.seen(held, 70)
    assert agents.put(agent(UID, note="new")) is held
    assert (held.row.note, held.last_seen_ns) == ("new", 70)
    assert len(agents) == 2


def test_what_was_seen_is_written_down_once() -> None:
    agents = table()
    for instant in (7, 8, 9):
        agents.seen(agents.of_uid(UID), instant)
    assert agents.take_unsaved() == [(UID, 9)]
    assert agents.take_unsaved() == []


def test_an_unknown_uid() -> None:
    with pytest.raises(AgentUnknown, match="nobody"):
        table().of_uid("nobody")


@pytest.mark.parametrize(
    ("age_ns", "status"),
    [(0, "online"), (ONLINE_NS, "stale"), (STALE_NS, "offline"), (-5, "online")],
)
def test_presence_by_age(age_ns: int, status: str) -> None:
    agents = table()
    held = agents.of_uid(UID)
    shown = msgspec.json.decode(msgspec.json.encode(view(held, held.last_seen_ns + age_ns)))
    assert shown["status"] == status
    assert shown["connected"] is False
    assert shown["platform"] == {"os": "linux"}
