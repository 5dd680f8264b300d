"""A stop at any moment of the life: exit 0 within 5 s, no traceback, nothing left but what a committed policy keeps.

The agent is started as installed, by the script `aegis-agent`. What comes before the script holds the signals back ends it
by that signal, which is as good: nothing is there yet. What comes while Python starts is held back until the entry point
takes it. A SIGINT that the process began with ignored, as what a shell starts in the background does, is lost before it is
held back; `interruptible` keeps that from the agents here.
"""

from __future__ import annotations

import contextlib
import enum
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from aegis.kernel import tc
from aegis.kernel.library import open_library
from aegis.kernel.tc import Direction
from tests.support.agent import RunningAgent
from tests.support.scale import scaled, seed
from tests.support.world import World

pytestmark = [pytest.mark.require("root", "bpf", "tcx", "bpffs", "cgroup2"), pytest.mark.timeout(1800)]

LONGEST_EXIT_S = 5.0
HANGS_S = 20.0
LAST_RESORT: Final = (
    "the stop did not end in time",
    "Timeout (0:00:0",
)  # what it says, and what the end behind it
BPF_CGROUP_INET_SOCK_CREATE = 2

POLICY = """
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {name: kept, version: 1}
spec:
  mode: enforce
  egressDeny:
  - toCIDRSet: [{cidr: 192.0.2.0/24}]
"""


@dataclass(frozen=True)
class Ending:
    """How one agent ended. `where` its life was when the first signal was sent, as the kernel says.

    Exactly then: the process was stopped meanwhile.
    """

    code: int
    seconds: float
    where: Life
    moment: float
    stderr: str
    signals: tuple[int, ...]


class Life(enum.StrEnum):
    """From the kernel's account of SIGTERM: Python itself catches SIGINT, a shell may, but only the entry point SIGTERM."""

    BEFORE = "killed before the signals are held back"
    HELD = "held back while Python starts"
    TAKEN = "taken by the entry point"


def judge(ending: Ending) -> None:
    """Fails for what is no right ending."""
    assert "Traceback" not in ending.stderr, ending
    assert not any(words in ending.stderr for words in LAST_RESORT), ending
    assert ending.seconds <= LONGEST_EXIT_S, ending
    if ending.where is Life.BEFORE:
        assert -ending.code in ending.signals, ending
        assert ending.stderr == "", ending
    else:
        assert ending.code == 0, ending


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process executes nothing while the block lasts; signals sent meanwhile wait for it."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def masks(pid: int) -> dict[str, set[int]]:
    """The signals a process blocks, catches and ignores: SigBlk, SigCgt, SigIgn (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    told = (line.split() for line in lines if line.startswith(("SigBlk", "SigCgt", "SigIgn")))
    return {
        name.removesuffix(":"): {bit + 1 for bit in range(64) if int(mask, 16) >> bit & 1}
        for name, mask in told
    }


def life(pid: int) -> Life:
    found = masks(pid)
    if signal.SIGTERM in found["SigCgt"] | found["SigIgn"]:
        return Life.TAKEN
    # A shell that waits for a child blocks all signals for a moment, and then takes them.
    return Life.HELD if found["SigBlk"] == {signal.SIGINT, signal.SIGTERM} else Life.BEFORE


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """What is started here has SIGINT at its default action, also where this run has it ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a handler does not outlive exec, ignoring does
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    with interruptible():
        yield


def stop_at(
    world: World, command: list[str], moment: float, dice: random.Random, **environment: str
) -> Ending:
    """Start an agent, send a stop signal `moment` seconds later and a second one soon after, wait for the end."""
    signals = [dice.choice((signal.SIGTERM, signal.SIGINT)) for _ in range(2)]
    begun = time.monotonic()
    process = world.a.popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
    )
    try:
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        with stopped(process.pid):
            where = life(process.pid)
            if where is Life.TAKEN and dice.random() < 0.3:
                process.send_signal(signal.SIGHUP)
            process.send_signal(signals[0])
        sent = time.monotonic()
        time.sleep(dice.choice((0.0, 0.0, dice.uniform(0, 0.05))))
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signals[1])
        try:
            _, stderr = process.communicate(timeout=HANGS_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"hangs: {hanging(process)}\nstopped at {moment}, {where}, {signals}")
        seconds = time.monotonic() - sent
        return Ending(process.returncode, seconds, where, moment, stderr, tuple(signals))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def hanging(process: subprocess.Popen[str]) -> str:
    """What a process that does not end does: its signals, where the kernel has each thread, its stacks, its log."""
    proc = Path(f"/proc/{process.pid}")
    told = [
        line
        for line in (proc / "status").read_text().splitlines()
        if line.startswith(("State", "Sig", "Shd"))
    ]
    told += [
        f"{task.name}: {(task / 'wchan').read_text()} {(task / 'syscall').read_text().strip()}"
        for task in sorted((proc / "task").iterdir())
    ]
    process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
    _, stderr = process.communicate(timeout=HANGS_S)
    return "\n".join((*told, stderr))


