"""What every test stands on: two event loops, features skipped by probe, no descriptor left open."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop
from hypothesis import settings

from tests.support import expect
from tests.support.testers import tester  # noqa: F401  (fixtures for every folder)
from tests.support.world import world  # noqa: F401

# Failing examples are kept for the next run, but not by root in the tree of someone else.
_KEEPS = {} if os.stat(__file__).st_uid == os.geteuid() else {"database": None}
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True, **_KEEPS)
settings.register_profile("here", deadline=None, **_KEEPS)
settings.load_profile("ci" if os.environ.get("CI") else "here")
uvloop.new_event_loop().close()  # libuv keeps one pipe a process from its first loop on; not a leak of any test


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each async test runs twice; `@pytest.mark.asyncio(loop_factories=["asyncio"])` keeps one to one loop."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("require"):
        expect.require(*marker.args)


@pytest.fixture
def require() -> Callable[..., None]:
    """`require("bpf", "tcx")` inside a test, for what is only known there."""
    return expect.require


def _descriptors() -> dict[int, str]:
    """Open descriptors by number, with what they point to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of this listing itself
            continue
    return found


@pytest.fixture(scope="module", autouse=True)
def no_descriptor_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test file that leaves BPF objects, sockets, namespaces or files open fails, naming them."""
    before = _descriptors()
    yield
    gc.collect()
    left = {number: target for number, target in _descriptors().items() if before.get(number) != target}
    assert not left, f"{request.node.nodeid} left open: {left}"
