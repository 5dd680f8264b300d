"""What is done about a spin, with an execute of the test's own; tests/e2e/test_agent_spin.py has the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from aegis.agent.entry import SIGNALS
from aegis.agent.held_off import VARIABLE, Interrupted
from aegis.agent.spin_guard import CONDITION, SpinGuard
from aegis.model.event import Event, LossEvent
from aegis.runtime import log
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.spin import Spin

S = 1_000_000_000


class Clock(SystemClock):
    """A wall clock of the test's; sleeping moves it."""

    def __init__(self) -> None:
        self.now = 1000 * S

    def wall_ns(self) -> int:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += round(seconds * S)


class Kept:
    """A history that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, events: Iterable[Event]) -> None:
        self.events += events


class Resumed:
    """A supervisor that only resumes."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def resume(self, name: str) -> None:
        self.names.append(name)


class Starts:
    """One host's agents, one after the other."""

    def __init__(self, state: Path) -> None:
        self.clock = Clock()
        self.conditions = Conditions(self.clock)
        self.executed = 0
        self.error: OSError | None = None
        self.history = Kept()
        self._state = str(state)

    def start(self) -> SpinGuard:
        def execute() -> None:
            self.executed += 1
            if self.error is not None:
                raise self.error

        self.history = Kept()
        return SpinGuard(
            self._state,
            self.clock,
            self.conditions.scoped("agent"),
            self.history,
            log.logger(),
            execute,
        )

    def text(self) -> str:
        return "; ".join(one.text for one in self.conditions.all() if one.code == CONDITION)


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    monkeypatch.delenv(VARIABLE, raising=False)
    return Starts(tmp_path)


def spin(module: str = "slow") -> Spin:
    return Spin(module=module, where="modules/slow/module.py:7 run", seconds=2.1)


async def test_the_next_start_leaves_it_out_says_so_and_starts_it_later(starts: Starts) -> None:
    starts.start()._ended(spin())
    assert starts.executed == 1
    starts.clock.now += S
    guard = starts.start()
    reason = guard.reason("slow")
    assert reason is not None
    assert reason.startswith(
        "it held the agent's loop for 2.1 s at modules/slow/module.py:7 run, the first time;"
    )
    assert guard.reason("telemetry") is None
    guard.begin()
    (gap,) = starts.history.events
    assert isinstance(gap, LossEvent)
    assert (gap.stage, gap.kind, gap.reason, gap.count) == (
        "agent",
        "milliseconds_unwatched",
        "module_spun",
        1000,
    )
    assert starts.text() == f"slow: {reason}"
    supervisor: Any = Resumed()
    await guard.keep(supervisor)
    assert supervisor.names == ["slow"]
    assert starts.clock.now == pytest.approx((1000 + 60) * S, abs=S)
    assert starts.text() == ""
    guard._ended(spin())
    assert "2 times so far" in str(starts.start().reason("slow"))


def test_an_order_to_start_ends_it(starts: Starts) -> None:
    starts.start()._ended(spin())
    guard = starts.start()
    guard.begin()
    guard.released("slow")
    assert (guard.reason("slow"), starts.text()) == (None, "")
    assert starts.start().reason("slow") is None


def test_a_start_of_its_own_accord_tells_no_gap(starts: Starts) -> None:
    starts.start()._ended(spin())
    starts.start()
    guard = starts.start()  # another one, within the pause
    guard.begin()
    assert starts.history.events == []
    assert "slow: it held" in starts.text()


def test_code_of_no_module_ends_the_process_once_a_pause(starts: Starts) -> None:
    starts.start()._ended(spin(""))
    guard = starts.start()
    guard.begin()
    assert "no module's code held the agent's loop for 2.1 s" in starts.text()
    guard._ended(spin(""))
    assert starts.executed == 1
    starts.clock.now += 60 * S
    guard._ended(spin(""))
    assert starts.executed == 2


def test_a_stop_that_is_under_way_is_left_to_its_last_resort(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SIGNALS, "stops", 1)
    starts.start()._ended(spin())
    assert starts.executed == 0


def test_an_agent_that_cannot_execute_itself_goes_on(starts: Starts) -> None:
    starts.error = FileNotFoundError()
    starts.start()._ended(spin())
    assert starts.executed == 1


def test_orders_under_way_are_answered_by_the_next_start(starts: Starts) -> None:
    """Who is to blame, where, since when, and what of the order."""
    guard = starts.start()
    guard.orders = lambda: [
        Interrupted(command_id="1", module="slow"),
        Interrupted(command_id="2", module="telemetry"),
        Interrupted(command_id="3", policy=True),
    ]
    guard._ended(spin())
    own, other, policy = starts.start().interrupted()
    assert (own.in_reply_to, own.ok, own.code, own.policy) == ("1", False, "module_spun", False)
    assert own.text == (
        "slow held the agent's loop for 2.1 s from 1970-01-01T00:16:37.900000000Z on, at modules/slow/module.py:7 run; "
        "the agent started again without it, and holds it off for 60 s"
    )
    assert (other.in_reply_to, other.code, policy.policy) == ("2", "order_interrupted", True)
    assert other.text.startswith("slow held the agent's loop for 2.1 s")
    assert "does not know what came of it" in other.text
    assert starts.start().interrupted() == []


def test_orders_are_answered_where_no_module_is_to_blame(starts: Starts) -> None:
    guard = starts.start()
    guard.orders = lambda: [Interrupted(command_id="1")]
    guard._ended(spin(""))
    (reply,) = starts.start().interrupted()
    assert reply.code == "order_interrupted"
    assert reply.text.startswith("no module's code held the agent's loop")


AGAIN = """
import os, signal, sys
import aegis.agent.entry as entry
from aegis.agent import spin_guard
if "SECOND" in os.environ:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print(os.getpid(), sys.argv[1:], entry.SIGNALS.stops, sorted(blocked))
    sys.exit()
os.environ["SECOND"] = "1"
def kill(path, arguments, execv=os.execv):
    os.kill(os.getpid(), signal.SIGTERM)  # the worst moment: nobody takes it, and it must not be lost
    execv(path, arguments)
os.execv = kill
print(os.getpid(), flush=True)
spin_guard.execute_again()
"""


def test_it_is_the_same_process_with_the_same_arguments_and_no_stop_is_lost() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", AGAIN, "--one", "two words"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stdout.splitlines()
    assert second == f"{first} ['--one', 'two words'] 1 []"


def test_where_it_cannot_be_signals_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from aegis.agent import spin_guard

    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(OSError, match="No such file"):
        spin_guard.execute_again()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert os.getpid() > 0
