"""An agent's end of the link for tests of the gateway: `AgentSession` over the websockets client, nothing of the agent."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from aegis.model.block import BlockClass
from aegis.protocol.agent import AgentIdentity, AgentSession, Phase, Registration
from aegis.protocol.agent_happenings import Acknowledged, AgentHappening, Order

BOOT = bytes(range(16))


def item(time_ns: int, kind: str = "exec", **more: object) -> dict[str, Any]:
    """An event of some 600 bytes, as an agent sends it."""
    found: dict[str, Any] = {
        "schema": "aegis.event",
        "version": 1,
        "time": "2026-11-23T08:02:58.000000001Z",
        "time_ns": time_ns,
        "type": kind,
        "pid": 12345,
        "start_ns": 1234567890123,
        "ppid": 123,
        "uid": 0,
        "comm": "bash",
        "exe": "/usr/bin/bash",
        "args": ["bash", "-c", "echo hello world"],
        "args_truncated": False,
        "args_bytes": 25,
        "cwd": "/root/some/directory",
        "cgroup": "/system.slice/ssh.service",
        "unit": "ssh.service",
        "ancestors": [
            {"pid": 123, "start_ns": 12345678, "comm": "sshd", "exe": "/usr/sbin/sshd"},
            {"pid": 1, "start_ns": 100, "comm": "systemd", "exe": "/usr/lib/systemd/systemd"},
        ],
        "owner": "process",
    }
    return {**found, **more}


class TestAgent:
    """One connection. `happened` has everything the session told; `answer` is called with each order."""

    __test__ = False

    def __init__(self, socket: ClientConnection, session: AgentSession) -> None:
        self.socket = socket
        self.session = session
        self.happened: list[AgentHappening] = []
        self.orders: list[Order] = []
        self.answer: Callable[[Order], dict[str, Any] | None] | None = None
        self.ours = True
        self._turn = asyncio.Event()

    async def read(self) -> None:
        """Until the socket closes."""
        async for message in self.socket:
            for each in self.session.receive(message, time.monotonic_ns(), int(time.time())):
                self.happened.append(each)
                if isinstance(each, Order):
                    self.orders.append(each)
                    said = None if self.answer is None else self.answer(each)
                    if said is not None:
                        self.session.answer(each.command_id, wall_s=int(time.time()), **said)
            await self.flush()
            self._turn.set()

    async def flush(self) -> None:
        for frame in self.session.outgoing():
            said = frame if isinstance(frame, str) else frame.decode()
            await self.socket.send(said if self.ours else _unmarked(said))

    async def until(self, holds: Callable[[], bool], within_s: float = 5.0) -> None:
        """Wait until it holds; looked at whenever something came."""
        async with asyncio.timeout(within_s):
            while not holds():
                self._turn.clear()
                await self._turn.wait()

    async def up(self) -> None:
        await self.until(lambda: self.session.phase is Phase.UP)

    async def batch(self, first: int, items: list[dict[str, Any]], **more: Any) -> None:
        cls = more.pop("cls", BlockClass.EVENT)
        self.session.batch(
            cls,
            stream=more.pop("stream", 1),
            first=first,
            boot_id=BOOT,
            items_json=msgspec.json.encode(items),
            wall_s=int(time.time()),
            **more,
        )
        await self.flush()

    async def acknowledged(self, next_: int, cls: BlockClass = BlockClass.EVENT, stream: int = 1) -> None:
        def there() -> bool:
            return any(
                isinstance(each, Acknowledged)
                and (each.cls, each.stream) == (cls, stream)
                and each.next_ >= next_
                for each in self.happened
            )

        await self.until(there)


def _unmarked(frame: str) -> str:
    """A registration without the word that the agent is one of ours; any other frame as it is."""
    message = json.loads(frame)
    if message["channel"] != "agent.registration":
        return frame
    told = json.loads(base64.b64decode(message["payload"]))
    told["capabilities"].pop("aegis")
    message["payload"] = base64.b64encode(json.dumps(told).encode()).decode()
    return json.dumps(message)


def session_of(
    seed: bytes,
    *,
    agent_id: str = "host-1",
    uid: str | None = None,
    heartbeat_s: float = 20.0,
) -> AgentSession:
    return AgentSession(
        AgentIdentity(seed, agent_id, uid),
        entropy=os.urandom,
        registration=Registration(
            host_id=agent_id,
            version="0.1.0",
            platform={"os": "linux", "hostname": f"{agent_id}.example"},
        ),
        registration_delay_s=0.0,
        heartbeat_s=heartbeat_s,
    )


@asynccontextmanager
async def agent_at(
    address: tuple[str, int],
    seed: bytes,
    *,
    up: bool = True,
    ours: bool = True,
    answer: Callable[[Order], dict[str, Any] | None] | None = None,
    **more: Any,
) -> AsyncIterator[TestAgent]:
    """An agent with the key of `seed`, registered unless `up` is False; it answers orders from the beginning."""
    session = session_of(seed, **more)
    headers = dict(session.headers())
    user_agent = headers.pop("User-Agent")
    async with connect(
        f"ws://{address[0]}:{address[1]}/ws/agent",
        additional_headers=headers,
        user_agent_header=user_agent,
        compression=None,
        ping_interval=None,
    ) as socket:
        agent = TestAgent(socket, session)
        agent.answer = answer
        agent.ours = ours
        session.opened(time.monotonic_ns(), int(time.time()))
        await agent.flush()
        reading = asyncio.create_task(agent.read())
        ticking = asyncio.create_task(_tick(agent))
        try:
            if up:
                await agent.up()
            yield agent
        finally:
            for task in (reading, ticking):
                task.cancel()
            await asyncio.gather(reading, ticking, return_exceptions=True)


async def _tick(agent: TestAgent) -> None:
    while True:
        due = agent.session.next_deadline()
        now = time.monotonic_ns()
        await asyncio.sleep(0.02 if due is None else min(max((due - now) / 1e9, 0.001), 0.02))
        for each in agent.session.tick(time.monotonic_ns(), int(time.time())):
            agent.happened.append(each)
        await agent.flush()


async def eventually(holds: Callable[[], object], within: float = 5.0) -> None:
    """Return once it holds; fail after `within` seconds. The loop turns meanwhile."""
    until = time.monotonic() + within
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"did not come to hold within {within} s")
        await asyncio.sleep(0.005)
