"""TCP sockets by state, in a namespace where the test knows every one of them."""

from __future__ import annotations

import contextlib
import socket

import pytest

from aegis.errors import HostError
from aegis.host.sockdiag import STATES, SocketCounts
from tests.support.awaiting import await_condition
from tests.support.world import World


@pytest.mark.parametrize("family", [4, 6])
def test_every_state_that_can_be_held_still_is_counted(world: World, family: int) -> None:
    a, b = (world.a.v4, world.b.v4) if family == 4 else (world.a.v6, world.b.v6)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with world.a.entered():
        counts = SocketCounts()
    with counts, contextlib.ExitStack() as stack:
        assert counts.tcp() == dict.fromkeys(STATES, 0)
        listener = stack.enter_context(world.a.socket(kind))
        listener.bind((a, 0))
        listener.listen(64)
        pairs = []
        for _ in range(7):
            client = stack.enter_context(world.b.socket(kind))
            client.connect(listener.getsockname()[:2])
            pairs.append((client, stack.enter_context(listener.accept()[0])))
        assert counts.tcp() == dict.fromkeys(STATES, 0) | {"established": 7, "listen": 1}
        for client, server in pairs[:3]:
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""
        assert counts.tcp() == dict.fromkeys(STATES, 0) | {"established": 4, "close_wait": 3, "listen": 1}
        for client, server in pairs[3:5]:
            server.close()
            assert client.recv(1) == b""
        await_condition(lambda: counts.tcp()["fin_wait_1"] == 0)  # the last acknowledgement may be delayed
        assert counts.tcp() == dict.fromkeys(STATES, 0) | {
            "established": 2,
            "close_wait": 3,
            "fin_wait_2": 2,
            "listen": 1,
        }
        closed = stack.enter_context(world.a.socket(kind))
        closed.bind((a, 0))
        # Bound and neither listening nor connecting: not in the kernel's lists.
        assert counts.tcp()["closed"] == 0
        waiting = stack.enter_context(world.a.socket(kind))
        waiting.setblocking(False)
        waiting.connect_ex((b.replace("::2", "::99").replace(".1.2", ".1.99").replace("0.2", "0.99"), 9))
        assert counts.tcp()["syn_sent"] == 1


def test_thousands_are_counted_to_the_unit(world: World) -> None:
    with world.a.entered():
        counts = SocketCounts()
    with counts, contextlib.ExitStack() as stack:
        for _ in range(401):
            listener = stack.enter_context(world.a.socket())
            listener.bind((world.a.v4, 0))
            listener.listen(1)
        assert counts.tcp()["listen"] == 401


def test_a_closed_one_says_so() -> None:
    counts = SocketCounts()
    counts.close()
    with pytest.raises(HostError, match="count TCP sockets"):
        counts.tcp()
