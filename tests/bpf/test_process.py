"""The process sensor tells the truth about known workloads: each exec, fork and exit once, with what it was."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis._native import records
from aegis.host.processes import same_start
from tests.support.observed import Observed, by_pid, exec_of, number, observed

pytestmark = [pytest.mark.require("root", "bpf", "tracing", "ringbuf")]

PID, START, UID = 3, 4, 5
PATH, FLAGS, ARGS, ARGS_TOTAL, ANCESTORS, CWD = 12, 13, 14, 15, 16, 17


@pytest.fixture(scope="module")
def sensor() -> Iterator[Observed]:
    with observed("tp_exec", "tp_fork", "tp_exit") as sensor:
        yield sensor


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A program of this test alone: its path names its execs among all others of the machine."""
    return Path(shutil.copy("/bin/true", tmp_path / "program"))


def run(path: str | Path, *arguments: str | bytes, **options: object) -> int:
    """Pid of a process that has run `path` to its end."""
    pid = os.posix_spawn(path, [os.fsencode(path), *map(os.fsencode, arguments)], os.environ, **options)
    os.waitpid(pid, 0)
    return pid


def run_python(text: str) -> int:
    """Pid of a process that has run a Python program to its end, whatever its end was."""
    with subprocess.Popen([sys.executable, "-I", "-c", textwrap.dedent(text)]) as process:
        process.wait()
        return process.pid


def arguments_of(record: tuple) -> list[bytes]:
    assert record[ARGS].endswith(b"\0")
    return record[ARGS][:-1].split(b"\0")


