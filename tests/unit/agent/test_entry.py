from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

SOURCE = "import aegis.agent.entry as e, signal, os\n"


def run(script: str, *options: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a Python that imports the entry point first."""
    ended = subprocess.run(
        [sys.executable, *options, "-c", SOURCE + script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("number", "counts"), [(signal.SIGTERM, "1 0"), (signal.SIGINT, "1 0"), (signal.SIGHUP, "0 1")]
)
def test_a_signal_is_counted_from_the_import_on(number: signal.Signals, counts: str) -> None:
    script = f"signal.raise_signal({int(number)}); print(e.SIGNALS.stops, e.SIGNALS.reloads)"
    assert run(script) == (0, f"{counts}\n", "")


def test_the_loop_is_told_of_each() -> None:
    script = "e.SIGNALS.notify = lambda: print(e.SIGNALS.stops)\nfor s in (15, 2): signal.raise_signal(s)"
    assert run(script) == (0, "1\n2\n", "")


def test_after_the_stop_a_signal_means_nothing() -> None:
    script = "e.SIGNALS.ignore(); [os.kill(os.getpid(), s) for s in (15, 2, 1)]; print('on')"
    assert run(script) == (0, "on\n", "")


def test_a_parent_that_ignored_it_does_not_make_it_deaf() -> None:
    script = "signal.raise_signal(signal.SIGINT); print(e.SIGNALS.stops)"
    deaf = f"import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.executable, ['p', '-c', {SOURCE + script!r}])"
    ended = subprocess.run(
        [sys.executable, "-c", deaf], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")


def test_what_came_while_it_was_held_back_is_counted_and_nothing_stays_blocked() -> None:
    script = "print(e.SIGNALS.stops, signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    held = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {2, 15})\n"
        f"[os.kill(os.getpid(), s) for s in (2, 15)]; os.execv(sys.executable, ['p', '-c', {SOURCE + script!r}])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", held], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2 set()\n", "")


def test_the_last_resort_leaves_with_zero_after_its_release_and_says_where_it_hung() -> None:
    script = (
        "e.LAST_RESORT_S = 0.05\ne.SIGNALS.before_last_resort = lambda: print('released', flush=True) or True\n"
        "signal.raise_signal(signal.SIGTERM)\ndef hangs():\n    while True: pass\nhangs()"
    )
    code, out, err = run(script)
    assert (code, out) == (0, "released\n")
    assert err.startswith("aegis-agent: the stop did not end in time; it hangs here:\n")
    assert " in hangs\n" in err


def test_the_last_resort_waits_for_a_release_under_way_but_not_for_ever() -> None:
    script = (
        "e.LAST_RESORT_S = e.PATIENCE_S = 0.02\ne.SIGNALS.before_last_resort = lambda: print('asked', flush=True)\n"
        "signal.raise_signal(signal.SIGTERM)\nwhile True: pass"
    )
    code, out, err = run(script)
    assert (code, out) == (1, "asked\n" * 5)
    assert "not released: a release under way did not end" in err


def test_a_release_that_fails_does_not_keep_the_process() -> None:
    script = (
        "e.LAST_RESORT_S = 0.02\ndef release(): raise ValueError('why')\ne.SIGNALS.before_last_resort = release\n"
        "signal.raise_signal(signal.SIGTERM)\nwhile True: pass"
    )
    code, _, err = run(script)
    assert code == 1
    assert "not released: ValueError('why')" in err


DEADLOCK = """
import ctypes
e.LAST_RESORT_S, e.END_S = 0.02, 0.2
def hangs(mutex=ctypes.create_string_buffer(64)):
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)  # with the interpreter's lock: no handler, no other thread
signal.raise_signal(signal.SIGTERM)
"""


def test_a_deadlock_in_c_is_left_with_one_and_the_stacks() -> None:
    began = time.monotonic()
    code, out, err = run(DEADLOCK + "hangs()")
    assert time.monotonic() - began < 4  # not by the time of the real one
    assert (code, out) == (1, "")
    assert err.startswith("Timeout (0:00:00.200000)!\n")
    assert " in hangs\n" in err


def test_the_way_down_of_the_interpreter_is_guarded_too() -> None:
    """After the stop is done: nothing of Python is heard any more, and no alarm is armed."""
    script = DEADLOCK + "import atexit; atexit.register(hangs)\ne.SIGNALS.ignore()"
    code, out, err = run(script)
    assert (code, out) == (1, "")
    assert " in hangs\n" in err


@pytest.mark.parametrize(("hangs", "code"), [("while True: pass", 0), ("hangs()", 1)])
def test_who_does_not_read_what_it_says_does_not_hold_the_exit(hangs: str, code: int) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb", buffering=0) as full:
        os.set_blocking(writer, False)
        while full.write(bytes(4096)):
            pass
        os.set_blocking(writer, True)
        ended = subprocess.run(
            [sys.executable, "-c", SOURCE + DEADLOCK + hangs], stderr=full, timeout=20, check=False
        )
    assert ended.returncode == code


def test_the_times_fit_into_five_seconds() -> None:
    code, out, _ = run("print(e.LAST_RESORT_S + e.PATIENCE * e.PATIENCE_S < e.END_S < 5)")
    assert (code, out) == (0, "True\n")


def test_it_imports_next_to_nothing() -> None:
    _, out, _ = run("import sys; print(*sys.modules)", "-S")
    heavy = {
        "asyncio",
        "logging",
        "argparse",
        "pathlib",
        "typing",
        "msgspec",
        "structlog",
        "uvloop",
        "inspect",
    }
    assert "aegis.agent.entry" in out.split()
    assert not heavy & set(out.split())


def test_a_stream_that_the_parent_closed_is_the_null_device() -> None:
    """Else the next file or kernel table gets its number, and is written into."""
    script = (
        "import sys; sys.stderr.buffer.write(b'x'); sys.stderr.flush(); sys.stdin.read()\n"
        "print(*(os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)), os.open('/dev/zero', 0) > 2)"
    )
    closed = ["/bin/sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", SOURCE + script]
    ended = subprocess.run(closed, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "/dev/null /dev/null True\n")
