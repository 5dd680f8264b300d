"""Children: placed before the call returns, gone after the block."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest

from aegis.errors import HostError
from aegis.host import children
from aegis.host.namespaces import NetworkNamespace
from tests.support.world import World


def test_a_function_gives_its_value_and_its_exception() -> None:
    with children.call(divmod, 17, 5) as child:
        assert child.result(10) == (3, 2)
        assert child.wait(10) == 0
    with children.call(divmod, 1, 0) as child, pytest.raises(ZeroDivisionError):
        child.result(10)


def test_an_error_of_our_own_survives_the_pipe() -> None:
    def fail() -> None:
        raise HostError("no policy", errno=errno.EPERM, hint="look")

    with children.call(fail) as child, pytest.raises(HostError, match="no policy") as caught:
        child.result(10)
    assert (caught.value.errno, caught.value.hint) == (errno.EPERM, "look")

    def fail_oddly() -> None:
        raise OSError(errno.EPERM, "odd")

    with children.call(fail_oddly) as child, pytest.raises(PermissionError):
        child.result(10)


def test_an_error_that_cannot_be_read_back_keeps_its_words() -> None:
    class Odd(Exception):
        def __init__(self, one: str, other: str) -> None:
            super().__init__(f"{one} and {other}")

    def fail() -> None:
        raise Odd("this", "that")

    with children.call(fail) as child, pytest.raises(HostError, match="Odd: this and that"):
        child.result(10)


def test_a_value_that_cannot_be_sent_says_so() -> None:
    with children.call(lambda: sys.stdout) as child, pytest.raises(HostError, match="cannot be sent"):
        child.result(10)


def test_a_child_that_dies_gives_no_answer() -> None:
    with children.call(os.kill, os.getpid(), 0) as child:
        assert child.result(10) is None
    with children.call(lambda: os.kill(os.getpid(), signal.SIGKILL)) as child:
        with pytest.raises(HostError, match="ended with -9"):
            child.result(10)
        assert child.wait(10) == -signal.SIGKILL


def test_a_large_value_arrives_whole() -> None:
    with children.call(bytes, 3_000_017) as child:
        assert child.result(30) == bytes(3_000_017)


def test_what_still_runs_is_ended_with_the_block() -> None:
    with children.execute(["sleep", "600"]) as child:
        assert child.running()
        with pytest.raises(HostError, match="still runs"):
            child.wait(0)
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    child.close()


def test_a_program_gets_its_descriptors_and_environment() -> None:
    reading, writing = os.pipe()
    with children.execute(["sh", "-c", "echo $WORD"], environment={"WORD": "13"}, stdout=writing) as child:
        os.close(writing)
        with os.fdopen(reading) as stream:
            assert stream.read() == "13\n"
        assert child.wait(10) == 0


def test_a_program_that_is_not_there_is_an_error_of_the_start() -> None:
    with pytest.raises(HostError, match="start a child: FileNotFoundError"):
        children.execute(["/nonexistent/program"])
    with pytest.raises(HostError, match="start a child"):
        children.call(int, cgroup="/nonexistent")


def test_a_child_is_in_its_namespace_and_cgroup_from_the_start(world: World) -> None:
    unit = world.make_cgroup("tester.service")

    def look() -> tuple[int, str]:
        with NetworkNamespace.current() as here, open("/proc/self/cgroup") as stream:
            return here.inode, stream.read()

    with children.call(look, namespace=world.b.namespace, cgroup=unit) as child:
        inode, cgroup = child.result(10)
    assert inode == world.b.namespace.inode
    assert f"0::/{world.cgroup.name}/tester.service" in cgroup
    with children.execute(["sleep", "600"], namespace=world.b.namespace, cgroup=unit) as sleeper:
        assert str(sleeper.pid) in (unit / "cgroup.procs").read_text().split()
        with NetworkNamespace.of_process(sleeper.pid) as there:
            assert there.inode == world.b.namespace.inode
