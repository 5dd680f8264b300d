"""Subjects without a window: units, control groups, executables and users are judged right from their first instruction."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import testers
from tests.support.scale import scaled
from tests.support.subjects import Judged, Restarts, deny, judged, programs  # noqa: F401
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage", "iterators")

MANY = scaled(60, 1_000)


@pytest.fixture
def restarts(world: World, programs: tuple[Path, Path]) -> Iterator[Restarts]:  # noqa: F811
    with testers.tcp_server(world.b, world.b.v4) as port:
        yield Restarts(world, *programs, port)


@pytest.mark.parametrize("how", ["again", "enter"])
def test_a_denied_unit_restarted(world: World, restarts: Restarts, how: str) -> None:
    """Its first instruction connects: none passes, and its sibling is never refused."""
    slice_ = world.make_cgroup("system.slice")
    with judged(world) as host:
        host.apply(deny(unit="telnet.service"))
        assert restarts(how, MANY, slice_, "telnet.service") == {"EPERM": MANY}
        assert restarts(how, MANY, slice_, "telnet2.service") == {"passed": MANY}
        assert host.counted("refused") == MANY
        assert host.counted("unknown") == host.counted("by_ancestor") == 0


def test_a_unit_that_is_made_and_removed_while_it_is_entered(world: World, restarts: Restarts) -> None:
    slice_ = world.make_cgroup("system.slice")
    with judged(world) as host:
        host.apply(deny(unit="telnet.service"))
        assert restarts("race", MANY, slice_, "telnet.service") == {"EPERM": MANY}
        assert restarts("race", MANY, slice_, "telnet2.service") == {"passed": MANY}


def test_an_allowed_unit_under_default_deny(world: World, restarts: Restarts) -> None:
    slice_ = world.make_cgroup("system.slice")
    with judged(world) as host:
        host.apply(
            {
                "mode": "enforce",
                "subject": {"cgroup": "/system.slice"},
                "enableDefaultDeny": {"egress": True},
            },
            {"mode": "enforce", "subject": {"unit": "getty@*.service"}, "egress": [{}]},
        )
        assert restarts("again", MANY, slice_, "getty@tty1.service") == {"passed": MANY}
        assert restarts("again", MANY, slice_, "getty.service") == {"EPERM": MANY}


@pytest.mark.parametrize(
    ("path", "denied"),
    [
        ("system.slice/telnet.service", True),
        ("system.slice/system-telnet.slice/telnet.service", True),
        ("system.slice/telnet.service/child/grandchild", True),
        ("telnet.service", True),
        ("system.slice/telnet.service.d", False),
        ("system.slice/mytelnet.service", False),
        ("user.slice/user-7.slice/user@7.service/app.slice/telnet.service", False),  # made by a user
        ("docker.slice/docker-1.scope/system.slice/telnet.service", False),  # made in a container
        ("kubepods/telnet.service", False),  # below what is no slice
        ("abc/exempt", False),
        ("abc/x/any/depth", True),
        ("abc/xyz/any/depth", False),
    ],
)
def test_where_a_unit_and_a_path_count(world: World, restarts: Restarts, path: str, *, denied: bool) -> None:
    with judged(world) as host:
        host.apply(deny(unit="telnet.service"), deny(cgroup="/abc/x"))
        place = world.make_cgroup(path)
        assert restarts("plain", 3, place) == {"EPERM" if denied else "passed": 3}


def test_twelve_levels_of_long_names(world: World, restarts: Restarts) -> None:
    with judged(world) as host:
        host.apply(deny(cgroup="/top"))
        path = "top"
        for level in range(12):
            path += "/" + str(level) * 200
        assert restarts("plain", 3, world.make_cgroup(path)) == {"EPERM": 3}
        host.apply(deny(cgroup="/top/" + "0" * 60 + "*/**/" + "11*"))
        assert restarts("plain", 3, world.cgroup / path) == {"EPERM": 3}
        host.apply(deny(cgroup="/top/" + "0" * 60 + "*/*/" + "11*"))
        assert restarts("plain", 3, world.cgroup / path) == {"passed": 3}


def test_a_denied_executable_started(world: World, restarts: Restarts) -> None:
    """By its path, so that another file under that name is it, and the same file under another is not."""
    place = world.make_cgroup("any")
    denied, allowed = world.directory / "denied", world.directory / "allowed"
    shutil.copy(restarts.first, denied)
    os.link(denied, allowed)
    with judged(world) as host:
        host.apply(deny(exe=str(denied)))
        assert restarts("plain", MANY, place, program=denied) == {"EPERM": MANY}
        assert restarts("plain", MANY, place, program=allowed) == {"passed": MANY}
        fresh = world.directory / "fresh"
        shutil.copy(restarts.first, fresh)
        fresh.rename(denied)  # as a package is upgraded
        assert restarts("plain", MANY, place, program=denied) == {"EPERM": MANY}
        assert host.counted("execs") == 2 * MANY
        assert list(host.path.map("aegis_subject_exes").keys()) == []


def test_globs_of_executables(world: World, restarts: Restarts) -> None:
    place = world.make_cgroup("any")
    for name in ("a/tool1", "a/b/tool2", "a/tool1x"):
        (world.directory / name).parent.mkdir(exist_ok=True)
        shutil.copy(restarts.first, world.directory / name)
    with judged(world) as host:
        for pattern, denied in (
            ("a/tool1", {"a/tool1"}),
            ("a/tool*", {"a/tool1", "a/tool1x"}),
            ("a/*/tool2", {"a/b/tool2"}),
            ("**/tool*", {"a/tool1", "a/tool1x", "a/b/tool2"}),
            ("a/**", {"a/tool1", "a/tool1x", "a/b/tool2"}),
        ):
            host.apply(deny(exe=f"{world.directory}/{pattern}"))
            for name in ("a/tool1", "a/b/tool2", "a/tool1x"):
                wanted = "EPERM" if name in denied else "passed"
                assert restarts("plain", 1, place, program=world.directory / name) == {wanted: 1}, pattern


def test_a_name_that_a_user_gives_a_file_in_a_namespace_of_his_own(world: World, restarts: Restarts) -> None:
    """Under default deny only the executable may connect: not another that is mounted over its name."""
    place = world.make_cgroup("any")
    allowed, evil = world.directory / "allowed", world.directory / "evil"
    shutil.copy(restarts.first, allowed)
    shutil.copy(restarts.first, evil)
    script = world.directory / "script"
    script.write_text(
        f'#!/bin/sh\nexec unshare --user --mount --map-root-user sh -c \'mount --bind {evil} {allowed} && exec {allowed} "$@"\' sh "$@"\n'
    )
    script.chmod(0o755)
    with judged(world) as host:
        host.apply(
            {"mode": "enforce", "subject": {"cgroup": "/any"}, "enableDefaultDeny": {"egress": True}},
            {"mode": "enforce", "subject": {"exe": str(allowed)}, "egress": [{}]},
        )
        assert restarts("plain", 3, place, program=allowed) == {"passed": 3}
        assert restarts("plain", 3, place, program=evil) == {"EPERM": 3}
        assert restarts("plain", 3, place, program=script) == {"EPERM": 3}
        assert host.counted("foreign") == 3


def test_what_a_denied_executable_forks_and_executes(world: World, restarts: Restarts) -> None:
    """Its children are it, until they execute something else."""
    place = world.make_cgroup("any")
    denied = world.directory / "interpreter"
    shutil.copy("/bin/sh", denied)
    with judged(world) as host:
        host.apply(deny(exe=str(denied)))
        outcome = world.a.run(forked_and_executed, str(denied), world.b.v4, restarts.port, cgroup=place)
        assert outcome == "passed", "executed"
        executed = world.a.command(
            denied, "-c", f"{restarts.restarter} plain 3 {place} . {restarts.first} {arguments(restarts)}"
        )
        assert executed.stdout.strip() == '{"0": 3}'


def arguments(restarts: Restarts) -> str:
    return f"{socket.inet_aton(restarts.world.b.v4).hex()} {restarts.port:04x} t"


def forked_and_executed(shell: str, address: str, port: int) -> str:
    """A denied program executes one that is not."""
    code = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)\n"
        "except PermissionError: print('EPERM')\n"
        "else: print('passed')\n"
    )
    done = subprocess.run(
        [shell, "-c", f'"{sys.executable}" -c "$0" {address} {port}', code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_threads_and_children_of_a_denied_executable(world: World, restarts: Restarts) -> None:
    """Python itself is denied: by a thread, by a fork, by a fork of a thread."""
    python = os.path.realpath(sys.executable)
    with judged(world) as host:
        host.apply(deny(exe=python))
        done = world.a.command(
            python, "-c", THREADS, world.b.v4, str(restarts.port), cgroup=world.make_cgroup("any")
        )
        assert done.stdout.split() == ["EPERM"] * 4


THREADS = """
import os, socket, sys, threading
def connect():
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
    except PermissionError:
        os.write(1, b"EPERM\\n")
    else:
        os.write(1, b"passed\\n")
def fork():
    if not (pid := os.fork()):
        connect()
        os._exit(0)
    os.waitpid(pid, 0)
connect()
thread = threading.Thread(target=connect); thread.start(); thread.join()
fork()
thread = threading.Thread(target=fork); thread.start(); thread.join()
"""
