from __future__ import annotations

import asyncio
import threading

import pytest

from aegis.runtime import offload


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
