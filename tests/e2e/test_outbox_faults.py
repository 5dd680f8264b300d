"""The outbox under kill -9, failing system calls, power cuts, full disks: each with the obligation ledger as the judge.

The full scale is `./dev soak kill` (every system call of the write path) and `./dev soak power` (1,000 power cuts).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aegis.agent.outbox.outbox import Outbox
from aegis.agent.outbox.store import Store
from aegis.model.block import BlockClass
from aegis.runtime.health import ScopedHealth
from tests.support import expect
from tests.support.disk import Disk, open_disk
from tests.support.outbox import Gateway, Ledger, check_balance, make
from tests.support.outbox_child import CAPS, read, resume
from tests.support.outbox_mutants import STORES
from tests.support.scale import scaled, seed

ROOT = Path(__file__).resolve().parents[2]
CALLS = "openat,pwrite64,write,fsync,fdatasync,ftruncate,unlink,rename"
STEPS = 12
FILES = ("outbox.db", "outbox.db-wal", "outbox.db.part", "outbox.db.part-wal", "outbox.db.new", "outbox.stream.new",
         "outbox.stream", "outbox.key", "outbox.key.new")  # fmt: skip


def traced(
    directory: Path, chosen: int, injection: str, store: str = "sound"
) -> subprocess.CompletedProcess[str]:
    """A child under strace; only calls on the outbox's files count. Its calls are listed in DIRECTORY.calls."""
    paths = [word for name in FILES for word in ("-P", str(directory / name))]
    command = [
        *(
            "strace",
            "-f",
            "-qq",
            "-o",
            f"{directory}.calls",
            "-e",
            f"trace={CALLS}",
            *paths,
            "-P",
            str(directory),
        ),
        *(("-e", f"inject={injection}") if injection else ()),
        *(sys.executable, "-m", "tests.support.outbox_child", str(directory), str(chosen), str(STEPS), store),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def calls(directory: Path) -> list[str]:
    """Names of the calls the child's store thread made, in order."""
    lines = Path(f"{directory}.calls").read_text().splitlines()
    return [line.split()[1].partition("(")[0] for line in lines if "(" in line]


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Path]:
    expect.require("strace")
    yield tmp_path / "state"
    shutil.rmtree(tmp_path / "state", ignore_errors=True)


def judge_life(directory: Path, run: subprocess.CompletedProcess[str], *, exact: bool = False) -> Ledger:
    """What a child said, and what the next life finds; AssertionError where an obligation is not kept."""
    ledger, gateway = Ledger(), Gateway()
    read(run.stdout, ledger, gateway)

    async def next_life() -> None:
        outbox = await resume(directory, ledger, gateway)
        await outbox.close(2)

    with asyncio.Runner() as runner:
        runner.run(next_life())
    ledger.judge(gateway, exact=exact)
    return ledger


def chosen_points(count: int, ci: int, chance: random.Random) -> list[int]:
    points = list(range(1, count + 1))
    return sorted(chance.sample(points, min(scaled(ci, count), count)))


@pytest.mark.timeout(3600)
def test_killed_at_any_system_call_of_the_write_path(rooms: Path) -> None:
    chance = random.Random(seed())
    run = traced(fresh(rooms), seed(), "")
    assert run.returncode == 0, run.stderr
    judge_life(rooms, run, exact=True)
    count = len(calls(rooms))
    assert count > 50
    killed = promised = 0
    for point in chosen_points(count, 8, chance):
        run = traced(fresh(rooms), seed(), f"{CALLS}:signal=KILL:when={point}")
        killed += run.returncode != 0
        promised += len(judge_life(rooms, run).promised)
    assert killed
    assert promised


def test_the_kill_judge_finds_a_promise_before_the_commit(rooms: Path) -> None:
    """Each time another life: in some hardly a moment tells the liar, in most every second one."""
    chance = random.Random(seed())
    for _ in range(40):
        point = chance.randrange(40, 200)
        run = traced(fresh(rooms), chance.randrange(1 << 31), f"{CALLS}:signal=KILL:when={point}", "early")
        try:
            judge_life(rooms, run)
        except AssertionError as error:
            assert "promised records are gone" in str(error)  # noqa: PT017  the judge is the subject
            return
    pytest.fail("a store that lies about its commits was not found out")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EROFS", "EDQUOT", "EINTR"])