def processes_started() -> int:
    """The kernel's own count of forks since boot, threads included."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    raise LookupError("/proc/stat has no processes")


def test_each_process_is_told_three_times(sensor: Observed, copy: Path) -> None:
    sensor.take()
    pids = [run(copy, str(at)) for at in range(997)]
    found = sensor.take(by_pid(*pids))
    execs = [record for record in found if record[0] == records.EXEC]
    assert [record[PID] for record in execs] == pids
    assert [arguments_of(record) for record in execs] == [
        [os.fsencode(copy), b"%d" % at] for at in range(997)
    ]
    assert Counter(record[0] for record in found) == {
        records.EXEC: 997,
        records.FORK: 997,
        records.EXIT: 997,
    }
    assert {record[8:10] for record in found if record[0] == records.EXIT} == {(0, 0)}
    starts: dict[int, set[int]] = {}
    for record in found:
        starts.setdefault(record[PID], set()).add(record[START])
    assert all(len(each) == 1 for each in starts.values()), "one process, one start"


def test_forks_are_what_the_kernel_counts(sensor: Observed, copy: Path) -> None:
    """The judge counts the whole machine, threads too: the least difference of some quiet rounds is compared."""
    surplus = []
    for _ in range(20):
        sensor.take()
        before = processes_started()
        for _ in range(101):
            run(copy)
        counted = processes_started() - before
        forks = sensor.take(lambda record: record[0] == records.FORK)
        mine = [record for record in forks if record[6] == os.getpid()]
        assert len(mine) == 101
        surplus.append(counted - len(forks))
    assert 0 in surplus, f"in no round the kernel counted what was told: {surplus}"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [b""],
        [b"", b"", b""],
        [b"a", b"", b"b", b""],
        [b"new\nline", b"\x1b[31mred\x1b[0m", b"tab\t", b"\x07"],
        [b"\xff\xfe", b"caf\xe9", "snow \u2603".encode()],
        [b"x" * 4000, b"y" * 4000],
        [b"%d" % number for number in range(1501)],
    ],
    ids=["none", "empty", "all_empty", "mixed", "control", "not_utf8", "long", "many"],
)
def test_arguments_are_exact(sensor: Observed, copy: Path, arguments: list[bytes]) -> None:
    sensor.take()
    run(copy, *arguments)
    (record,) = sensor.take(exec_of(copy))
    assert arguments_of(record) == [os.fsencode(copy), *arguments]
    assert record[ARGS_TOTAL] == len(record[ARGS])


def test_long_arguments_are_cut_and_their_true_length_told(sensor: Observed, copy: Path) -> None:
    arguments = [b"%05d" % at + b"z" * 94 for at in range(1024)]  # 100 KiB
    whole = b"".join(each + b"\0" for each in [os.fsencode(copy), *arguments])
    sensor.take()
    run(copy, *arguments)
    (record,) = sensor.take(exec_of(copy))
    assert record[ARGS_TOTAL] == len(whole)
    assert record[ARGS] == whole[: number("ARGS_BYTES")]


def test_a_process_without_arguments(sensor: Observed, copy: Path) -> None:
    """The kernel gives such a program one empty argument since 5.18."""
    text = f"""
        import ctypes
        nothing = (ctypes.c_char_p * 1)(None)
        ctypes.CDLL(None).execve({os.fsencode(copy)!r}, nothing, nothing)
    """
    sensor.take()
    run_python(text)
    (record,) = sensor.take(exec_of(copy))
    assert record[ARGS] == b"\0"


def test_random_argument_vectors(sensor: Observed, copy: Path) -> None:
    chance = random.Random(20260923)
    vectors = [
        [chance.randbytes(chance.randrange(40)).replace(b"\0", b"") for _ in range(chance.randrange(30))]
        for _ in range(211)
    ]
    sensor.take()
    for vector in vectors:
        run(copy, *vector)
    found = [arguments_of(record)[1:] for record in sensor.take(exec_of(copy))]
    assert found == vectors


def test_working_directory_and_identity(sensor: Observed, copy: Path, tmp_path: Path) -> None:
    place = tmp_path / "a place" / "l\xe4nd"
    place.mkdir(parents=True)
    text = f"""
        import os
        os.chdir({str(place)!r}); os.setgid(12345); os.setuid(23456)
        os.execv({str(copy)!r}, ['program'])
    """
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        directory.chmod(0o755)
    sensor.take()
    pid = run_python(text)
    (record,) = sensor.take(exec_of(copy))
    assert record[PID] == pid
    assert record[UID] == 23456
    assert record[6] == 12345
    assert record[CWD] == os.fsencode(place)
    status = os.stat(copy)
    assert record[9] == status.st_ino
    assert os.major(status.st_dev) == record[10] >> 20
    assert os.minor(status.st_dev) == record[10] & 0xFFFFF


def test_root_directory(sensor: Observed, copy: Path) -> None:
    sensor.take()
    subprocess.run([copy], cwd="/", check=True)
    (record,) = sensor.take(exec_of(copy))
    assert record[CWD] == b"/"


def test_ancestors_are_the_line_up_to_the_first_process(sensor: Observed, copy: Path) -> None:
    depth = 11
    text = f"""
        import os, sys
        for _ in range({depth}):
            if (child := os.fork()):
                os.waitpid(child, 0)
                os._exit(0)
        os.execv({str(copy)!r}, ['program'])
    """
    sensor.take()
    first = run_python(text)
    found = sensor.take()
    (record,) = filter(exec_of(copy), found)
    parent = {each[PID]: (each[6], each[7]) for each in found if each[0] == records.FORK}
    line, pid = [], record[PID]
    while pid in parent and pid != first:
        line.append(parent[pid])
        pid = parent[pid][0]
    assert len(line) == depth
    assert [(pid, start) for pid, start, _ in record[ANCESTORS]] == line[: number("ANCESTORS")]
    assert record[7] == line[0][0]


def test_starts_agree_with_proc(sensor: Observed) -> None:
    from aegis.host.processes import parse_stat

    sensor.take()
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        stat = parse_stat(Path(f"/proc/{process.pid}/stat").read_bytes())
        process.kill()
    starts = {record[START] for record in sensor.take(by_pid(process.pid))}
    assert len(starts) == 1
    assert same_start(starts.pop(), stat.start_ns)


@pytest.mark.parametrize("code", [0, 1, 2, 77, 127, 255])
def test_exit_codes(sensor: Observed, code: int) -> None:
    sensor.take()
    with subprocess.Popen(["/bin/sh", "-c", f"exit {code}"]) as process:
        assert process.wait() == code
    (record,) = sensor.take(lambda each: each[0] == records.EXIT and each[PID] == process.pid)
    assert record[8:10] == (code, 0)


@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT, 34])
def test_deadly_signals(sensor: Observed, deadly: int) -> None:
    sensor.take()
    with subprocess.Popen(["/bin/sh", "-c", f"ulimit -c 0; kill -{deadly:d} $$"]) as process:
        assert process.wait() == -deadly
    (record,) = sensor.take(lambda each: each[0] == records.EXIT and each[PID] == process.pid)
    assert record[8:10] == (0, deadly)


def test_fifty_threads_killed_are_one_exit(sensor: Observed) -> None:
    sensor.take()
    with subprocess.Popen(
        [
            sys.executable,
            "-Ic",
            textwrap.dedent("""
                import threading, signal
                for _ in range(50):
                    threading.Thread(target=signal.pause, daemon=True).start()
                print(threading.active_count(), flush=True)
                signal.pause()
            """),
        ],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"51\n"
        assert len(os.listdir(f"/proc/{process.pid}/task")) == 51
        process.kill()
    found = Counter(record[0] for record in sensor.take(by_pid(process.pid)))
    assert found == {records.FORK: 1, records.EXEC: 1, records.EXIT: 1}


def test_threads_killed_together_are_one_exit_on_older_kernels_too(copy: Path) -> None:
    """Their event does not say which thread is the last, and many find none alive (hardly ever on newer kernels)."""
    text = """
        import os, signal, threading
        for _ in range(50):
            threading.Thread(target=signal.pause, daemon=True).start()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with observed("probe_exit_before_group_dead", name="probe_exit") as sensor:
        pids = [run_python(text) for _ in range(23)] + [run(copy) for _ in range(23)]
        exits = sensor.take(by_pid(*pids))
    assert sorted(record[PID] for record in exits) == sorted(pids)
    assert Counter(record[8:10] for record in exits) == {(0, signal.SIGKILL): 23, (0, 0): 23}


