from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aegis.agent.link.choice import choose
from aegis.agent.link.unsaid import Change, Reply
from aegis.agent.uplink import Uplink
from aegis.model.absent import Absent
from aegis.model.link import LinkState
from aegis.runtime import log as logging
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions
from aegis.runtime.settings import Settings


def uplink(state: Path, **gateway: Any) -> Uplink:
    values = {"url": None, "protocol": "auto", "min_protocol": None, "ca": None, "reregister": None} | gateway
    return Uplink(
        choice=choose(Settings("gateway", values)),
        agent_id="host-1",
        state_dir=str(state),
        clock=SystemClock(),
        log=logging.logger(),
        facts=dict,
        standing=list,
    )


@contextlib.asynccontextmanager
async def kept(one: Uplink, conditions: Conditions) -> Any:
    task = asyncio.create_task(
        one.keep(Settings("modules.websocket_communication", {}), conditions.scoped("link"))
    )
    await asyncio.sleep(0.01)
    try:
        assert not task.done()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_without_a_gateway_nothing_is_made_or_said(tmp_path: Path) -> None:
    one, conditions = uplink(tmp_path), Conditions(SystemClock())
    async with kept(one, conditions):
        status = one.status()
        assert (status.state, status.reason, conditions.all()) == (LinkState.UNCONFIGURED, "", ())
        for value in (status.url, status.uid, status.protocol, status.authenticated_ns, status.insecure_v1):
            assert isinstance(value, Absent)
            assert "no gateway is configured" in value.reason
    assert one.status().state is LinkState.UNCONFIGURED
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("gateway", [{}, {"protocol": "v2"}, {"min_protocol": 2, "protocol": "v1"}])
async def test_what_cannot_be_spoken_is_refused_and_no_key_made(
    tmp_path: Path, gateway: dict[str, Any]
) -> None:
    one, conditions = uplink(tmp_path, url="ws://gw:1", **gateway), Conditions(SystemClock())
    async with kept(one, conditions):
        status = one.status()
        assert (status.state, status.url) == (LinkState.REFUSED, "ws://gw:1/ws/agent")
        assert "v2 is not built yet" in status.reason
        assert isinstance(status.insecure_v1, Absent)
        (condition,) = conditions.all()
        assert (condition.code, "min_protocol = 1" in condition.hint) == ("gateway_refused", True)
    assert one.status().state is LinkState.DISCONNECTED
    assert os.listdir(tmp_path) == []


def test_authentication_holds_until_the_state_before_it(tmp_path: Path) -> None:
    one = uplink(tmp_path, url="ws://gw:1", protocol="v1")
    one.is_called("agent-1")
    one.is_now(LinkState.AUTHENTICATING)
    assert isinstance(one.status().authenticated_ns, Absent)
    one.authenticated()
    since = one.status().authenticated_ns
    assert isinstance(since, int)
    one.is_now(LinkState.CONNECTED)
    assert (one.status().authenticated_ns, one.status().uid, one.connected) == (since, "agent-1", True)
    one.is_now(LinkState.BACKOFF, "gone")
    assert isinstance(one.status().authenticated_ns, Absent)
    assert (one.status().uid, one.status().reason, one.status().insecure_v1) == ("agent-1", "gone", True)


def test_answers_are_kept_and_changes_are_not(tmp_path: Path) -> None:
    one = uplink(tmp_path, url="ws://gw:1", protocol="v1")
    woken: list[None] = []
    one.wake = lambda: woken.append(None)
    one.tell(Change(subject=("module", "a"), state={}))
    assert (one.unsaid.next(), woken) == (None, [])
    reply = Reply(in_reply_to="1", ok=True)
    one.answer(reply)
    assert (one.unsaid.next(), len(woken)) == (reply, 1)
    one.is_now(LinkState.CONNECTED)
    one.unsaid.said(reply)
    one.tell(Change(subject=("module", "a"), state={}))
    assert (one.unsaid.next(), len(woken)) == (Change(subject=("module", "a"), state={}), 2)


def test_the_libraries_of_a_link_are_loaded_with_the_first_one_only() -> None:
    script = "import sys, aegis.agent.uplink, aegis.agent.link.room; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert loaded & {"nacl", "sqlite3", "cbor2", "websockets.asyncio.client", "aegis.protocol.agent"} == set()
