"""The gateway as a process: start, what it says, agents, kill and come back, stop."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.gateway import RunningGateway, gateway
from tests.support.gateway_agents import agent_at, eventually, item

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])
SEED = b"e" * 32


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aegis.cli.main", "gateway", "run", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **more},
    )


def begun(directory: Path) -> subprocess.Popen[bytes]:
    """A gateway that is not waited for."""
    command = [sys.executable, "-m", "aegis.cli.main", "gateway", "run", "--allow-v1"]
    command += [
        "--data-dir",
        str(directory / "d"),
        "--listen",
        "127.0.0.1:0",
        "--actions-listen",
        "127.0.0.1:0",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def takes_signals(pid: int) -> bool:
    """Whether the command has begun; before, the interpreter's own rules hold."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


async def test_an_agent_its_events_and_an_order(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        said = running.log.read_text()
        assert f"aegis-agent --gateway-url ws://127.0.0.1:{running.port} --protocol v1" in said
        assert str(tmp_path / "data" / "operator.token") in said
        assert running.token not in said
        async with agent_at(
            ("127.0.0.1", running.port), SEED, answer=lambda _: {"ok": True, "text": "done"}
        ) as agent:
            now = time.time_ns()
            began = time.monotonic()
            await agent.batch(0, [item(now, "connect", src="10.0.0.1", dst="192.0.2.9"), item(now + 1)])
            await agent.acknowledged(2)
            assert time.monotonic() - began < 1.0
            uid = agent.session.uid
            status, found = await asyncio.to_thread(running.get, f"/agents/{uid}")
            assert (status, found["status"], found["connected"]) == (200, "online", True)
            order = {"channel": "backend.modules", "message": {"type": "list_modules"}}
            status, sent = await asyncio.to_thread(running.call, "POST", f"/agents/{uid}/send?wait=5s", order)
            assert (status, sent["status"], sent["answer"]["text"]) == (200, "answered", "done")
            status, page = await asyncio.to_thread(running.get, "/events?peer=192.0.2.9")
            assert status == 200
            assert [each["time_ns"] for each in page["items"]] == [now]
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text()


async def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    """kill -9 at random moments: no acknowledged item is missing, and none is there twice."""
    rng = random.Random(3)
    running = RunningGateway(tmp_path)
    acknowledged = 0
    for _ in range(4):
        running.start()
        async with agent_at(("127.0.0.1", running.port), SEED) as agent:
            first = acknowledged
            killer = asyncio.get_running_loop().call_later(
                0.05 + rng.random() * 0.3, os.kill, running.pid, signal.SIGKILL
            )
            try:
                for n in range(first, first + 2000):
                    await agent.batch(n, [item(n)])
                    if n % 10 == 0:
                        await asyncio.sleep(0.002)
                await agent.socket.wait_closed()
            except (OSError, ConnectionClosed):
                pass
            killer.cancel()
            said = [each.next_ for each in agent.happened if type(each).__name__ == "Acknowledged"]
            acknowledged = max([acknowledged, *said])
        assert running.process is not None
        running.process.wait()
        running.process = None
    assert acknowledged > 0
    running.start()
    seen: list[int] = []
    cursor = ""
    while True:
        status, page = await asyncio.to_thread(running.get, f"/events?limit=1000{cursor}")
        assert status == 200
        seen += [each["time_ns"] for each in page["items"]]
        if not page.get("next"):
            break
        cursor = f"&cursor={page['next']}"
    assert len(seen) == len(set(seen))
    assert set(range(acknowledged)) <= set(seen)
    assert running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_takes_under_five_seconds_at_any_moment(tmp_path: Path, number: int) -> None:
    for delay in (0.0, 0.1, 0.3, 1.2):
        process = begun(tmp_path)
        await eventually(lambda pid=process.pid: takes_signals(pid), within=20)
        await asyncio.sleep(delay)
        began = time.monotonic()
        for _ in range(3):
            process.send_signal(number)
        code = await asyncio.to_thread(process.wait, 10)
        assert time.monotonic() - began < 5
        assert process.stdout is not None
        said = process.stdout.read()
        process.stdout.close()
        assert b"Traceback" not in said
        assert code == 0


async def test_a_stop_with_connections_that_do_not_answer(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        async with agent_at(("127.0.0.1", running.port), SEED) as agent:
            _, writer = await asyncio.open_connection("127.0.0.1", running.port)
            agent.socket.transport.pause_reading()
            began = time.monotonic()
            assert await asyncio.to_thread(running.stop) == 0
            assert time.monotonic() - began < 5
            agent.socket.transport.resume_reading()
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_exit_codes(tmp_path: Path) -> None:
    data = str(tmp_path / "d")
    assert run("--listen", "nowhere").returncode == 2
    built = run("--data-dir", data, "--store", "postgresql://user:secret@host/db")
    assert (built.returncode, "not_built" in built.stderr, "secret" in built.stderr) == (4, True, False)
    assert run("--data-dir", data, "--bus", "nats://host").returncode == 4
    exposed = run("--data-dir", data, "--actions-listen", "0.0.0.0:0")
    assert (exposed.returncode, "--insecure" in exposed.stderr) == (4, True)
    assert run("--data-dir", data, "--tls-cert", "/nowhere").returncode == 78
    assert run("--data-dir", "/proc/nowhere").returncode == 77
    assert not (tmp_path / "d").exists()


async def test_a_second_gateway_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        again = run("--data-dir", str(running.directory / "data"), "--listen", "127.0.0.1:0")
        assert again.returncode == 77
        assert "another gateway uses it" in again.stderr
        taken = run(
            "--data-dir",
            str(tmp_path / "e"),
            "--listen",
            f"127.0.0.1:{running.port}",
            "--actions-listen",
            "127.0.0.1:0",
        )
        assert taken.returncode == 3
        assert "--listen" in taken.stderr


async def test_without_allow_v1_it_says_so_at_the_start_and_at_the_door(tmp_path: Path) -> None:
    with gateway(tmp_path, allow_v1=False) as running:
        assert "start with --allow-v1" in running.log.read_text()
        with pytest.raises(Exception, match="403"):
            async with agent_at(("127.0.0.1", running.port), SEED):
                pass