def test_the_leader_may_end_first(sensor: Observed) -> None:
    """The group lives on in its other thread, and its status is that thread's doing."""
    text = """
        import ctypes, os, threading, time
        def finish():
            leader = f"/proc/self/task/{os.getpid()}/stat"
            while open(leader).read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.001)
            os._exit(43)
        threading.Thread(target=finish).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    sensor.take()
    pid = run_python(text)
    (record,) = sensor.take(lambda each: each[0] == records.EXIT and each[PID] == pid)
    assert record[8:10] == (43, 0)


def test_exec_from_a_thread_keeps_the_process(sensor: Observed, copy: Path) -> None:
    text = f"""
        import os, threading
        thread = threading.Thread(target=os.execv, args=({str(copy)!r}, ['program', 'from a thread']))
        thread.start()
        thread.join()
    """
    sensor.take()
    pid = run_python(text)
    found = sensor.take(by_pid(pid))
    assert [record[0] for record in found] == [records.FORK, records.EXEC, records.EXEC, records.EXIT]
    assert arguments_of(found[2]) == [b"program", b"from a thread"]
    assert len({record[START] for record in found}) == 1


def test_threads_are_no_forks(sensor: Observed) -> None:
    sensor.take()
    pid = run_python(
        """
        import threading
        for _ in range(23):
            thread = threading.Thread(target=int); thread.start(); thread.join()
        """
    )
    assert [record for record in sensor.take() if record[0] == records.FORK and record[6] == pid] == []


def test_names_may_hold_anything(sensor: Observed, tmp_path: Path) -> None:
    name = b"\x1b[2J\n\xff(x) y"
    path = os.fsencode(tmp_path) + b"/" + name
    shutil.copy("/bin/true", path)
    sensor.take()
    pid = run(path)
    found = sensor.take(by_pid(pid))
    assert found[1][PATH] == path
    assert found[1][11] == name[:15]
    assert found[2][10] == name[:15]


def test_a_script_names_its_interpreter(sensor: Observed, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\nexit 0\n")
    script.chmod(0o755)
    sensor.take()
    pid = run(script, "argument")
    (record,) = [each for each in sensor.take(by_pid(pid)) if each[0] == records.EXEC]
    assert record[PATH] == os.fsencode(os.path.realpath("/bin/sh"))
    assert arguments_of(record) == [b"/bin/sh", b"-e", os.fsencode(script), b"argument"]


def test_a_deleted_program(sensor: Observed, copy: Path) -> None:
    descriptor = os.open(copy, os.O_RDONLY)
    copy.unlink()
    sensor.take()
    pid = run(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    (record,) = [each for each in sensor.take(by_pid(pid)) if each[0] == records.EXEC]
    assert record[PATH] == os.fsencode(copy)
    assert record[FLAGS] == number("EXE_DELETED")


def test_a_memfd(sensor: Observed) -> None:
    descriptor = os.memfd_create("planted", 0)
    os.write(descriptor, Path("/bin/true").read_bytes())
    sensor.take()
    pid = os.fork()
    if not pid:
        os.execve(descriptor, [b"innocent"], {})
    os.waitpid(pid, 0)
    os.close(descriptor)
    (record,) = [each for each in sensor.take(by_pid(pid)) if each[0] == records.EXEC]
    assert record[PATH] == b"/memfd:planted"
    assert record[FLAGS] == number("EXE_DELETED")
    assert arguments_of(record) == [b"innocent"]


@contextlib.contextmanager
def mounted(source: str, target: Path, kind: str | None, flags: int = 0) -> Iterator[None]:
    """A mount in this machine's mount namespace below a temporary directory, gone at the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), os.fsencode(target), kind and kind.encode(), flags, None):
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield
    finally:
        libc.umount2(os.fsencode(target), 2)