@pytest.mark.parametrize("lasting", [False, True])
def test_an_error_at_any_system_call_of_the_write_path(rooms: Path, error: str, lasting: bool) -> None:
    """Once, or in every second call from there on for a while: the child ends well, and nothing is missing."""
    chance = random.Random(f"{seed()} {error} {lasting}")
    traced(fresh(rooms), seed(), "")
    count = len(calls(rooms))
    fired = 0
    # Two runs do not make the same number of calls: one point is where every run comes by.
    for point in (*chosen_points(count, 2, chance), count // 4):
        when = f"{point}..{point + 40}+2" if lasting else f"{point}"
        run = traced(fresh(rooms), seed(), f"{CALLS}:error={error}:when={when}")
        assert run.returncode == 0, f"{error} at {point}: {run.stderr[-3000:]}"
        said = read(run.stdout, Ledger(), Gateway())
        fired += "(INJECTED)" in Path(f"{rooms}.calls").read_text()
        assert "e" in said, f"{error} at {point}: not all was written in the end"
        assert "storage_degraded" not in said["c"]
        judge_life(rooms, run, exact=True)
    assert fired


# ---- power


async def one_power_cut(disk: Disk, chance: random.Random, store: type[Store]) -> tuple[Ledger, Gateway]:
    """Work until a random moment behind the first promise, lose power, look what is there."""
    disk.mount()
    state = disk.top / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    ledger, gateway = Ledger(), Gateway()
    outbox, _ = make(state, store, CAPS)
    await outbox.open()
    for _ in range(chance.randrange(2, 12)):
        for cls in chance.sample(list(BlockClass), 2):
            ledger.issue(outbox, cls, chance.randrange(1, 40), size=chance.choice((10, 300, 900)))
        if chance.random() < 0.2:
            gateway.drain(outbox, 30_000)
        assert await ledger.promise(outbox)
    ledger.issue(outbox, BlockClass.VERDICT, 3)  # on the way to disk when the light goes out
    await asyncio.sleep(chance.random() * 0.003)
    disk.cut()
    await outbox.close(0.2)
    disk.unmount()
    disk.mount()
    outbox = await resume(state, ledger, gateway)
    await outbox.close(2)
    shutil.rmtree(state)
    disk.unmount()
    return ledger, gateway


@pytest.mark.timeout(3600)
def test_power_cuts_lose_nothing_that_was_promised(tmp_path: Path) -> None:
    chance = random.Random(seed())
    with open_disk(tmp_path) as disk, asyncio.Runner() as runner:
        for _ in range(scaled(10, 1000)):
            ledger, gateway = runner.run(one_power_cut(disk, chance, Store))
            assert ledger.promised
            ledger.judge(gateway)


def test_the_power_cut_finds_a_store_that_does_not_flush(tmp_path: Path) -> None:
    chance = random.Random(seed())
    with open_disk(tmp_path) as disk, asyncio.Runner() as runner:
        for _ in range(5):
            ledger, gateway = runner.run(one_power_cut(disk, chance, STORES["no-flush"]))
            try:
                ledger.judge(gateway)
            except AssertionError as error:
                assert "promised records are gone" in str(error)  # noqa: PT017  the judge is the subject
                return
    pytest.fail("a store without a flush survived every power cut")


# ---- full, read-only


SMALL: dict[str, Any] = {"bytes": 8 << 20, "memory_bytes": 256 << 10, "commit_ms": 5.0}


async def settled(health: ScopedHealth, *, raised: bool) -> None:
    async with asyncio.timeout(40):
        while ("storage_degraded" in health.raised()) is not raised:  # noqa: ASYNC110  the condition is the subject
            await asyncio.sleep(0.02)


async def crowd(outbox: Outbox, ledger: Ledger) -> None:
    """More than memory holds: it stays under its cap, and the lowest class goes first."""
    for _ in range(60):
        for cls in BlockClass:
            ledger.issue(outbox, cls, 20, size=600)
        await asyncio.sleep(0.005)
        assert outbox.memory_bytes() <= SMALL["memory_bytes"] + len(BlockClass) * (48 << 10)
        check_balance(outbox)
    assert not await outbox.flush()
    lost = {stage: reasons["unwritable"] for stage, reasons in outbox.losses().items()}
    assert lost["outbox.sample"] >= lost.get("outbox.event", 0) >= lost.get("outbox.finding", 0)


async def back(outbox: Outbox, health: ScopedHealth, ledger: Ledger, state: Path) -> None:
    """By itself, in time; then everything is promised again, and the next life is exact to the unit."""
    await settled(health, raised=False)
    assert await ledger.promise(outbox)
    check_balance(outbox)
    await outbox.close(2)
    gateway = Gateway()
    outbox = await resume(state, ledger, gateway, SMALL)
    await outbox.close(2)
    ledger.judge(gateway, exact=True)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    async def life(state: Path, ballast: Path) -> None:
        outbox, health = make(state, changed=SMALL)
        await outbox.open()
        ledger = Ledger()
        ledger.issue(outbox, BlockClass.EVENT, 200)
        assert await ledger.promise(outbox)
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        ledger.issue(outbox, BlockClass.VERDICT, 500, size=3000)
        await settled(health, raised=True)
        await crowd(outbox, ledger)
        ballast.unlink()  # noqa: ASYNC240  quick
        await back(outbox, health, ledger, state)

    with open_disk(tmp_path) as disk, asyncio.Runner() as runner:
        disk.mount()
        (disk.top / "state").mkdir(mode=0o700)
        runner.run(life(disk.top / "state", disk.top / "ballast"))


def test_a_disk_that_is_read_only_at_the_start(tmp_path: Path) -> None:
    async def life(disk: Disk) -> None:
        disk.mount()
        state = disk.top / "state"
        state.mkdir(mode=0o700)
        ledger = Ledger()
        outbox, _ = make(state, changed=SMALL)
        await outbox.open()
        ledger.issue(outbox, BlockClass.EVENT, 200)
        assert await ledger.promise(outbox)
        await outbox.close(2)
        disk.remount("ro")
        outbox, health = make(state, changed=SMALL)
        await outbox.open()
        assert health.raised() == ("storage_degraded",)
        await crowd(outbox, ledger)
        disk.remount("rw")
        await back(outbox, health, ledger, state)

    with open_disk(tmp_path) as disk, asyncio.Runner() as runner:
        runner.run(life(disk))
