"""Processes out of /proc: the real one against psutil, and trees with lies in them."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import HostError
from aegis.host.processes import ARGS_BYTES, TICK_NS, Processes, parse_identity, parse_stat, same_start
from aegis.model.absent import Absent
from aegis.model.process import Cgroup
from tests.support import hosttree

STAT = b"%s (%s) S 1 2 3 0 -1 4194304 1 0 0 0 7 8 0 0 20 0 9 0 1234 1 77 0 0\n"


def nowhere(path: str) -> Cgroup:
    return Cgroup(id=1, path=path, unit=None)


@pytest.mark.parametrize(
    "comm",
    [b"sh", b"a b", b"(paren)", b") S 1 2 3", b"new\nline", b"", b"\xff\xfe", b"((", b"x) (y"],
)
def test_a_name_may_hold_anything(comm: bytes) -> None:
    stat = parse_stat(STAT % (b"4711", comm))
    assert (stat.pid, stat.comm, stat.state, stat.ppid, stat.threads) == (4711, comm, "S", 1, 9)
    assert (stat.user_ticks, stat.system_ticks, stat.rss_pages) == (7, 8, 77)
    assert stat.start_ns == 1234 * TICK_NS


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"garbage",
        b"1 (a) S 1 2",
        b"(a) S 1",
        b") 1 (",
        STAT % (b"-4", b"a"),
        STAT % (b"9" * 30, b"a"),
        (STAT % (b"1", b"a")).replace(b"1234", b"12e4"),
    ],
)
def test_a_stat_that_makes_no_sense(text: bytes) -> None:
    with pytest.raises(HostError):
        parse_stat(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_stat_or_an_error(text: bytes) -> None:
    for parse in (parse_stat, parse_identity):
        try:
            parse(text)
        except HostError:
            continue


def test_starts_are_the_same_within_a_tick() -> None:
    start = 123_456_789_012
    assert same_start(start, start // TICK_NS * TICK_NS)
    assert not same_start(start, start - TICK_NS)


def test_a_process_of_the_tree(tmp_path: Path) -> None:
    root = hosttree.make(tmp_path)
    processes = Processes(nowhere, str(root / "proc"))
    found = processes.find(42)
    assert found is not None
    assert (found.ppid, found.uid, found.gid, found.comm) == (1, 1000, 100, b"agent")
    assert (found.exe, found.exe_deleted, found.cwd) == (b"/usr/bin/agent", True, b"/")
    assert found.argv() == ["agent", "--flag", "", "last"]
    assert [ancestor.pid for ancestor in found.ancestors] == [1]
    assert getattr(found.cgroup, "path", None) == "/system.slice/agent.service"
    assert [process.pid for process in sorted(processes.all(), key=lambda one: one.pid)] == [1, 42]
    assert processes.find(43) is None


def test_one_illegible_process_does_not_hide_the_others(tmp_path: Path) -> None:
    root = hosttree.make(tmp_path)
    (root / "proc/42/stat").write_text("nonsense")
    processes = Processes(nowhere, str(root / "proc"))
    assert [process.pid for process in processes.all()] == [1]
    assert processes.illegible == 1
    with pytest.raises(HostError):
        processes.find(42)


def test_a_parent_that_is_younger_is_no_ancestor(tmp_path: Path) -> None:
    root = hosttree.make(tmp_path)
    (root / "proc/1/stat").write_text(hosttree.FILES["proc/1/stat"].replace(" 5 1 2 0", " 5000 1 2 0"))
    found = Processes(nowhere, str(root / "proc")).find(42)
    assert found is not None
    assert found.ancestors == ()


def test_long_arguments_are_cut_and_their_length_is_kept(tmp_path: Path) -> None:
    root = hosttree.make(tmp_path)
    (root / "proc/42/cmdline").write_bytes(b"x" * 70_001 + b"\0")
    found = Processes(nowhere, str(root / "proc")).find(42)
    assert found is not None
    assert not isinstance(found.args, Absent)
    assert (len(found.args), found.args_total, found.args_truncated) == (ARGS_BYTES, 70_002, True)


def test_this_process_is_what_psutil_says_it_is() -> None:
    found = Processes(nowhere).find(os.getpid())
    judge = psutil.Process()
    assert found is not None
    assert (found.ppid, found.uid, found.gid) == (judge.ppid(), judge.uids().real, judge.gids().real)
    assert found.exe == os.fsencode(judge.exe())
    assert found.cwd == os.fsencode(judge.cwd())
    assert found.argv() == judge.cmdline()
    assert abs(found.start_ns / 1e9 + psutil.boot_time() - judge.create_time()) <= 1.0
    assert found.ancestors[0].pid == os.getppid()


def test_a_kernel_thread_has_no_executable_and_says_why() -> None:
    threads = [process for process in Processes(nowhere).all() if process.ppid == 2]
    if not threads:
        pytest.skip("no kernel threads in this pid namespace")
    for thread in threads:
        assert thread.exe == Absent("a thread of the kernel")


def test_a_process_that_ends_meanwhile_is_none() -> None:
    with subprocess.Popen(["true"]) as child:
        handle = os.pidfd_open(child.pid)
        select.select([handle], [], [], 30)
        os.close(handle)
        zombie = Processes(nowhere).find(child.pid)
        assert zombie is not None  # not waited for yet
        assert zombie.argv() in ([], None)
        child.wait()
        assert Processes(nowhere).find(child.pid) is None
