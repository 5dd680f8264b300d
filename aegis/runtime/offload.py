"""The only place with threads: for calls that block in the kernel and cannot be waited for on the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

T = TypeVar("T")


def lock() -> AbstractContextManager[bool]:
    """For what a call on a thread uses and the loop may take away. The loop waits for it only at the end of things."""
    return threading.Lock()


async def run(call: Callable[[], T]) -> T:
    """The result of `call`, made on a thread of its own that ends with it.

    Cancelling leaves the thread to its end, and drops the result: only for calls that end by themselves soon.
    """
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
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=work, name="offload", daemon=True).start()
    return await done