def cgroup_programs(cgroup: Path) -> int:
    """Programs at the sock_create hook of a cgroup."""
    ffi, lib = open_library()
    ids, count = ffi.new("unsigned int[64]"), ffi.new("unsigned int *", 64)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert lib.aegis_prog_query(directory, BPF_CGROUP_INET_SOCK_CREATE, 0, ids, count) == 0
    finally:
        os.close(directory)
    return int(count[0])


def left_behind(world: World, agent: RunningAgent) -> dict[str, object]:
    """Everything of the agent that is still there, by kind."""
    with world.a.entered():
        packet = {way.name: tc.tcx_program_ids(world.a.index, way) for way in Direction}
    return {
        "packet programs": {way: ids for way, ids in packet.items() if ids},
        "cgroup programs": cgroup_programs(world.cgroup),
        "pins": sorted(str(path) for path in (agent.pins, *agent.pins.rglob("*")) if path.exists()),
        "socket": [path.name for path in Path(agent.socket).parent.iterdir()],
    }


NOTHING = {"packet programs": {}, "cgroup programs": 0, "pins": [], "socket": []}


def moments(dice: random.Random, count: int, whole: float) -> list[float]:
    """From the first millisecond to well into the agent's working life; a tenth of them in its first 60 ms."""
    return [dice.uniform(0.001, 0.06 if number % 10 == 0 else whole) for number in range(count)]


def stop_each(world: World, agent: RunningAgent, when: list[float], dice: random.Random) -> Counter[Life]:
    """How many of the stops, all of them right and with nothing left behind, came where in the life."""
    endings = []
    for moment in when:
        ending = stop_at(world, agent.installed, moment, dice)
        endings.append(ending)
        assert left_behind(world, agent) == NOTHING, ending
        judge(ending)
    lives = Counter(ending.where for ending in endings)
    early = [ending.moment for ending in endings if ending.where is not Life.TAKEN]
    interrupts = sum(
        ending.signals[0] == signal.SIGINT for ending in endings if ending.where is not Life.TAKEN
    )
    told = ", ".join(f"{count} {where}" for where, count in lives.items())
    print(
        f"{len(endings)} stops over {max(when):.3f} s (seed {seed()}): {told}; {interrupts} began with SIGINT "
        f"before the entry point's first statement, the latest there {max(early, default=0) * 1000:.0f} ms after exec; "
        f"slowest exit {max(ending.seconds for ending in endings):.2f} s"
    )
    return lives


def test_any_moment_is_a_good_one(world: World) -> None:
    dice = random.Random(seed())
    agent = RunningAgent(world, world.a, "agent", "", ())
    begun = time.monotonic()
    agent.start()
    whole = time.monotonic() - begun
    assert agent.stop() == 0
    when = moments(dice, scaled(41, 500), 1.3 * whole)
    assert stop_each(world, agent, when, dice)[Life.TAKEN] > len(when) / 2  # the run was not vacuous


def test_so_is_any_of_the_first_20_milliseconds(world: World) -> None:
    """Where the script, env and Python start."""
    dice = random.Random(seed())
    agent = RunningAgent(world, world.a, "agent", "", ())
    count = scaled(60, 1000)
    lives = stop_each(world, agent, [dice.uniform(0, 0.02) for _ in range(count)], dice)
    assert lives[Life.BEFORE]
    assert lives[Life.HELD] > count / 4


def test_an_ignored_interrupt_is_not_inherited(world: World) -> None:
    """As in a soak that a shell runs in the background: SIGINT before the entry point would be nobody's."""
    outer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible(), world.a.popen(["/bin/sleep", "60"]) as process:
            try:
                assert signal.SIGINT not in set().union(*masks(process.pid).values())
            finally:
                process.kill()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, outer)


class Interrupts(random.Random):
    """Two SIGINT, the second at once."""

    def choice(self, seq: Any) -> Any:
        return signal.SIGINT if signal.SIGINT in seq else seq[0]


