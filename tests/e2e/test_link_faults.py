"""What the kernel told of is in the gateway's store exactly once, whatever happens to either end or between them."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.strangers.v1_agent import Died, StrangeAgent
from tests.support.agent import RunningAgent
from tests.support.awaiting import await_condition
from tests.support.link_ledger import Ledger
from tests.support.link_mutants import planted
from tests.support.placed import LINK, PORT, PlacedGateway, at_work, connected, link_of, nft, options
from tests.support.proxy import Proxy
from tests.support.scale import scaled
from tests.support.world import World, open_world

pytestmark = [pytest.mark.require("root", "bpf", "bpffs", "nft"), pytest.mark.timeout(180)]

DETECTED_S = 15.0
LIGHT = ("--modules", f"observability,telemetry,{LINK}", "--interface", "none")
CUT = "add table inet cut; add chain inet cut {way} {{ type filter hook {way} priority 0; policy drop; }}"


class Rig:
    """A gateway in b, a proxy beside it, an agent in a that has one of both as its gateway."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.gate = PlacedGateway(directory, world.b)
        listener = world.b.socket()
        listener.bind((world.b.v4, PORT + 1))
        listener.listen(16)
        self.proxy = Proxy(listener, self._dial)
        self.agent = RunningAgent(world, world.a, "agent", "", LIGHT)
        self.uid = ""
        self.more = ""  # options of the agent

    def _dial(self) -> socket.socket:
        with self.world.b.entered():
            end = socket.socket()
        # Else the kernel's buffers grow until they hold all that an agent which does not read is sent.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        end.settimeout(2)
        end.connect((self.world.b.v4, PORT))
        return end

    @contextmanager
    def running(self) -> Iterator[Rig]:
        self.gate.start()
        try:
            self.ledger = Ledger(self.world, self.gate)
            self.configure()
            with self.proxy, at_work(self.agent):
                self.uid = connected(self.agent)
                yield self
        finally:
            if self.gate.process is not None:
                assert self.gate.stop() == 0
            assert "Traceback" not in self.gate.log.read_text(), self.gate.log.read_text()

    def configure(self, *, proxied: bool = False) -> None:
        text = options(self.gate, more=self.more)
        if proxied:
            text = text.replace(f":{PORT}/", f":{PORT + 1}/")
        (self.agent.directory / "agent.toml").write_text(text)

    @contextmanager
    def proxied(self) -> Iterator[Proxy]:
        """The agent's gateway is the proxy while the block lasts."""
        for one, after in ((True, False), (False, True)):
            assert self.agent.stop() == 0
            self.configure(proxied=one)
            self.agent.start()
            connected(self.agent)
            if not after:
                yield self.proxy

    @contextmanager
    def working(self, count: int, *, certain: bool = True) -> Iterator[None]:
        """Programs are started, one after the other, while the block lasts and until there were so many."""
        worker = threading.Thread(target=self.ledger.work, args=(count,), kwargs={"certain": certain})
        worker.start()
        try:
            yield
        finally:
            worker.join()

    def kill_agent(self) -> None:
        assert self.agent.stop(signal.SIGKILL) == -signal.SIGKILL


@contextmanager
def made(directory: Path) -> Iterator[Rig]:
    with open_world() as world, Rig(world, directory).running() as rig:
        yield rig


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with made(tmp_path_factory.mktemp("link")) as one:
        yield one


def test_nothing_happens(rig: Rig) -> None:
    rig.ledger.work(50)
    rig.ledger.judge()


def test_the_gateway_is_killed_and_comes_back(rig: Rig) -> None:
    for _ in range(scaled(2, 20)):
        with rig.working(150):
            time.sleep(0.05)
            assert rig.gate.stop(signal.SIGKILL) == -signal.SIGKILL
        rig.ledger.work(50)
        rig.gate.start()
        connected(rig.agent)
        rig.ledger.judge()


