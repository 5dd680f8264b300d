from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import cffi
import pytest

from aegis.agent.wiring import LOOK_NS, Agent, agent_id, give_back
from aegis.errors import HostError, KernelError
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.settings import Settings
from tests.support.left_over import status


def test_the_name_is_made_of_what_a_channel_may_hold() -> None:
    assert agent_id(Settings("agent", {"id": "host.example com/ü_1-2"})) == "host-example-com--_1-2"
    assert agent_id(Settings("agent", {"id": "long" * 20})) == "long" * 16
    assert agent_id(Settings("agent", {"id": ""})) == "host"
    assert set(agent_id(Settings("agent", {"id": None}))) <= set(
        agent_id(Settings("agent", {"id": socket.gethostname()}))
    )


class Ended(Exception):
    """The test has seen enough."""


async def test_what_a_look_cannot_do_is_a_condition_and_not_the_end() -> None:
    """Each second another part fails, then none: the agent goes on, and every other part is still looked at."""
    failing: list[dict[str, Exception]] = [
        {"losses": KernelError("read", "ring", errno.ENOMEM)},  # before the first second
        {"losses": KernelError("read", "ring", errno.ENOMEM)},
        {"hooks": KernelError("look at", "hook", errno.EIO), "losses": OSError(errno.EMFILE, "too many")},
        {"resources": HostError("no /proc")},
        {},
    ]
    told: list[str] = []
    done: list[str] = []
    conditions = Conditions(SystemClock())

    def part(name: str, value: Any = None) -> Any:
        def step() -> Any:
            if name in failing[0]:
                raise failing[0][name]
            done.append(name)
            return value

        return step

    async def sleep(_seconds: float) -> None:
        told.append("; ".join(one.text for one in conditions.all()))
        failing.pop(0)
        if not failing:
            raise Ended

    agent: Any = SimpleNamespace(
        clock=SimpleNamespace(sleep=sleep, monotonic_ns=iter(range(0, 100 * LOOK_NS, LOOK_NS)).__next__),
        health=conditions.scoped("agent"),
        history=None,
        resources=SimpleNamespace(tick=part("resources")),
        kernel=SimpleNamespace(hooks=SimpleNamespace(look=part("hooks"), look_quickly=part("hooks"))),
        _ring_full=part("losses", {}),
        _take_missed=part("missed"),
        _look_at_trial=part("trial"),
    )
    agent._guarded = lambda steps: Agent._guarded(agent, steps)
    with pytest.raises(Ended):
        await Agent._tick(agent)
    assert ["ring" in told[0], "ring" in told[1]] == [True, True]
    assert "lost records: " in told[2]
    assert "hooks: look at hook" in told[2]
    assert told[3:] == ["resources: no /proc", ""]
    assert [done.count(name) for name in ("resources", "losses", "hooks")] == [3, 2, 3]


async def test_each_minute_free_memory_goes_back_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: list[int] = []
    given: list[int] = []
    monkeypatch.setattr("aegis.agent.wiring.give_back", lambda: given.append(len(seconds)))

    async def sleep(_seconds: float) -> None:
        seconds.append(1)
        if len(seconds) > 130:
            raise Ended

    def nothing() -> None:
        return

    agent: Any = SimpleNamespace(
        clock=SimpleNamespace(sleep=sleep, monotonic_ns=lambda: len(seconds) * 1_000_000_000),
        health=Conditions(SystemClock()).scoped("agent"),
        history=None,
        resources=SimpleNamespace(tick=nothing),
        kernel=SimpleNamespace(hooks=SimpleNamespace(look=nothing, look_quickly=nothing)),
        _ring_full=dict,
        _take_missed=nothing,
        _look_at_trial=nothing,
    )
    agent._guarded = lambda steps: Agent._guarded(agent, steps)
    with pytest.raises(Ended):
        await Agent._tick(agent)
    assert given == [60, 120]


def test_what_a_backlog_took_is_given_back() -> None:
    """Freed pieces below one that is still held: the heap keeps them by itself."""
    ffi = cffi.FFI()
    ffi.cdef("void *malloc(size_t size); void free(void *one);")
    libc: Any = ffi.dlopen(None)
    give_back()
    before = status(os.getpid(), "RssAnon")
    pieces = [libc.malloc(4096) for _ in range(4096)]
    for one in pieces:
        ffi.memmove(one, b"x" * 4096, 4096)
    last = libc.malloc(4096)
    for one in pieces:
        libc.free(one)
    kept = status(os.getpid(), "RssAnon")
    give_back()
    left = status(os.getpid(), "RssAnon")
    libc.free(last)
    assert kept - before > 12_000
    assert left - before < 2_000
