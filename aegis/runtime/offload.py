"""The only place with threads: for calls that block in the kernel and cannot be waited for on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

T = TypeVar("T")


def lock() -> AbstractContextManager[bool]:
    """For what a call on a thread uses and the loop may take away. The loop waits for it only at the end of things."""
    return threading.Lock()


async def run(call: Callable[[], T]) -> T:
    """The result of `call`, made on a thread of its own that ends with it.

    Cancelling leaves the thread to its end, and drops the result: only for calls that end by themselves soon.
    """
    work, done = _promised(call)
    threading.Thread(target=work, name="offload", daemon=True).start()
    return await done


def _promised(call: Callable[[], T]) -> tuple[Callable[[], None], asyncio.Future[T]]:
    """What a thread is to run, and the future on this loop that then has what `call` gives or raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        try:
            result, error = call(), None
        except BaseException as raised:  # noqa: BLE001  it is raised where it is waited for
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    return work, done


class Gatherer(Generic[T]):
    """A thread that is handed everything that came while it was busy: what is alone goes at once, a crowd as one.

    `handle` runs on the thread, gets the things in the order they were put, and must not raise; it speaks to the loop
    by `call_soon_threadsafe`. It is never called with nothing.
    """

    def __init__(self, handle: Callable[[list[T]], None], name: str) -> None:
        self._handle = handle
        self._things: list[T] = []
        self._turn = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, thing: T) -> None:
        """From any thread. Raises RuntimeError after `close`."""
        with self._turn:
            if self._closed:
                raise RuntimeError("put after close")
            self._things.append(thing)
            if len(self._things) == 1:
                self._turn.notify()

    def close(self) -> None:
        """No more comes; what was put is handled. Does not wait; `join` does. Twice is harmless."""
        with self._turn:
            self._closed = True
            self._turn.notify()

    def join(self, within_s: float | None = None) -> bool:
        """Wait for the thread's end, after `close`; False when it took longer."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._turn:
                while not self._things and not self._closed:
                    self._turn.wait()
                things, self._things = self._things, []
            if not things:
                return
            self._handle(things)
            del things  # an idle thread would keep them, and the results in them, until the next come


class Worker(Gatherer[Callable[[], None]]):
    """A thread of its own for calls that belong together: one at a time, in the order they were submitted."""

    def __init__(self, name: str) -> None:
        super().__init__(_make_each, name)

    def submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """From the loop: what `call` gives or raises. Cancelling drops the result, not the call."""
        work, done = _promised(call)
        self.put(work)
        return done


def _make_each(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def this_thread() -> int:
    """What names the calling thread to the clock of its processor time and in the interpreter's table of frames."""
    return threading.get_ident()


class Lookout:
    """A thread that looks again and again: `look` runs on it, must not raise, and gives the seconds until the next."""

    def __init__(self, look: Callable[[], float], name: str) -> None:
        self._look = look
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more; one look may still be under way. Twice is harmless."""
        self._closed.set()

    def join(self, within_s: float | None = None) -> bool:
        """Wait for the thread's end, after `close`; False when it took longer."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._closed.wait(self._look()):
            pass
