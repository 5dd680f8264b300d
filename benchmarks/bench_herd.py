"""Two thousand agents whose gateway is killed, and fifty sockets that flood it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import struct
import time
from pathlib import Path

import uvloop

from aegis.host import children
from aegis.protocol.backoff import FIRST_S, Backoff
from benchmarks.bench_gateway import HOST, Gateway, gateway
from benchmarks.rows import Row, quantile
from benchmarks.wire import Client, Prepared, envelope, frame, prepare

AGENTS = 2_000
FLOODERS = 50
FLOOD_S = 10.0
WARM_S = 2.0  # until every buffer has been filled once
HONEST = 60


def run() -> list[Row]:
    return [*_herd(), *_flood()]


# ---- the herd


class Member:
    """One agent: registered once, afterwards only authenticating, with the waits of our own agents."""

    def __init__(self, number: int, port: int, uid: str, prepared: Prepared) -> None:
        self.number, self.port, self.uid, self.prepared = number, port, uid, prepared
        self.backoff = Backoff(entropy=os.urandom)
        self.up_at = 0.0
        self.tries = 0

    async def live(self) -> None:
        while True:
            try:
                self.tries += 1
                await self._session()
            except (OSError, EOFError, ValueError, asyncio.IncompleteReadError, TimeoutError):
                pass
            await asyncio.sleep(self.backoff.next_s())

    async def _session(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            async with asyncio.timeout(10):
                fresh = _again(self.prepared)
                writer.write(fresh.upgrade)
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 101"):
                    raise ValueError(head[:60])
                writer.write(fresh.authentication)
                answer = await _text(reader)
                if b'"auth"' not in answer:
                    raise ValueError(answer[:60])
            self.up_at = time.monotonic()
            self.backoff.reset()
            while True:
                opcode, payload = await _frame(reader)
                if opcode == 9:
                    writer.write(frame(payload, 10))
                elif opcode == 8:
                    return
        finally:
            writer.transport.abort()


def _again(prepared: Prepared) -> Prepared:
    """The same identity with a new request to authenticate."""
    from benchmarks.wire import b64

    key, now, nonce = b64(bytes(prepared.signer.verify_key)), int(time.time()), b64(os.urandom(16))
    signature = b64(prepared.signer.sign(f"{prepared.name}:{key}:{now}:{nonce}".encode()).signature)
    request = {
        "agent_id": prepared.name,
        "public_key": key,
        "timestamp": now,
        "nonce": nonce,
        "signature": signature,
    }
    return Prepared(prepared.signer, prepared.name, prepared.upgrade, envelope("auth", request))


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readexactly(2)
    size = head[1] & 127
    if size == 126:
        size = struct.unpack("!H", await reader.readexactly(2))[0]
    elif size == 127:
        size = struct.unpack("!Q", await reader.readexactly(8))[0]
    return head[0] & 15, await reader.readexactly(size)


async def _text(reader: asyncio.StreamReader) -> bytes:
    while True:
        opcode, payload = await _frame(reader)
        if opcode == 1:
            return payload


async def _herd_lives(port: int, commands: int, answers: int) -> None:
    """The herd's process: registers all, then answers `b"u"` with how many are up and when the last one came."""
    members = []
    for number in range(AGENTS):
        prepared = prepare(HOST, port, number)
        client = Client(HOST, port, prepared)
        client.enter()
        client.close()
        members.append(Member(number, port, client.uid, prepared))
    tasks = [asyncio.create_task(member.live()) for member in members]
    loop = asyncio.get_running_loop()
    while True:
        command = await loop.run_in_executor(None, os.read, commands, 1)
        if command in (b"", b"q"):
            break
        last = [member.up_at for member in members]
        tries = max(member.tries for member in members)
        os.write(answers, (json.dumps({"up_at": sorted(last), "tries": tries}) + "\n").encode())
    for task in tasks:
        task.cancel()


