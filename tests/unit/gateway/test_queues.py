"""What waits for agents: in order, for a time, once."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.gateway.agents import AgentTable
from aegis.gateway.message import Message
from aegis.gateway.queues import Queues
from tests.unit.gateway.store.test_base import agent as agent_row
from tests.unit.gateway.test_message import message


@pytest.fixture
def made() -> tuple[Queues, Any, list[Message]]:
    agents = AgentTable()
    agents.load([agent_row("u")])
    over: list[Message] = []
    return Queues(agents, over.append), agents.of_uid("u"), over


def given(queues: Queues, agent: Any, now_ns: int = 0, most: int = 99) -> list[Message]:
    taken: list[Message] = []

    def write(each: Message) -> bool:
        if len(taken) == most:
            return False
        taken.append(each)
        return True

    queues.give(agent, now_ns, write)
    return taken


def test_in_order_and_what_comes_back_goes_first(made: tuple[Queues, Any, list[Message]]) -> None:
    queues, agent, over = made
    one, two, three, four = (message() for _ in range(4))
    for each in (two, four):
        queues.append(agent, each)
    queues.put_back(agent, [one, three])
    assert (queues.count, agent.queued, "u" in queues) == (4, 4, True)
    assert given(queues, agent, most=2) == [one, three]
    assert (queues.count, agent.queued, "u" in queues) == (2, 2, True)
    assert given(queues, agent) == [two, four]
    assert (queues.count, agent.queued, "u" in queues, over) == (0, 0, False, [])


def test_what_was_answered_is_not_given(made: tuple[Queues, Any, list[Message]]) -> None:
    queues, agent, over = made
    done, left = message(expires_ns=5), message()
    queues.put_back(agent, [done, left])
    done.is_answered = True
    queues.expire(50)
    assert over == []  # it was carried out, so it is not given up
    assert given(queues, agent, 50) == [left]
    assert (queues.count, agent.queued, over) == (0, 0, [])


def test_what_is_over_is_told_once(made: tuple[Queues, Any, list[Message]]) -> None:
    queues, agent, over = made
    short, long, last = message(expires_ns=5), message(expires_ns=20), message(expires_ns=30)
    for each in (short, long, last):
        queues.append(agent, each)
    queues.expire(4)
    assert over == []
    queues.expire(5)
    assert (over, queues.count, agent.queued) == ([short], 2, 2)
    assert given(queues, agent, 25) == [last]
    assert (over, queues.count) == ([short, long], 0)
    queues.append(agent, message(expires_ns=40))
    queues.expire(39)
    assert len(over) == 2
    queues.expire(40)
    assert (len(over), queues.count, agent.queued, "u" in queues) == (3, 0, 0, False)
