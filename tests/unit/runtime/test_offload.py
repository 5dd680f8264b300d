from __future__ import annotations

import asyncio
import threading
import weakref

import pytest

from aegis.runtime import offload
from tests.support.awaiting import await_condition


async def test_the_loop_turns_while_a_call_blocks() -> None:
    gate = threading.Event()
    waiting = asyncio.create_task(offload.run(lambda: gate.wait(20)))
    await asyncio.sleep(0)
    gate.set()
    assert await waiting is True


async def test_what_it_raises_is_raised_here() -> None:
    def fail() -> None:
        raise ValueError("there")

    with pytest.raises(ValueError, match="there"):
        await offload.run(fail)


async def test_cancelling_leaves_the_thread_alone() -> None:
    loop, gate, ended = asyncio.get_running_loop(), threading.Event(), asyncio.Event()

    def call() -> None:
        gate.wait(20)
        loop.call_soon_threadsafe(ended.set)

    waiting = asyncio.create_task(offload.run(call))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await ended.wait()


def test_a_lookout_looks_at_its_own_pace_until_closed() -> None:
    pauses, looked = iter((0.0, 0.0, 3600.0)), threading.Event()
    threads: list[int] = []

    def look() -> float:
        threads.append(offload.this_thread())
        pause = next(pauses)
        if pause:
            looked.set()
        return pause

    lookout = offload.Lookout(look, "looks")
    assert looked.wait(20)
    assert not lookout.join(0.01)
    lookout.close()
    lookout.close()
    assert lookout.join(20)
    assert len(threads) == 3
    assert {*threads} != {offload.this_thread()}


async def test_what_comes_while_it_is_busy_goes_together() -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    gate, groups = threading.Event(), []

    def handle(things: list[int]) -> None:
        gate.wait(20)
        groups.append(things)
        if sum(map(len, groups)) == 10:
            loop.call_soon_threadsafe(done.set)

    gatherer = offload.Gatherer(handle, "test")
    gatherer.put(0)
    await asyncio.sleep(0.05)
    for n in range(1, 10):
        gatherer.put(n)
    gate.set()
    await asyncio.wait_for(done.wait(), 5)
    gatherer.close()
    assert gatherer.join(5)
    assert groups == [[0], list(range(1, 10))]


def test_a_close_leaves_nothing_undone_and_takes_nothing_more() -> None:
    handled: list[int] = []
    gatherer = offload.Gatherer(handled.extend, "test")
    for n in range(1000):
        gatherer.put(n)
    gatherer.close()
    gatherer.close()
    with pytest.raises(RuntimeError):
        gatherer.put(1)
    assert gatherer.join(5)
    assert handled == list(range(1000))


def test_an_idle_thread_holds_nothing_of_what_it_handled() -> None:
    class Page:
        """As large as a result may be."""

    page, handled = Page(), threading.Event()
    alive = weakref.ref(page)

    def handle(_pages: list[Page]) -> None:
        handled.set()

    gatherer = offload.Gatherer(handle, "test")
    gatherer.put(page)
    del page
    assert handled.wait(5)
    await_condition(lambda: alive() is None, 5)
    gatherer.close()
    assert gatherer.join(5)


async def test_a_worker_makes_its_calls_in_order_on_one_thread() -> None:
    worker = offload.Worker("test")
    made: list[int] = []

    def call(number: int) -> int:
        made.append(number)
        return threading.get_ident()

    threads = await asyncio.gather(
        *(worker.submit(lambda number=number: call(number)) for number in range(9))
    )
    assert made == list(range(9))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await worker.submit(lambda: 1 // 0)
    worker.close()
    worker.close()
    assert worker.join(5)
    with pytest.raises(RuntimeError):
        worker.submit(lambda: 1)
