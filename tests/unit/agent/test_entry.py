from __future__ import annotations

import signal
import subprocess
import sys

import pytest


def run(script: str, *options: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a Python that imports the entry point first."""
    source = f"import aegis.agent.entry as e, signal, os\n{script}"
    ended = subprocess.run(
        [sys.executable, *options, "-c", source], capture_output=True, text=True, timeout=60, check=False
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


def test_the_last_resort_leaves_with_zero_after_its_release() -> None:
    script = (
        "e.LAST_RESORT_S = 0.05\ne.SIGNALS.before_last_resort = lambda: print('released', flush=True) or True\n"
        "signal.raise_signal(signal.SIGTERM)\nwhile True: pass"
    )
    assert run(script) == (0, "released\n", "")


def test_the_last_resort_waits_for_a_release_under_way_but_not_for_ever() -> None:
    script = (
        "e.LAST_RESORT_S = e.PATIENCE_S = 0.02\ne.SIGNALS.before_last_resort = lambda: print('asked', flush=True)\n"
        "signal.raise_signal(signal.SIGTERM)\nwhile True: pass"
    )
    assert run(script) == (0, "asked\n" * 5, "")


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