def test_paths_cross_mounts(sensor: Observed, copy: Path, tmp_path: Path) -> None:
    """On a tmpfs, and by a bind mount of a directory, and of the file itself, below it."""
    outer = tmp_path / "outer"
    outer.mkdir()
    with mounted("none", outer, "tmpfs"):
        inner, file = outer / "in" / "ner", outer / "file"
        inner.mkdir(parents=True)
        file.touch()
        with mounted(str(tmp_path), inner, None, 4096), mounted(str(copy), file, None, 4096):
            there = shutil.copy(copy, outer / "program")
            paths = [there, inner / "program", file]
            sensor.take()
            pids = [run(path) for path in paths]
            found = [each[PATH] for each in sensor.take(by_pid(*pids)) if each[0] == records.EXEC]
            assert found == [os.fsencode(path) for path in paths]


def test_a_path_that_is_too_long_keeps_its_end(sensor: Observed, tmp_path: Path) -> None:
    """Such a path cannot be given to a system call whole; one gets there step by step."""
    text = f"""
        import os, shutil
        os.chdir({str(tmp_path)!r})
        for number in range(30):
            name = f"{{number:03d}}" + "d" * 200
            os.mkdir(name)
            os.chdir(name)
        shutil.copy("/bin/true", "program")
        os.execv("./program", ["program"])
    """
    sensor.take()
    pid = run_python(text)
    record = [each for each in sensor.take(by_pid(pid)) if each[0] == records.EXEC][-1]
    assert record[FLAGS] == number("PATH_TRUNCATED") | number("CWD_TRUNCATED")
    assert number("PATH_BYTES") - 210 < len(record[PATH]) <= number("PATH_BYTES")
    assert record[PATH].endswith(b"/029" + b"d" * 200 + b"/program")
    assert record[CWD].endswith(b"/029" + b"d" * 200)


def test_the_agent_does_not_report_itself(copy: Path) -> None:
    with observed("tp_exec", "tp_fork", "tp_exit", agent_tgid=os.getpid()) as sensor:
        sensor.take()
        for _ in range(7):
            run(copy)
        found = sensor.take()
        assert [record for record in found if record[0] == records.FORK and record[6] == os.getpid()] == []
        assert len(list(filter(exec_of(copy), found))) == 7
        terms = sensor.counters(records.FORK)
    assert terms["filtered"] == 7
    assert terms["attempted"] == sum(terms.values()) - terms["attempted"]


def test_a_full_ring_is_counted_to_the_record(copy: Path) -> None:
    with observed("tp_exec", ring_bytes=4096) as sensor:
        for _ in range(307):
            run(copy)
        terms = sensor.counters(records.EXEC)
        found = sensor.take()
    assert terms["attempted"] >= 307
    assert terms["ring_full"] > 0
    assert terms["attempted"] == terms["submitted"] + terms["ring_full"]
    assert len(found) == terms["submitted"]


def test_verifier_budget() -> None:
    """Instructions the verifier walked, with room for another compiler; a loop gone wrong is a hundred times more."""
    with observed() as sensor:
        walked = {program.name: program.info().verified_instructions for program in sensor.object.programs()}
    assert set(walked) == {
        "tp_exec",
        "tp_fork",
        "tp_exit",
        "tp_sock_begin",
        "tp_sock_state",
        "tp_sock_state_again",
        "tp_cgroup_mkdir",
    }
    assert max(walked.values()) < 10_000, walked