def test_the_agent_is_killed_while_nobody_takes_what_it_has(rig: Rig) -> None:
    assert rig.gate.stop(signal.SIGKILL) == -signal.SIGKILL
    rig.ledger.work(150)
    time.sleep(0.5)  # events are written within a tenth of a second
    with rig.working(60, certain=False):
        time.sleep(0.03)
        rig.kill_agent()
    rig.agent.start()
    rig.gate.start()
    connected(rig.agent)
    rig.ledger.judge()


def test_the_connection_is_reset_again_and_again(rig: Rig) -> None:
    with rig.proxied() as proxy:
        for _ in range(scaled(4, 60)):
            with rig.working(80):
                await_condition(lambda: link_of(rig.agent)["state"] == "connected")
                time.sleep(0.05)
                assert proxy.reset() == 1
        rig.ledger.judge()


def test_the_network_is_slow_and_then_takes_nothing(rig: Rig) -> None:
    """A slow reader, seen from the agent: what waits is in the outbox, live state is told, and nothing is lost."""
    with rig.proxied() as proxy:
        proxy.up.bytes_s, proxy.up.latency_s, proxy.down.latency_s = 60_000, 0.1, 0.1
        try:
            rig.ledger.work(300)
            begun = time.monotonic()
            assert link_of(rig.agent)["state"] == "connected"
            assert time.monotonic() - begun < 1
            proxy.up.stalled = True
            rig.ledger.work(100)
        finally:
            proxy.up.bytes_s, proxy.up.latency_s, proxy.down.latency_s = None, 0.0, 0.0
            proxy.up.stalled = False
        rig.ledger.judge()


def large_orders(rig: Rig, numbers: range) -> list[str]:
    """Orders of 100 KB each; their ids."""
    orders = [
        {
            "agent_uid": rig.uid,
            "channel": "backend.modules",
            "message": {"type": "list_modules", "command_id": f"slow-{number}", "pad": "x" * 100_000},
        }
        for number in numbers
    ]
    status, sent = rig.gate.call("POST", "/agents/send", {"orders": orders})
    assert status == 200, sent
    return [one["message_id"] for one in sent["messages"]]


def test_an_agent_that_does_not_read_loses_its_connection_and_gets_its_orders_later(rig: Rig) -> None:
    with rig.proxied() as proxy:
        proxy.down.stalled = True
        begun = time.monotonic()
        names = []
        try:
            for first in range(0, 40, 8):  # 4 MB, of which the sockets on the way hold less than two
                names += large_orders(rig, range(first, first + 8))
            rig.ledger.work(50)
            # Cut by the gateway, or left by the agent, whose pings nobody answers: whoever notices first.
            await_condition(lambda: not rig.gate.agents()[rig.uid]["connected"], 40, every=0.1)
            print(f"over after {time.monotonic() - begun:.1f} s")
        finally:
            proxy.down.stalled = False
            proxy.reset()
        connected(rig.agent)
        connected(rig.agent)

        def stands() -> Counter[str]:
            return Counter(rig.gate.get(f"/messages/{name}")[1]["status"] for name in names)

        # What a kernel had taken is `sent`, which promises no more; all that waited is answered over the new connection.
        await_condition(lambda: set(stands()) <= {"sent", "answered"}, 30, every=0.1)
        print(dict(stands()))
        assert stands()["answered"] >= 10
        rig.ledger.judge()


def test_a_connection_that_is_half_open_is_noticed_by_both(rig: Rig) -> None:
    """Every packet is dropped both ways, silently, while the agent has something to send."""
    noticed: dict[str, float] = {}
    connected(rig.agent)
    assert rig.gate.agents()[rig.uid]["connected"] is True
    for way in ("input", "output"):
        nft(rig.world.a, CUT.format(way=way))
    gone = time.monotonic()
    try:
        rig.ledger.work(20)
        while len(noticed) < 2:
            assert time.monotonic() < gone + 2 * DETECTED_S, noticed
            if link_of(rig.agent)["state"] != "connected":
                noticed.setdefault("agent", time.monotonic() - gone)
            if not rig.gate.agents()[rig.uid]["connected"]:
                noticed.setdefault("gateway", time.monotonic() - gone)
            time.sleep(0.05)
    finally:
        nft(rig.world.a, "delete table inet cut")
    print({name: round(seconds, 1) for name, seconds in noticed.items()})
    assert max(noticed.values()) <= DETECTED_S
    connected(rig.agent)
    rig.ledger.judge()


