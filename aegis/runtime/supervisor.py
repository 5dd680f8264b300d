"""Runs the modules that are there, each as one coroutine, and owns their states.

A failure of one touches no other: one that raises is restarted with back-off, and left `failed` after five failures in
ten minutes; one that cannot be imported or constructed, or whose features are missing, is `failed` at once. Orders
(`start`, `stop`, `enable`, `disable`, `configure`) are answered after the state has changed, and twice is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from aegis.errors import AegisError, CapabilityMissing, FeatureUnsupported, ModuleUnknown
from aegis.model.module import ModuleState, ModuleStatus
from aegis.runtime import modules_found
from aegis.runtime.health import Conditions
from aegis.runtime.module import Clock, Context
from aegis.runtime.settings import Settings

BREAKER_FAILURES = 5
BREAKER_WINDOW_NS = 600_000_000_000
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_DOUBLING = 16  # pauses are at their longest long before
HEALTHY_NS = 600_000_000_000  # a run this long makes the next failure a first one
STOP_DEADLINE_S = 3.0
READY_DEADLINE_S = 10.0

S = ModuleState
ALIVE = frozenset({S.STARTING, S.RUNNING, S.STOPPING})


class Supervised:
    """One module as the supervisor sees it."""

    def __init__(self, name: str, since_ns: int) -> None:
        self.name = name
        self.state = S.DECLARED
        self.reason = ""
        self.since_ns = since_ns
        self.restarts = 0  # since an order to start, or the last run that was a healthy one
        self.running_ns: int | None = None  # monotonic: when this run became ready
        self.failures: deque[int] = deque(maxlen=BREAKER_FAILURES)  # monotonic ns
        self.task: asyncio.Task[None] | None = None
        self.instance: Any = None
        self.pausing = False  # failed, and to be started again
        self.last_words = ""  # what it raised when it was told to stop
        self.settled = asyncio.Event()  # running, or never to be by itself
        self.order = asyncio.Lock()  # one order at a time

    def was_healthy(self, now_ns: int) -> bool:
        """Whether this run has been ready for so long that what ends it is no consequence of the failure before."""
        return self.running_ns is not None and now_ns - self.running_ns >= HEALTHY_NS


class Supervisor:
    """`settings(name)` gives a module's options now; `context(name, settings)` makes what it is lent.

    `missing(features)` gives the sentence of the first feature that is not there, or None. `held(name)` says why a
    module is not to be started by itself, `released(name)` hears that somebody ordered it to start.
    """

    def __init__(
        self,
        *,
        group: asyncio.TaskGroup,
        clock: Clock,
        conditions: Conditions,
        context: Callable[[str, Settings], Context],
        settings: Callable[[str], Settings | None],
        missing: Callable[[tuple[str, ...]], str | None],
        changed: Callable[[ModuleStatus], None] = lambda _status: None,
        held: Callable[[str], str | None] = lambda _name: None,
        released: Callable[[str], None] = lambda _name: None,
        package: str = modules_found.PACKAGE,
    ) -> None:
        self._group = group
        self._clock = clock
        self._conditions = conditions
        self._context = context
        self._settings = settings
        self._missing = missing
        self._changed = changed
        self._held = held
        self._released = released
        self._package = package
        self._modules = {name: Supervised(name, clock.wall_ns()) for name in modules_found.names(package)}

    # ---- what is known

    def names(self) -> tuple[str, ...]:
        return tuple(self._modules)

    def status(self, name: str) -> ModuleStatus:
        """Raises ModuleUnknown."""
        module = self._find(name)
        state, reason, since_ns = module.state, module.reason, module.since_ns
        held = self._conditions.of(name)
        if state is S.RUNNING and held:
            state, reason = S.DEGRADED, "; ".join(f"{one.code}: {one.text}" for one in held)
            since_ns = max(since_ns, min(one.since_ns for one in held))
        return ModuleStatus(
            name=name, state=state, reason=reason, since_ns=since_ns, restarts=module.restarts
        )

    def statuses(self) -> tuple[ModuleStatus, ...]:
        return tuple(self.status(name) for name in self._modules)

    def _find(self, name: str) -> Supervised:
        try:
            return self._modules[name]
        except KeyError:
            known = ", ".join(self._modules) or "none"
            raise ModuleUnknown(f"there is no module {name}", hint=f"modules here: {known}") from None

    # ---- orders

    async def start_enabled(self) -> None:
        """Start every module whose `enabled` is true, together; return when each has settled."""
        await asyncio.gather(*(self._start_or_disable(name) for name in self._modules))

    async def _start_or_disable(self, name: str) -> None:
        module = self._find(name)
        try:
            settings = self._settings(name)
            if settings is not None and not settings.boolean("enabled"):
                self._set(module, S.DISABLED, "by configuration")
            elif (reason := self._held(name)) is not None:
                self._give_up(module, reason)
            else:
                await self._begin(name)
        except Exception as error:  # noqa: BLE001  isolation: nobody waits for this one, and the others are to start
            self._give_up(module, f"cannot be started: {_sentence(error)}")

    async def start(self, name: str) -> ModuleStatus:
        """Start, and return once it runs, or has failed. Forgets earlier failures."""
        self._find(name)
        self._released(name)
        return await self._begin(name)

    async def resume(self, name: str) -> ModuleStatus:
        """Start one that was held off, unless somebody gave it another order meanwhile."""
        module = self._find(name)
        if module.state is S.FAILED and module.task is None:
            await self._begin(name)
        return self.status(name)

    async def _begin(self, name: str) -> ModuleStatus:
        module = self._find(name)
        async with module.order:
            if module.state in ALIVE:
                await self._settle(module)
                return self.status(name)
            if module.pausing and module.task is not None:
                module.task.cancel()
                await asyncio.wait({module.task})
            if module.task is not None and not module.task.done():
                return self.status(name)  # one that did not stop in time still holds what it holds
            module.failures.clear()
            module.restarts, module.last_words = 0, ""
            module.settled.clear()
            self._set(module, S.STARTING, "")
            module.task = self._group.create_task(self._life(module), name=f"module {name}")
            await self._settle(module)
        return self.status(name)

    async def _settle(self, module: Supervised) -> None:
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                await module.settled.wait()
        except TimeoutError:
            if module.state is S.STARTING:
                await self._end(module, STOP_DEADLINE_S, S.FAILED, f"not ready within {READY_DEADLINE_S:g} s")

    async def stop(
        self,
        name: str,
        *,
        state: ModuleState = S.STOPPED,
        reason: str = "by order",
        within_s: float | None = None,
    ) -> ModuleStatus:
        """Cancel and wait for the end, at most the deadline."""
        module = self._find(name)
        async with module.order:
            if module.task is not None and not module.task.done():
                await self._end(module, STOP_DEADLINE_S if within_s is None else within_s, state, reason)
            elif module.state is not state:
                self._set(module, state, reason)
        return self.status(name)

    async def enable(self, name: str) -> ModuleStatus:
        """As `start`: an enabled module is one that runs. What is remembered is the caller's."""
        return await self.start(name)

    async def disable(self, name: str) -> ModuleStatus:
        return await self.stop(name, state=S.DISABLED, reason="by order")

    async def configure(self, name: str, changed: frozenset[str], live: frozenset[str]) -> ModuleStatus:
        """Take changed options: by `reload` where all of them are live and the module has one, else by a restart."""
        module = self._find(name)
        if self._is(
            module, S.STARTING
        ):  # perhaps with the options before: it takes the new ones once it runs
            async with module.order:
                pass  # an order to start is over when the module has settled, or at its deadline
        if not self._is(
            module, S.STARTING, S.RUNNING
        ):  # the first: starts again by itself, nobody can wait for it
            return self.status(name)  # takes them when it starts
        settings = self._settings(name)
        reason = "to take new options"
        if self._is(module, S.RUNNING) and changed <= live and settings is not None:
            try:
                reload = getattr(module.instance, "reload", None)
                if reload is not None:
                    reload(settings)
                    return self.status(name)
            except Exception as error:  # noqa: BLE001  isolation: it goes on as one that is started with the new options
                reason = f"its reload failed: {_sentence(error)}"
        await self.stop(name, reason=reason)
        return await self._begin(name)

    async def stop_all(self, left_s: Callable[[], float], *, keep: frozenset[str] = frozenset()) -> None:
        """Stop every module but those to keep at once, within the deadline and `left_s()`, which may shrink meanwhile."""
        modules = [module for name, module in self._modules.items() if name not in keep]
        for module in modules:
            if module.task is not None and not module.task.done():
                self._set(module, S.STOPPING, "the agent stops")
                module.task.cancel()
        waiting = {module.task for module in modules if module.task is not None and not module.task.done()}
        begun_ns = self._clock.monotonic_ns()
        shortest_s = 0.02  # most have nothing to do but to notice
        while waiting:
            spent_s = (self._clock.monotonic_ns() - begun_ns) / 1e9
            left = max(min(left_s(), STOP_DEADLINE_S - spent_s), shortest_s - spent_s)
            if left <= 0:
                break
            _, waiting = await asyncio.wait(waiting, timeout=min(left, 0.1))
        for module in modules:
            if module.state is S.STOPPING:
                stuck = module.task is not None and not module.task.done()
                self._set(module, S.FAILED if stuck else S.STOPPED, "did not stop in time" if stuck else "")

    # ---- one life

    async def _end(self, module: Supervised, within_s: float, state: ModuleState, reason: str) -> None:
        assert module.task is not None
        self._set(module, S.STOPPING, reason)
        module.task.cancel()
        _, stuck = await asyncio.wait({module.task}, timeout=within_s)
        if stuck:
            self._set(module, S.FAILED, f"did not stop within {within_s:g} s")
        else:
            self._set(module, state, "; ".join(filter(None, (reason, module.last_words))))
        module.settled.set()

    async def _life(self, module: Supervised) -> None:
        """The module's task. Whatever breaks, in the module or in here, ends this one and not the group."""
        try:
            await self._runs(module)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  isolation: the group would end every other module with it
            self._give_up(module, f"its supervision failed: {_sentence(error)}")
        finally:
            module.instance = None
            module.settled.set()
            if module.state in {S.STARTING, S.RUNNING}:  # nobody ordered this end
                self._give_up(module, "its task was cancelled")

    async def _runs(self, module: Supervised) -> None:
        """Run after run, until it is told to stop or is failed for good."""
        try:
            while True:
                module.running_ns = None
                final, reason = await self._once(module)
                task = asyncio.current_task()
                if (
                    task is not None and task.cancelling()
                ):  # told to stop, and ended in another way than cancelled
                    module.last_words = reason
                    return
                now = self._clock.monotonic_ns()
                if module.was_healthy(now):
                    module.restarts = 0
                module.failures.append(now)
                often = (
                    len(module.failures) == BREAKER_FAILURES and now - module.failures[0] <= BREAKER_WINDOW_NS
                )
                if often:
                    reason = (
                        f"{reason} ({BREAKER_FAILURES} failures in {BREAKER_WINDOW_NS // 60_000_000_000} min)"
                    )
                if final or often:
                    self._set(module, S.FAILED, reason)
                    return
                pause_s = min(FIRST_PAUSE_S * 2 ** min(module.restarts, LONGEST_DOUBLING), LONGEST_PAUSE_S)
                self._set(module, S.FAILED, f"{reason}; starts again in {pause_s:g} s")
                module.settled.set()
                module.pausing = True
                try:
                    await self._clock.sleep(pause_s)
                finally:
                    module.pausing = False
                module.restarts += 1
                self._set(module, S.STARTING, "")
        finally:
            self._conditions.clear_all(module.name)

    async def _once(self, module: Supervised) -> tuple[bool, str]:
        """One run. Returns whether another try is pointless, and why it ended; raises only when cancelled."""
        try:
            kind = modules_found.module_class(module.name, self._package)
            settings = self._settings(module.name)
            if settings is None:
                modules_found.options(module.name, self._package)  # raises why there are no settings
                settings = Settings(f"modules.{module.name}", {})
            lacking = self._missing(tuple(kind.requires))
            if lacking is not None:
                return True, lacking
            module.instance = kind(self._context(module.name, settings))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  isolation: whatever a module raises is its own
            return True, _sentence(error)
        try:
            await module.instance.run(lambda: self._ready(module))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return False, "cancelled itself"
        except BaseException as error:  # noqa: BLE001  as above
            final = isinstance(error, CapabilityMissing | FeatureUnsupported)
            return final, _sentence(error)
        finally:
            self._conditions.clear_all(module.name)
        return False, "ended by itself"

    def _ready(self, module: Supervised) -> None:
        if module.state is S.STARTING:
            module.running_ns = self._clock.monotonic_ns()
            self._set(module, S.RUNNING, "")
            module.settled.set()

    @staticmethod
    def _is(module: Supervised, *states: ModuleState) -> bool:
        """Its state now. Asked by a call, since a type checker takes an attribute for unchanged over an await."""
        return module.state in states

    def _set(self, module: Supervised, state: ModuleState, reason: str) -> None:
        module.state, module.reason, module.since_ns = state, reason, self._clock.wall_ns()
        self._changed(self.status(module.name))

    def _give_up(self, module: Supervised, reason: str) -> None:
        """Failed for good. Raises nothing: what is told of changes may be the very thing that broke."""
        with contextlib.suppress(Exception):
            self._set(module, S.FAILED, reason)
        module.settled.set()


def _sentence(error: BaseException) -> str:
    """What failed, in one line, with the stable code of ours or the class of others'."""
    code = error.code if isinstance(error, AegisError) else type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  a module's own class, which may be broken as well
        text = "and cannot say why"
    return f"{code}: {' '.join(text.split())}".rstrip(": ")