@pytest.fixture
def slow_python(tmp_path: Path) -> str:
    """A PYTHONPATH with which Python's start takes 3 s; in the first of them it prints and forgets what is raised."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time, weakref\nclass Some: pass\nsome = Some()\n"
        "kept = weakref.ref(some, lambda _: time.sleep(1))\ndel some\ntime.sleep(2)\n"
    )
    return str(tmp_path)


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_is_not_forgotten_while_python_starts(
    world: World, slow_python: str, ignored: bool
) -> None:
    """Nor where the parent had it ignored, as a shell has for what it starts in the background."""
    agent = RunningAgent(world, world.a, "agent", "", ())
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending = stop_at(world, agent.installed, 0.5, Interrupts(), PYTHONPATH=slow_python)
    assert (ending.where, ending.signals) == (Life.HELD, (signal.SIGINT, signal.SIGINT))
    judge(ending)
    assert left_behind(world, agent) == NOTHING


def test_an_agent_past_the_script_is_found_out(world: World, slow_python: str) -> None:
    """The tests above see what a start without the script does with a SIGINT."""
    agent = RunningAgent(world, world.a, "agent", "", ())
    ending = stop_at(world, agent.command, 2.0, Interrupts(), PYTHONPATH=slow_python)
    assert ending.where is Life.BEFORE
    with pytest.raises(AssertionError, match="KeyboardInterrupt"):
        judge(ending)


def test_a_committed_policy_is_what_stays(world: World) -> None:
    dice = random.Random(seed())
    agent = RunningAgent(world, world.a, "agent", "", ())
    begun = time.monotonic()
    agent.start()
    whole = time.monotonic() - begun
    generation = agent.apply(POLICY)["generation"]
    assert agent.stop() == 0
    kept = left_behind(world, agent)
    assert kept["pins"]
    assert set(kept["packet programs"]) == {"EGRESS", "INGRESS"}
    for moment in moments(dice, scaled(7, 100), whole):
        ending = stop_at(world, agent.installed, moment, dice)
        after = left_behind(world, agent)
        assert (after["pins"], after["socket"], after["cgroup programs"]) == (kept["pins"], [], 1), ending
        assert set(after["packet programs"]) == {"EGRESS", "INGRESS"}, ending
        judge(ending)
    agent.start()
    assert agent.ask("status")[0]["enforcement"]["generation"] == generation
    agent.ask("policy.remove", name="kept")
    assert agent.stop() == 0
    assert left_behind(world, agent) == NOTHING


def test_on_stop_detach_takes_the_policy_out(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", '[enforcement]\non_stop = "detach"\n', ())
    agent.start()
    agent.apply(POLICY)
    assert agent.stop(signal.SIGINT) == 0
    assert left_behind(world, agent) == NOTHING


def test_a_parent_that_closed_the_standard_streams_gets_a_clean_stop_too(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    agent.command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *agent.installed]
    agent.start()
    agent.apply(POLICY)
    agent.ask("policy.remove", name="kept")
    assert agent.stop() == 0
    assert left_behind(world, agent) == NOTHING


@contextlib.contextmanager
def deaf_client(agent: RunningAgent, requests: list[str]) -> Iterator[None]:
    """A client that asks and then reads nothing, whatever comes."""
    protocol = ClientProtocol(parse_uri("ws://localhost/"))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(agent.socket)
        protocol.send_request(protocol.connect())
        connection.sendall(b"".join(protocol.data_to_send()))
        protocol.receive_data(connection.recv(65_536))
        for request in requests:
            protocol.send_text(request.encode())
        connection.sendall(b"".join(protocol.data_to_send()))
        yield


def test_a_client_that_never_reads_does_not_hold_the_exit(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ())
    agent.start()
    requests = [f'{{"id": {number}, "verb": "config.show"}}' for number in range(15)]
    requests.append('{"id": 99, "verb": "events", "args": {"follow": true}}')
    with contextlib.ExitStack() as clients:
        for _ in range(7):
            clients.enter_context(deaf_client(agent, requests))
        assert agent.ask("status")
        begun = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - begun <= LONGEST_EXIT_S
    assert "Traceback" not in agent.log.read_text()
    assert left_behind(world, agent) == NOTHING


def test_a_module_that_spins_does_not_hold_the_exit(world: World, tmp_path: Path) -> None:
    """The loop never turns again: the last resort leaves with exit 0 in time, and takes the kernel's side down."""
    folder = tmp_path / "spinning" / "aegis_spinning_modules" / "spins"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "config.py").write_text("OPTIONS = ()\n")
    (folder / "module.py").write_text(
        "class Module:\n    name = 'spins'\n    requires = ()\n    def __init__(self, context): pass\n"
        "    async def run(self, ready):\n        ready()\n        print('spinning', flush=True)\n"
        "        while True: pass\n"
    )
    agent = RunningAgent(world, world.a, "agent", "", ())
    starter = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import aegis.agent.main as m, aegis.modules as p, "
        "aegis_spinning_modules as s; p.__path__.append(s.__path__[0]); sys.exit(m.main())"
    )
    command = [agent.command[0], "-c", starter, str(folder.parent.parent), *agent.command[3:]]
    process = world.a.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "spinning\n"
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() - sent <= LONGEST_EXIT_S
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert LAST_RESORT[0] in stderr
    assert "in run\n" in stderr  # where it hung
    assert left_behind(world, agent) == NOTHING
