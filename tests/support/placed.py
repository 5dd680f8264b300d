"""Our two real programs in a world: a gateway in the peer's namespace, an agent in the host's, and what both say."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.agent import RunningAgent
from tests.support.awaiting import await_condition
from tests.support.gateway import RunningGateway
from tests.support.world import Place

PORT = 8080
LINK = "websocket_communication"
OPTIONS = """
[gateway]
url = "{url}"
min_protocol = 1
[policy]
unsigned_orders = "{orders}"
[modules.websocket_communication]
heartbeat_interval_s = 5
longest_pause_s = 1
"""


def options(gate: PlacedGateway, *, orders: str = "accept", more: str = "") -> str:
    """Of an agent of this gateway that tries again soon."""
    return OPTIONS.format(url=gate.url, orders=orders) + more


class PlacedGateway(RunningGateway):
    """As its base, in a place: agents reach it at the place's address, its API is on the place's loopback."""

    def __init__(self, directory: Path, place: Place, *arguments: str) -> None:
        super().__init__(directory, *arguments)
        self.place = place
        self.port = PORT
        self.command[self.command.index("--listen") + 1] = f"{place.v4}:{PORT}"

    @property
    def url(self) -> str:
        return f"ws://{self.place.v4}:{PORT}/ws/agent"

    def start(self) -> None:
        with self.place.entered():
            super().start()

    def call(self, method: str, path: str, body: object = None, *, token: str | None = "") -> tuple[int, Any]:
        with self.place.entered():
            return super().call(method, path, body, token=token)

    def order(
        self, uid: str, wait: str = "20s", channel: str = "backend.modules", **message: Any
    ) -> dict[str, Any]:
        """Send an order and wait for what comes of it."""
        body = {"channel": channel, "message": message}
        status, sent = self.call("POST", f"/agents/{uid}/send?wait={wait}", body)
        assert status == 200, sent
        found: dict[str, Any] = sent
        return found

    def rows(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Every item of a list of records, page after page; `path` as /events."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            status, page = self.get(f"{path}?limit=10000&{words}{cursor}")
            assert status == 200, page
            found += page["items"]
            if not page.get("next"):
                return found
            cursor = f"&cursor={page['next']}"


@contextmanager
def placed_gateway(directory: Path, place: Place, *arguments: str) -> Iterator[PlacedGateway]:
    gate = PlacedGateway(directory, place, *arguments)
    gate.start()
    try:
        yield gate
    finally:
        if gate.process is not None:
            assert gate.stop() == 0
        assert "Traceback" not in gate.log.read_text(), gate.log.read_text()


@contextmanager
def at_work(agent: RunningAgent) -> Iterator[RunningAgent]:
    """The agent runs while the block lasts."""
    agent.start()
    try:
        yield agent
    finally:
        if agent.process is not None:
            assert agent.stop() == 0
        assert "Traceback" not in agent.log.read_text(), agent.log.read_text()


def link_of(agent: RunningAgent) -> dict[str, Any]:
    found: dict[str, Any] = agent.ask("status")[0]["gateway"]
    return found


def connected(agent: RunningAgent, seconds: float = 30) -> str:
    """Wait until it is; its uid."""
    await_condition(lambda: link_of(agent)["state"] == "connected", seconds, every=0.02)
    uid: str = agent.ask("status")[0]["agent"]["uid"]
    return uid


def seconds_unheard(gate: PlacedGateway, uid: str) -> float:
    """How long ago the gateway says that it heard of the agent."""
    return time.time() - datetime.fromisoformat(gate.agents()[uid]["last_seen"]).timestamp()


def nft(place: Place, *words: str) -> None:
    """A command of nft in the namespace."""
    with place.entered():
        subprocess.run(["nft", *words], check=True, capture_output=True)