def _herd_process(port: int, commands: int, answers: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    uvloop.run(_herd_lives(port, commands, answers))


def _herd() -> list[Row]:
    with gateway() as gate:
        commands = os.pipe()
        answers = os.pipe()
        with children.call(_herd_process, gate.port, commands[0], answers[1]) as herd:
            with os.fdopen(answers[0]) as told:

                def ups(since: float) -> list[float]:
                    os.write(commands[1], b"u")
                    found: list[float] = json.loads(told.readline())["up_at"]
                    return [at for at in found if at > since]

                _until(lambda: len(ups(0.0)) == AGENTS and _connected(gate) == AGENTS, 120)
                assert gate.process is not None
                gate.process.send_signal(signal.SIGKILL)
                gate.process.wait()
                killed = time.monotonic()
                gate.start()
                back_at = time.monotonic()
                _until(lambda: len(ups(killed)) == AGENTS, 120)
                took = max(ups(killed)) - back_at
                time.sleep(1)
                peak = _peak_bytes(gate) / 1e6
                # A second wave would be agents that came back and were thrown out again.
                before = _connected(gate)
                time.sleep(8)
                again = ups(back_at + took)
                after = _connected(gate)
            os.write(commands[1], b"q")
            herd.wait()
        if (before, after, again) != (AGENTS, AGENTS, []):
            raise RuntimeError(f"{before}, then {after} of {AGENTS} connected; {len(again)} came twice")
    return [
        Row(
            name="herd_back",
            value=took,
            unit="s",
            samples=[took],
            note=f"{AGENTS} agents, from the gateway's readiness to the last one's return; window {FIRST_S:.0f} s",
        ),
        Row(
            name="herd_memory",
            value=peak,
            unit="MB",
            samples=[peak],
            note="the gateway's peak resident memory",
        ),
    ]


def _until(holds: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise RuntimeError("the herd did not come up")
        time.sleep(0.5)


def _connected(gate: Gateway) -> int:
    total = 0
    for offset in range(0, AGENTS, 1000):
        _, found = gate.call("GET", f"/agents?limit=1000&offset={offset}")
        total += sum(row["connected"] for row in found["agents"])
    return total


def _peak_bytes(gate: Gateway) -> int:
    assert gate.process is not None
    for line in Path(f"/proc/{gate.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


# ---- the flood


def _flood() -> list[Row]:
    with gateway() as gate:
        clients = []
        for number in range(FLOODERS):
            client = Client(HOST, gate.port, prepare(HOST, gate.port, number))
            client.enter()
            clients.append(client)
        time.sleep(0.5)
        flooders = children.call(_flooding, [client.socket for client in clients], [c.uid for c in clients])
        waits: list[float] = []
        grown: list[float] = []
        with flooders:
            time.sleep(WARM_S)
            before = gate.rss_bytes()
            ends = time.monotonic() + FLOOD_S
            number = FLOODERS
            while time.monotonic() < ends:
                started = time.monotonic()
                honest = Client(HOST, gate.port, prepare(HOST, gate.port, number))
                honest.enter()
                waits.append(time.monotonic() - started)
                honest.close()
                number += 1
                grown.append((gate.rss_bytes() - before) / 1e6)
                time.sleep(max(0.0, FLOOD_S / HONEST - waits[-1]))
            flooders.signal(signal.SIGKILL)
        for client in clients:
            client.close()
    return [
        Row(
            name="flood_connect_p99",
            value=quantile(waits, 0.99),
            unit="s",
            samples=waits,
            note=f"an honest agent's whole exchange while {FLOODERS} sockets send heartbeats for {FLOOD_S:.0f} s",
        ),
        Row(name="flood_memory", value=max(grown), unit="MB", samples=grown, note="the gateway's growth"),
    ]


def _flooding(sockets: list[socket.socket], uids: list[str]) -> None:
    """Heartbeats into every socket as fast as each takes them."""
    import selectors

    chooser = selectors.DefaultSelector()
    for each, uid in zip(sockets, uids, strict=True):
        each.settimeout(0)
        chooser.register(
            each, selectors.EVENT_WRITE, envelope(f"agent.{uid}.heartbeat", {}, "heartbeat") * 50
        )
    left: dict[int, bytes] = {}
    while True:
        for key, _ in chooser.select(1):
            waiting = left.get(key.fd) or key.data
            try:
                sent = key.fileobj.send(waiting)  # type: ignore[union-attr]
            except BlockingIOError:
                continue
            except OSError:
                chooser.unregister(key.fileobj)
                continue
            left[key.fd] = waiting[sent:]
