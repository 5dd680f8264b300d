"""What the agent does about a loop that does not turn: it starts again without the module whose code holds it.

The process executes itself: the same pid and arguments, every descriptor closed, what is pinned goes on enforcing. The
module is held off on disk with a pause that doubles; code that is no module's ends the process the same way, at most
once in such a pause, for there is nothing to leave out.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aegis.agent.entry import SIGNALS, STOP_SIGNALS
from aegis.agent.held_off import AGENT, Held, HeldOff, Interrupted
from aegis.agent.link.unsaid import Reply
from aegis.model.event import LossEvent
from aegis.model.stamp import rfc3339
from aegis.runtime.module import Clock, Health, History, Log
from aegis.runtime.spin import Spin, SpinWatch

if TYPE_CHECKING:
    from aegis.runtime.clock import SystemClock
    from aegis.runtime.supervisor import Supervisor

CONDITION = "module_spun"
INTERRUPTED = "order_interrupted"
STAGE = "agent"
UNWATCHED = "milliseconds_unwatched"


def execute_again() -> None:
    """Become a new agent with the same arguments. Raises OSError where that cannot be; else there is no return.

    A stop that comes meanwhile waits, and is the new agent's first one: its entry takes the signals and lets them in.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  ourselves, by our own arguments
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SpinGuard:
    """One agent's. `open` on the loop's thread, before any module is started."""

    def __init__(
        self,
        state_dir: str,
        clock: SystemClock,
        health: Health,
        history: History,
        log: Log,
        execute: Callable[[], None] = execute_again,
    ) -> None:
        self.held_off = HeldOff(state_dir)
        self._clock: Clock = clock
        self._times = clock
        self._health = health
        self._history = history
        self._log = log
        self._execute = execute
        self._watch: SpinWatch | None = None
        self.orders: Callable[[], Sequence[Interrupted]] = tuple  # of a gateway, that are under way
        # Of this start: who is left out until its pause is over.
        self._out = {
            name: held
            for name, held in self.held_off.all().items()
            if name != AGENT and held.left_s(clock.wall_ns())
        }

    # ---- the watch

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = SpinWatch(loop, self._times, told=self._told, ended=self._ended)
        self._watch.open()

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _told(self, spin: Spin) -> None:
        self._log.warning(
            "the loop does not turn", module=spin.module or None, where=spin.where, seconds=spin.seconds
        )

    def _ended(self, spin: Spin) -> None:
        """On the watching thread, while the loop's is lost: nothing of the loop may be waited for."""
        if SIGNALS.stopping:  # the last resort of the stop ends it
            return
        now_ns = self._clock.wall_ns()
        if not spin.module and (before := self.held_off.of(AGENT)) is not None and before.left_s(now_ns):
            return
        held = self.held_off.add(spin, now_ns, self.orders())
        self._log.error(
            "the agent starts again, because its loop does not turn",
            without=spin.module or None,
            for_s=held.hold_s if spin.module else None,
            where=spin.where,
            seconds=spin.seconds,
            remembered=self.held_off.problem or "on disk",
        )
        try:
            self._execute()
        except OSError as error:
            self._log.error("the agent cannot start again", error=str(error))

    # ---- what the start after it does

    def reason(self, module: str) -> str | None:
        """Why a module is not to be started by itself now."""
        held = self._out.get(module)
        if held is None:
            return None
        until_ns = held.spun_ns + round(held.hold_s * 1e9)
        return (
            f"it held the agent's loop for {held.seconds:g} s at {held.where}, {_times(held)}; "
            f"held off until {rfc3339(until_ns)}"
        )

    def interrupted(self) -> list[Reply]:
        """Answers to the orders that were under way when the agent before this one was ended."""
        found = []
        for name in sorted(self.held_off.just):
            held = self.held_off.of(name)
            assert held is not None
            for order in self.held_off.interrupted:
                own = order.module == name
                who = "no module's code" if name == AGENT else name
                began = rfc3339(held.spun_ns - round(held.seconds * 1e9))
                text = f"{who} held the agent's loop for {held.seconds:g} s from {began} on, at {held.where}"
                if own:
                    text += f"; the agent started again without it, and holds it off for {held.hold_s:g} s"
                else:
                    text += "; the agent started again while this was under way, and does not know what came of it"
                code = CONDITION if own else INTERRUPTED
                found.append(
                    Reply(in_reply_to=order.command_id, ok=False, code=code, text=text, policy=order.policy)
                )
        return found

    def released(self, module: str) -> None:
        """An operator orders it to start."""
        self.held_off.forget(module)
        self._out.pop(module, None)
        self._tell()

    def begin(self) -> None:
        """Once the modules are started: say what happened, and for how long nobody watched."""
        now_ns = self._clock.wall_ns()
        gaps = [
            LossEvent(
                time_ns=now_ns,
                stage=STAGE,
                kind=UNWATCHED,
                reason=CONDITION,
                count=max(1, (now_ns - held.spun_ns) // 1_000_000),
            )
            for name in self.held_off.just
            if (held := self.held_off.of(name)) is not None
        ]
        if gaps:
            self._history.append(gaps)
        self._tell()

    async def keep(self, supervisor: Supervisor) -> None:
        """Start each module whose pause is over, until there is none left."""
        while self._out:
            now_ns = self._clock.wall_ns()
            over = [name for name, held in self._out.items() if not held.left_s(now_ns)]
            for name in over:
                del self._out[name]
                await supervisor.resume(name)
            if over:
                self._tell()
            else:
                await self._clock.sleep(min(held.left_s(now_ns) for held in self._out.values()) + 0.01)

    def _tell(self) -> None:
        texts = [f"{name}: {self.reason(name)}" for name in sorted(self._out)]
        if AGENT in self.held_off.just and (held := self.held_off.of(AGENT)) is not None:
            texts.append(f"no module's code held the agent's loop for {held.seconds:g} s, at {held.where}")
        if self.held_off.problem:
            texts.append(f"not remembered on disk: {self.held_off.problem}")
        if texts:
            self._health.raise_(CONDITION, "; ".join(texts))
        else:
            self._health.clear(CONDITION)


def _times(held: Held) -> str:
    return "the first time" if held.times == 1 else f"{held.times} times so far"
