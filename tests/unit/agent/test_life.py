from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from aegis.agent.life import _woken_by_signals, new_loop


def test_uvloop_is_taken_where_it_is_and_plain_asyncio_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind, module in (("auto", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")):
        loop = new_loop(kind)
        loop.close()
        assert type(loop).__module__.split(".")[0] == module
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_loop("auto")
    loop.close()
    assert type(loop).__module__.split(".")[0] == "asyncio"
    with pytest.raises(ImportError):
        new_loop("uvloop")


async def test_a_signal_turns_an_idle_loop_at_once() -> None:
    """Without a wake-up descriptor the handler could wait for the next thing the loop has to do."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(came.set))
    try:
        with _woken_by_signals(loop):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            async with asyncio.timeout(20):
                await came.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_the_wake_up_descriptor_is_given_back() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        outer = signal.set_wakeup_fd(theirs.fileno())
        try:
            with _woken_by_signals(asyncio.get_running_loop()):
                pass
            assert signal.set_wakeup_fd(outer) == theirs.fileno()
        finally:
            signal.set_wakeup_fd(outer)


SECLUDED = """
from aegis.agent import life
from aegis._native._system import lib
from aegis.runtime.config import load
PR_GET_DUMPABLE = 3
class Life:
    def __init__(self, *_): print(lib.prctl(PR_GET_DUMPABLE))
    async def run(self): return 0
life._Life = Life
print(lib.prctl(PR_GET_DUMPABLE))
life.live(load(None, environ={}), None, None)
"""


def test_an_agent_leaves_no_core_dump_with_its_keys() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SECLUDED], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout.split() == ["1", "0"]
