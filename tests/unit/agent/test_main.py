"""Exit codes and what is said with them; each run is a process of its own, and none needs root."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

import aegis
from aegis.agent.arguments import FLAGS, parser


def agent(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AEGIS_")}
    return subprocess.run(
        [sys.executable, "-m", "aegis.agent.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=plain | environ,
        timeout=60,
        check=False,
    )


def test_version_and_help() -> None:
    assert agent("--version").stdout == f"aegis-agent {aegis.__version__}\n"
    shown = agent("--help")
    assert shown.returncode == 0
    assert all(flag in shown.stdout for flag in FLAGS)


def test_it_is_found_by_its_name_however_it_was_started() -> None:
    script = (
        "import aegis.agent.main as m, atexit; atexit.register(lambda: print(open('/proc/self/comm').read()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", f"{script}\nm.main(['--version'])"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.splitlines()[1] == "aegis-agent"


@pytest.mark.parametrize("wrong", ["--nonsense", "--config", "--conf", "argument", "--gateway-url"])
def test_wrong_usage(wrong: str) -> None:
    ended = agent(wrong)
    assert ended.returncode == 2
    assert "usage: aegis-agent" in ended.stderr


def test_check_names_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[log]\nlevel = 'loud'\n[kernel]\nring_byte = 1\n")
    ended = agent("--check", "--config", file, "--log-format", "blue", AEGIS_AGENT__LOOP="slow")
    assert (ended.returncode, ended.stdout) == (78, "")
    lines = ended.stderr.splitlines()
    assert len(lines) == 4
    for start in (
        f"aegis-agent: {file}:2: log.level: must be one of",
        f"aegis-agent: {file}:4: kernel.ring_byte: there is no such option; did you mean kernel.ring_bytes?",
        "aegis-agent: AEGIS_AGENT__LOOP: agent.loop: must be one of",
        "aegis-agent: --log-format: log.format: must be one of",
    ):
        assert any(line.startswith(start) for line in lines), start
    file.write_text("")
    ended = agent("--check", "--config", file)
    assert ended.returncode == 0
    assert ended.stdout.startswith("configuration ok\ninterface")


def test_check_says_what_a_start_would_find_and_makes_nothing(tmp_path: Path) -> None:
    state, pins = tmp_path / "state", tmp_path / "pins"
    options = ("--state-dir", state, "--run-dir", state, "--pin-dir", pins)
    ended = agent("--check", *options, "--interface", "lo", "--interface", "no-such")
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "configuration ok",
        "interface lo: ok, index 1",
        "interface no-such: there is none now; it would be watched once it comes",
        f"pins {pins}: {tmp_path} is not on a BPF file system: enforcement would end with the agent",
    ]
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_configuration_does_not_start(tmp_path: Path) -> None:
    ended = agent("--config", tmp_path / "none.toml", "--state-dir", tmp_path / "s")
    assert ended.returncode == 78
    assert list(tmp_path.iterdir()) == []


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    ended = agent("--state-dir", blocked / "below", "--run-dir", tmp_path / "run")
    assert ended.returncode == 77
    assert "--state-dir" in ended.stderr
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    held = os.open(state / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        ended = agent("--state-dir", state, "--run-dir", tmp_path / "run")
    finally:
        os.close(held)
    assert ended.returncode == 77
    assert "another agent uses it" in ended.stderr
    long = tmp_path / ("x" * 100) / "run"
    ended = agent("--state-dir", state, "--run-dir", long)
    assert ended.returncode == 77
    assert "has at most 107 bytes" in ended.stderr
    assert not long.parent.exists()


def test_each_flag_names_an_option() -> None:
    from aegis.runtime.config import option_table

    assert set(FLAGS.values()) <= set(option_table().by_path)
    known = {action.option_strings[-1] for action in parser()._actions if action.option_strings}
    assert known == {*FLAGS, "--config", "--check", "--version", "--help"}
