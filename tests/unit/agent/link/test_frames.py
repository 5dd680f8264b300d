"""Counts of what a gateway sent, over frames that a session really took or refused."""

from __future__ import annotations

import inspect
import re

import pytest

from aegis import errors
from aegis.agent.link.frames import IDENTITY, STAGE, Frames
from aegis.protocol import agent
from aegis.protocol.agent_happenings import REFUSALS, AgentHappening, Closed, PeerError, Refused
from aegis.runtime.counters import balanced


@pytest.mark.parametrize(
    ("happened", "term"),
    [
        ([], "taken"),
        ([Closed(code="protocol", reason="x")], "taken"),
        ([PeerError(text="x")], "errors"),
        ([PeerError(text="x"), Closed(code="refused", reason="x")], "errors"),
        *(([Refused(code=code, text="x")], code) for code in REFUSALS),
    ],
)
def test_each_frame_is_counted_once_by_what_came_of_it(happened: list[AgentHappening], term: str) -> None:
    frames = Frames()
    for _ in range(2):
        frames.count(happened)
    terms = frames.terms()[STAGE]
    assert {name: count for name, count in terms.items() if count} == {"received": 2, term: 2}
    assert balanced(IDENTITY, terms)


def test_a_refusal_of_a_kind_nobody_named_is_counted_too() -> None:
    frames = Frames()
    frames.count([Refused(code="new", text="x")])
    assert balanced(IDENTITY, frames.terms()[STAGE])


def test_every_kind_a_session_gives_has_a_term() -> None:
    """Those in its text, and those of what it catches."""
    source = inspect.getsource(agent.AgentSession)
    given = set(re.findall(r'Refused\(code="(\w+)"', source))
    (caught,) = re.findall(r"except \(([\w, ]+)\) as error:\n +return \[Refused\(code=error.code", source)
    assert given | {getattr(errors, name).code for name in caught.split(", ")} == set(REFUSALS)
