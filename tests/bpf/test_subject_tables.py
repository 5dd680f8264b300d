"""The kernel's tables of subjects: what exists already, a policy that changes, tables that are full, who is unknown."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.subject_patterns import compile_subjects
from aegis.model.policy_selectors import Subject
from tests.support import testers
from tests.support.scale import scaled, seed
from tests.support.subjects import Judged, Restarts, deny, judged, programs  # noqa: F401
from tests.support.world import World, remove_cgroup

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage", "iterators")

MANY = scaled(200, 3_000)


@pytest.fixture
def restarts(world: World, programs: tuple[Path, Path]) -> Iterator[Restarts]:  # noqa: F811
    with testers.tcp_server(world.b, world.b.v4) as port:
        yield Restarts(world, *programs, port)


def known(host: Judged) -> dict[int, str]:
    """Paths of the control groups in the table, by id."""
    table = host.path.map("aegis_subject_cgroups")
    entries = {}
    for key in list(table.keys()):
        value = table.lookup(key)
        if value is not None:
            entry = abi.unpack("aegis_subject_cgroup", value)[0]
            entries[int.from_bytes(key, "little")] = (
                entry.parent,
                bytes(entry.text)[: entry.name_bytes].decode(),
            )

    def path(number: int) -> str:
        parent, name = entries[number]
        return f"{path(parent)}/{name}" if parent else ""

    return {number: path(number) for number in entries}


def masks(host: Judged) -> dict[str, int]:
    """Of every control group in the table under the policy in force, by path."""
    table = host.path.map("aegis_subject_cgroups")
    position = host.slots.position()
    found = {}
    for number, path in known(host).items():
        value = table.lookup(number.to_bytes(8, "little"))
        if value is None:
            continue  # gone meanwhile
        side = abi.unpack("aegis_subject_cgroup", value)[0].sides[position.slot]
        assert side.generation == position.generation, path
        found[path] = side.mask
    return found


def test_what_exists_already(world: World, restarts: Restarts) -> None:
    place = world.make_cgroup("system.slice/telnet.service/below")
    other = world.make_cgroup("system.slice/other.service")
    with judged(world) as host:
        assert set(known(host).values()) == {
            "",
            "/system.slice",
            "/system.slice/telnet.service",
            "/system.slice/telnet.service/below",
            "/system.slice/other.service",
        }
        host.apply(deny(unit="telnet.service"))
        assert restarts("plain", 3, place) == {"EPERM": 3}
        assert restarts("plain", 3, other) == {"passed": 3}


def test_control_groups_made_while_the_agent_takes_them_in(world: World) -> None:
    """Each is known at the end, whoever was first."""
    stop = threading.Event()

    def make() -> None:
        number = 0
        while not stop.is_set() and number < 1_500:
            (world.cgroup / f"a{number % 7}" / f"b{number % 5}" / f"c{number}").mkdir(parents=True)
            number += 1

    maker = threading.Thread(target=make)
    maker.start()
    try:
        with judged(world) as host:
            host.apply(deny(cgroup="/a1/b*/c*1"))
            stop.set()
            maker.join()
            made = [path for path in world.cgroup.rglob("*") if path.is_dir()]
            found = known(host)
            assert {path.stat().st_ino for path in made} <= found.keys()
            assert host.compiled is not None
            for path, mask in masks(host).items():
                assert mask == host.compiled.mask([part.encode() for part in path.split("/")[1:]], (), 0), (
                    path
                )
    finally:
        stop.set()
        maker.join()


def test_masks_are_the_automatons(world: World) -> None:
    """Random patterns over random trees: the kernel's masks, made at creation and at a change, are Python's."""
    chance = random.Random(seed())
    words = ["a", "ab", "aba", "b", "x.slice", "ab.service", "a@b.service"]
    globs = [*words, "*", "a*", "*a", "ab*ba", "a*.service", "*.slice", "**"]
    with judged(world) as host:
        for _ in range(scaled(4, 60)):
            specs = [
                deny(cgroup="/" + "/".join(chance.choice(globs) for _ in range(chance.randint(1, 4))))
                for _ in range(chance.randint(1, 8))
            ]
            host.apply(*specs)
            top = world.make_cgroup(f"r{chance.getrandbits(40)}")
            here = [world.cgroup]
            for _ in range(40):
                place = chance.choice(here) / chance.choice([*words, top.name])
                place.mkdir(exist_ok=True)
                here.append(place)
            assert host.compiled is not None
            for _ in range(2):
                for path, mask in masks(host).items():
                    parts = [part.encode() for part in path.split("/")[1:]]
                    assert mask == host.compiled.mask(parts, (), 0), (path, specs)
                host.apply(*specs[::-1])  # made anew, other bits
            for path in world.cgroup.iterdir():
                if path.is_dir():
                    remove_cgroup(path)


def test_a_policy_that_changes_opens_no_window(world: World, restarts: Restarts) -> None:
    """Units are restarted while policies change that all deny the one and never mention the other."""
    slice_ = world.make_cgroup("system.slice")
    found: dict[str, dict[str, int]] = {}

    def restart(name: str) -> None:
        found[name] = restarts("again", 5 * MANY, slice_, name)

    with judged(world) as host:
        host.apply(deny(unit="telnet.service"))
        threads = [
            threading.Thread(target=restart, args=(name,)) for name in ("telnet.service", "other.service")
        ]
        for thread in threads:
            thread.start()
        changes = 0
        while any(thread.is_alive() for thread in threads):
            changes += 1
            more = [deny(unit=f"zz{changes}-{number}*.service") for number in range(changes % 5)]
            host.apply(deny(unit=f"aa{changes}.service"), deny(unit="telnet.service"), *more)
        assert found == {"telnet.service": {"EPERM": 5 * MANY}, "other.service": {"passed": 5 * MANY}}
        assert changes >= 5
        assert host.counted("unknown") == 0


def test_an_executable_that_runs_when_the_policy_comes(world: World, programs: tuple[Path, Path]) -> None:  # noqa: F811
    """And what it forks; and one that runs on under policies that change."""
    with (
        judged(world) as host,
        testers.tcp_server(world.b, world.b.v4) as port,
        world.a.start(forks_after, world.b.v4, port, world.directory, cgroup=world.cgroup) as child,
    ):
        while not (world.directory / "up").exists():
            time.sleep(0.01)
        python = Path(f"/proc/{child.pid}/exe").readlink()
        for number in range(3):
            host.apply(*(deny(cgroup=f"/n{each}") for each in range(number)), deny(exe=str(python)))
        (world.directory / "go").touch()
        assert child.result(20) == ["EPERM", "EPERM"]


def forks_after(address: str, port: int, directory: Path) -> list[str]:
    (directory / "up").touch()
    while not (directory / "go").exists():
        time.sleep(0.01)
    found = [_connect(address, port)]
    ends = os.pipe()
    if os.fork() == 0:
        os.write(ends[1], _connect(address, port).encode())
        os._exit(0)
    found.append(os.read(ends[0], 100).decode())
    os.wait()
    for end in ends:
        os.close(end)
    return found


def _connect(address: str, port: int) -> str:
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect((address, port))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "passed"


def test_a_full_table_judges_by_the_nearest_known_above(world: World, restarts: Restarts) -> None:
    with judged(world, aegis_subject_cgroups=3) as host:
        host.apply(deny(cgroup="/denied"))
        world.make_cgroup("denied/known")
        for place, answer in (("denied/known/a/b", "EPERM"), ("open/known/a", "passed")):
            assert restarts("plain", 3, world.make_cgroup(place)) == {answer: 3}
        assert host.counted("cgroups_full") >= 1
        assert host.counted("by_ancestor") >= 3
        assert host.counted("unknown") == 0


@pytest.mark.parametrize("denied", [False, True])
def test_who_is_outside_of_what_is_watched(world: World, restarts: Restarts, *, denied: bool) -> None:
    """The programs stand above, the classification begins below: nothing is known of what lies beside."""
    inside, outside = world.make_cgroup("inside"), world.make_cgroup("outside")
    with judged(world, known_from=inside) as host:
        host.apply(deny(cgroup="/x"), unknown_denied=denied)
        assert restarts("plain", 5, outside) == {"EPERM" if denied else "passed": 5}
        assert restarts("plain", 5, inside) == {"passed": 5}
        assert host.counted("unknown") >= 5


def test_the_table_forgets_what_is_gone(world: World, restarts: Restarts) -> None:
    with judged(world) as host:
        host.apply(deny(unit="telnet.service"))
        before = host.counted("made")
        restarts("again", MANY, world.cgroup, "telnet.service")
        assert host.counted("made") == before + MANY
        expected = {
            "",
            *(f"/{path.relative_to(world.cgroup)}" for path in world.cgroup.rglob("*") if path.is_dir()),
        }
        for _ in range(100):
            if set(known(host).values()) == expected:
                break
            threading.Event().wait(0.1)
        assert set(known(host).values()) == expected


def test_a_slot_that_is_given_back_holds_nothing(world: World) -> None:
    with judged(world) as host:
        for number in range(9):
            host.apply(deny(unit=f"a{number}*b.service"), deny(exe="/bin/x", user="7"))
            sizes = {
                name: len(list(host.path.map(name).keys()))
                for name in ("aegis_automaton_edges", "aegis_automaton_branches", "aegis_subject_users")
            }
            assert sizes == {
                "aegis_automaton_edges": 2,
                "aegis_automaton_branches": 2,
                "aegis_subject_users": 1,
            }
        host.apply()
        assert list(host.path.map("aegis_automaton_edges").keys()) == []
        assert list(host.path.map("aegis_subject_exes").keys()) == []


def test_no_room_leaves_the_policy_that_was(world: World, restarts: Restarts) -> None:
    slice_ = world.make_cgroup("system.slice")
    with judged(world, aegis_automaton_edges=40) as host:
        host.apply(deny(unit="telnet.service"))
        many = [Subject(cgroup=(f"/a{number}/b/c",)) for number in range(60)]
        with pytest.raises(PolicyUnenforceable, match="full"):
            host.tables.prepare(3, 99, compile_subjects(many))
        assert restarts("again", 3, slice_, "telnet.service") == {"EPERM": 3}
        with contextlib.suppress(PolicyUnenforceable):
            host.tables.prepare(3, 100, compile_subjects(many[:2]))
        assert restarts("again", 3, slice_, "other.service") == {"passed": 3}
