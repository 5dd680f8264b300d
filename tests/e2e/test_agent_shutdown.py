"""A stop at any moment of the life: exit 0 within 5 s, no traceback, nothing left but what a committed policy keeps.

A signal before the entry point's first statement is Python's: death by it is as good. Two kinds of SIGINT are lost then:
one that the process began with ignored, as what a shell starts in the background does (`interruptible` keeps that from the
agents here), and one that becomes a KeyboardInterrupt where Python prints and forgets it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
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
    """How one agent ended. `taken`: the entry point had the signals when the first one was sent, as the kernel says.

    Exactly then: the process was stopped meanwhile.
    """

    code: int
    seconds: float
    taken: bool
    moment: float
    stderr: str
    signals: tuple[int, ...]


TAKEN, KILLED = "taken", "killed before Python or the entry point took the signal"
INTERRUPTED = "KeyboardInterrupt, Python's own, before the entry point's first statement"
IGNORED = "KeyboardInterrupt in a place where Python prints and forgets it"


def kind_of(ending: Ending) -> str:
    """Which of the right endings it is; fails for every other."""
    deaths = {-number for number in ending.signals}
    if ending.taken:
        assert ending.code == 0, ending
        assert "Traceback" not in ending.stderr, ending
        assert not any(words in ending.stderr for words in LAST_RESORT), ending
        return TAKEN
    if "KeyboardInterrupt" not in ending.stderr:
        assert ending.code in deaths, ending
        return KILLED
    assert signal.SIGINT in ending.signals, ending
    if "Exception ignored" in ending.stderr:
        again = ending.stderr.count("KeyboardInterrupt") > 1
        assert ending.code in {0, *deaths} | ({1} if again else set()), ending  # by a later signal
        return IGNORED
    # Python ends itself by the signal; with 1 while it imports `site`; a second signal may come while it prints.
    assert ending.code in {1, -signal.SIGINT, *deaths}, ending
    return INTERRUPTED


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process executes nothing while the block lasts; signals sent meanwhile wait for it."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def takes(pid: int, number: int) -> bool:
    """Whether the process catches or ignores the signal (proc(5), SigCgt and SigIgn)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt", "SigIgn"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


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
    world: World, agent: RunningAgent, moment: float, dice: random.Random, **environment: str
) -> Ending:
    """Start an agent, send a stop signal `moment` seconds later and a second one soon after, wait for the end."""
    signals = [dice.choice((signal.SIGTERM, signal.SIGINT)) for _ in range(2)]
    begun = time.monotonic()
    process = world.a.popen(
        agent.command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
    )
    try:
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        with stopped(process.pid):
            taken = takes(
                process.pid, signal.SIGTERM
            )  # Python itself catches SIGINT, only the entry point SIGTERM
            if taken and dice.random() < 0.3:
                process.send_signal(signal.SIGHUP)
            process.send_signal(signals[0])
        sent = time.monotonic()
        time.sleep(dice.choice((0.0, 0.0, dice.uniform(0, 0.05))))
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signals[1])
        try:
            _, stderr = process.communicate(timeout=HANGS_S)
        except subprocess.TimeoutExpired as expired:
            said = expired.stderr if isinstance(expired.stderr, bytes) else b""
            assert not taken, f"hangs: {hanging(process)}\nstopped at {moment}, {signals}"
            assert b"Exception ignored" in said, f"hangs: {hanging(process)}\nstopped at {moment}, {signals}"
            signals.append(signal.SIGTERM)  # both were one, or both were forgotten
            sent = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=HANGS_S)
        seconds = time.monotonic() - sent
        return Ending(process.returncode, seconds, taken, moment, stderr, tuple(signals))
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
        "pins": sorted(str(path) for path in agent.pins.rglob("*") if path.is_file()),
        "socket": [path.name for path in Path(agent.socket).parent.iterdir()],
    }


NOTHING = {"packet programs": {}, "cgroup programs": 0, "pins": [], "socket": []}


def moments(dice: random.Random, count: int, life: float) -> list[float]:
    """From the first millisecond to well into the agent's working life; a tenth of them in its first 60 ms."""
    return [dice.uniform(0.001, 0.06 if number % 10 == 0 else life) for number in range(count)]


def test_any_moment_is_a_good_one(world: World) -> None:
    dice = random.Random(seed())
    agent = RunningAgent(world, world.a, "agent", "", ())
    begun = time.monotonic()
    agent.start()
    life = time.monotonic() - begun
    assert agent.stop() == 0
    endings = []
    for moment in moments(dice, scaled(41, 500), 1.3 * life):
        ending = stop_at(world, agent, moment, dice)
        endings.append(ending)
        assert left_behind(world, agent) == NOTHING, ending
        assert ending.seconds <= LONGEST_EXIT_S, ending
    kinds = collections.Counter(kind_of(ending) for ending in endings)
    early = [ending for ending in endings if not ending.taken]
    print(
        f"{len(endings)} stops over {1.3 * life:.2f} s (seed {seed()}): {dict(kinds)}; the latest before the entry "
        f"point's first statement {max((e.moment for e in early), default=0) * 1000:.0f} ms after exec; "
        f"slowest exit {max(ending.seconds for ending in endings):.2f} s"
    )
    assert len(early) < len(endings) / 2  # the run was not vacuous


def test_an_ignored_interrupt_is_not_inherited(world: World) -> None:
    """As in a soak that a shell runs in the background: SIGINT before the entry point would be nobody's."""
    outer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible(), world.a.popen(["/bin/sleep", "60"]) as process:
            try:
                assert not takes(process.pid, signal.SIGINT)
            finally:
                process.kill()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, outer)


class Interrupts(random.Random):
    """Two SIGINT, the second at once."""

    def choice(self, seq: Any) -> Any:
        return signal.SIGINT if signal.SIGINT in seq else seq[0]


def test_an_interrupt_that_python_forgets_is_followed_by_a_stop_it_does_not(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced: both come in callbacks of weak references, before the entry point."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time, weakref\nclass Some: pass\nsome = Some()\n"
        "kept = [weakref.ref(some, lambda _: time.sleep(3)) for _ in range(2)]\ndel some\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "HANGS_S", 7.0)
    agent = RunningAgent(world, world.a, "agent", "", ())
    ending = stop_at(world, agent, 1.5, Interrupts(), PYTHONPATH=str(tmp_path))
    assert kind_of(ending) == IGNORED
    assert ending.signals == (signal.SIGINT, signal.SIGINT, signal.SIGTERM)
    assert ending.seconds <= LONGEST_EXIT_S
    assert ending.code == 0
    assert left_behind(world, agent) == NOTHING


def test_a_committed_policy_is_what_stays(world: World) -> None:
    dice = random.Random(seed())
    agent = RunningAgent(world, world.a, "agent", "", ())
    begun = time.monotonic()
    agent.start()
    life = time.monotonic() - begun
    generation = agent.apply(POLICY)["generation"]
    assert agent.stop() == 0
    kept = left_behind(world, agent)
    assert kept["pins"]
    assert set(kept["packet programs"]) == {"EGRESS", "INGRESS"}
    for moment in moments(dice, scaled(7, 100), life):
        ending = stop_at(world, agent, moment, dice)
        after = left_behind(world, agent)
        assert (after["pins"], after["socket"], after["cgroup programs"]) == (kept["pins"], [], 1), ending
        assert set(after["packet programs"]) == {"EGRESS", "INGRESS"}, ending
        kind_of(ending)
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