def test_one_key_registers_many_times_at_once(rig: Rig) -> None:
    agents = [StrangeAgent(rig.gate.url, "twin", seed=bytes(range(32))) for _ in range(16)]
    for one in agents:
        one.ping = lambda: None  # type: ignore[method-assign]  # it waits long for a pong of who has gone
    outcomes: list[bool] = []

    def connect(one: StrangeAgent) -> None:
        with rig.world.a.entered():
            try:
                one.connect()
            except (Died, ConnectionClosed, OSError, TimeoutError, AssertionError):
                outcomes.append(False)  # a newer connection of the key took its place
            else:
                outcomes.append(True)

    threads = [threading.Thread(target=connect, args=(one,)) for one in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in agents:
        one.drop()
    assert any(outcomes)
    assert sorted(rig.gate.agents()) == sorted({rig.uid, next(one.uid for one in agents if one.uid)})


def test_another_socket_of_the_agents_key(rig: Rig) -> None:
    """Each takes the other's place for a moment; the agent says so and waits, and no record is lost or doubled."""
    import base64
    import json

    seed = base64.b64decode(json.loads((rig.agent.directory / "state" / "agent.key").read_text())["seed"])
    with rig.working(150):
        for _ in range(scaled(2, 10)):
            twin = StrangeAgent(rig.gate.url, "twin", seed=seed)
            with rig.world.a.entered():
                twin.connect()
            assert twin.uid == rig.uid
            await_condition(lambda: link_of(rig.agent)["state"] != "connected")
            conditions = {each["code"] for each in rig.agent.ask("status")[0]["conditions"]}
            assert "session_conflict" in conditions
            twin.drop()
            # It would come back by itself, in a minute at the earliest: two of one key are not to take turns.
            for order in ("stop", "start"):
                rig.agent.ask(f"modules.{order}", name="websocket_communication")
            connected(rig.agent)
    assert rig.gate.agents()[rig.uid]["connected"] is True, (
        "the older socket's end took the newer one's place away"
    )
    rig.ledger.judge()
    assert rig.gate.order(rig.uid, type="list_modules")["status"] == "answered"


# ---- the judge must find bugs


def test_a_gateway_that_acknowledges_before_it_commits_is_found(tmp_path: Path) -> None:
    with open_world() as world:
        rig = Rig(world, tmp_path)
        rig.gate.command = planted("acknowledges-first", rig.gate.command)
        with rig.running():
            rig.ledger.work(40)
            rig.ledger.judge()
            rig.ledger.work(40)
            time.sleep(0.5)  # acknowledged, and not committed
            rig.gate.stop(signal.SIGKILL)
            rig.gate.start()
            connected(rig.agent)
            rig.ledger.settle(4)
            assert rig.ledger.missing


def test_a_gateway_that_does_not_know_what_it_has_is_found(tmp_path: Path) -> None:
    with open_world() as world:
        rig = Rig(world, tmp_path)
        rig.gate.command = planted("stores-twice", rig.gate.command)
        with rig.running(), rig.proxied() as proxy:
            proxy.down.stalled = True  # acknowledgements do not arrive
            rig.ledger.work(40)
            rig.ledger.settle()
            proxy.reset()
            proxy.down.stalled = False
            connected(rig.agent)
            rig.ledger.work(10)
            rig.ledger.settle()
            assert rig.ledger.twice


def test_an_agent_that_deletes_what_nobody_acknowledged_is_found(tmp_path: Path) -> None:
    with open_world() as world:
        rig = Rig(world, tmp_path)
        rig.agent.command = planted("forgets-what-is-under-way", rig.agent.command)
        with rig.running(), rig.proxied() as proxy:
            proxy.up.stalled = True
            rig.ledger.work(40)
            time.sleep(0.5)
            proxy.reset()
            proxy.up.stalled = False
            connected(rig.agent)
            rig.ledger.work(10)
            rig.ledger.settle(4)
            assert rig.ledger.missing
