"""The life of the process: a loop, the agent on it, a stop that ends in time whatever hangs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from aegis.agent.directories import Directories
from aegis.agent.entry import SIGNALS
from aegis.agent.wiring import Agent
from aegis.host.seclusion import seclude
from aegis.runtime import log as logging
from aegis.runtime.config import Configuration

STOP_S = 3.0  # from the first signal to the end of every orderly release
LAST_WORDS_S = 0.3  # for what is cancelled once no time is left


def live(configuration: Configuration, read: Callable[[], Configuration], directories: Directories) -> int:
    """Run until a signal. Returns 0; a crash is what it raises."""
    settings = configuration.table("log")
    logging.set_up(settings.text("level"), settings.text("format"))
    if problem := seclude():
        logging.logger(source="agent").warning("core dumps stay possible", error=problem)
    loop = new_loop(configuration.table("agent").text("loop"))
    try:
        return loop.run_until_complete(_Life(configuration, read, directories).run())
    finally:
        SIGNALS.notify = None
        loop.close()


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """`auto` is uvloop where it can be imported; plain asyncio does everything as well, slower."""
    if kind != "asyncio":
        try:
            import uvloop
        except ImportError:
            if kind == "uvloop":
                raise
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class _Life:
    def __init__(
        self, configuration: Configuration, read: Callable[[], Configuration], directories: Directories
    ) -> None:
        self._agent = Agent(configuration, read, directories)
        self._stop = asyncio.Event()
        self._stop_by_ns = 0
        self._reloads = 0
        self._reload: asyncio.Task[None] | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._failed)
        SIGNALS.before_last_resort = self._agent.leave_nothing
        with _woken_by_signals(loop):
            SIGNALS.notify = functools.partial(loop.call_soon_threadsafe, self._signalled)
            self._signalled()  # what came before there was a loop
            work = loop.create_task(self._work(), name="agent")
            stop = loop.create_task(self._stop.wait(), name="stop")
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if work.done():
                work.result()  # it ends by itself only by raising
            await self._end(work)
        return 0

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised, or a task nobody waits for: one line, with the place, and the loop goes on."""
        error = context.get("exception")
        place = error.__traceback__ if isinstance(error, BaseException) else None
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else None
        self._agent.log.error("callback failed", what=context.get("message"), error=repr(error), where=where)

    async def _work(self) -> None:
        async with self._agent.running(self._left_s):
            await asyncio.Event().wait()

    async def _end(self, work: asyncio.Task[None]) -> None:
        work.cancel()
        while not work.done() and self._left_s() > -LAST_WORDS_S:
            await asyncio.wait({work}, timeout=min(0.1, max(self._left_s() + LAST_WORDS_S, 0.001)))
        if not work.done():
            self._agent.log.error("something did not stop; leaving without it")
            self._agent.leave_nothing()
            os._exit(0)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    def _left_s(self) -> float:
        """Seconds until the stop must be over; the whole time while nobody asked for one."""
        if not self._stop_by_ns:
            return STOP_S
        return (self._stop_by_ns - self._agent.clock.monotonic_ns()) / 1e9

    def _signalled(self) -> None:
        """On the loop, some time after a signal."""
        now = self._agent.clock.monotonic_ns()
        if SIGNALS.stops == 1 and not self._stop_by_ns:
            self._stop_by_ns = now + round(STOP_S * 1e9)
        elif SIGNALS.stops > 1:
            self._stop_by_ns = min(self._stop_by_ns or now, now)
        if SIGNALS.stops:
            self._stop.set()
        elif SIGNALS.reloads > self._reloads and (self._reload is None or self._reload.done()):
            self._reloads = SIGNALS.reloads
            self._reload = asyncio.get_running_loop().create_task(self._agent.reload(), name="reload")
            self._reload.add_done_callback(lambda _: self._signalled())  # one may have come meanwhile


@contextlib.contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """A signal wakes the loop at once: Python's handler runs only when the main thread turns.

    uvloop has a wake-up descriptor of its own while it runs; plain asyncio has none unless it owns the handlers, which
    it would set back to the default at its end.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            yield
            return
        loop.add_reader(ours, _drain, ours)
        try:
            yield
        finally:
            loop.remove_reader(ours)
            signal.set_wakeup_fd(-1)


def _drain(ours: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        ours.recv(4096)
