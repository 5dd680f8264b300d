"""The script `aegis-agent`: which Python it becomes, with which arguments and which signals held back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bin/aegis-agent"
ENV = "/usr/bin/env"
STUB = """#!/bin/sh
echo "$$ $0"
for argument in "$@"; do echo "$argument"; done
while read -r name mask; do [ "$name" != SigBlk: ] || echo "$mask"; done </proc/$$/status
exit 7
"""
HELD = f"{1 << 15 - 1 | 1 << 2 - 1:016x}"  # SIGTERM and SIGINT
NOTHING = f"{0:016x}"


def stub(path: Path) -> Path:
    """An interpreter that tells how it was started."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STUB)
    path.chmod(0o755)
    return path


def installed(folder: Path, text: str = "") -> Path:
    path = folder / "aegis-agent"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SCRIPT, path)
    if text:
        path.write_text(text)
    return path


def become(script: Path | str, *arguments: str, **options: object) -> tuple[str, str]:
    """Path of the interpreter that the script became, in the same process with its arguments; and what is blocked."""
    with subprocess.Popen([script, *arguments], stdout=subprocess.PIPE, text=True, **options) as process:  # type: ignore[call-overload]
        out, _ = process.communicate(timeout=30)
    first, *given, mask = out.splitlines()
    pid, _, interpreter = first.partition(" ")
    assert (int(pid), process.returncode) == (process.pid, 7)
    assert given == ["-P", "-m", "aegis.agent.main", *arguments]
    return interpreter, mask


@pytest.mark.parametrize("name", ["venv", "a folder with $blanks"])
def test_it_becomes_the_python_of_its_environment(tmp_path: Path, name: str) -> None:
    python = stub(tmp_path / name / "bin/python")
    (tmp_path / name / "pyvenv.cfg").touch()
    script = installed(python.parent)
    (python.parent / "aegis").write_text("#!/opt/python\n")
    assert become(script, "--config", "a b", "", "*") == (str(python), HELD)
    link = tmp_path / "elsewhere" / "agent"
    link.parent.mkdir()
    link.symlink_to(script)
    assert become(link) == (str(python), HELD)
    assert become("./aegis-agent", cwd=python.parent) == ("./python", HELD)


@pytest.mark.parametrize("first", ["#!{}", "#! {}", "#!{} -sE"])
def test_outside_of_one_it_becomes_the_python_of_the_tool_beside_it(tmp_path: Path, first: str) -> None:
    python = stub(tmp_path / "usr/bin/python3.11")
    script = installed(tmp_path / "local/bin")
    stub(script.with_name("python"))  # somebody's; this folder is no environment
    script.with_name("aegis").write_text(first.format(python) + "\nimport sys\n")
    assert become(script) == (str(python), HELD)


@pytest.mark.parametrize("first", [None, "", "#!/usr/bin/env python3\n", "#!/bin/sh\n"])
def test_else_the_python3_of_the_path(tmp_path: Path, first: str | None) -> None:
    python = stub(tmp_path / "path/python3")
    script = installed(tmp_path / "bin")
    if first is not None:
        script.with_name("aegis").write_text(first)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    assert become(script, "--help", env=environment) == (str(python), HELD)


@pytest.mark.parametrize("env", ["#!/bin/sh\necho unrecognized >&2\nexit 125\n", None])
def test_without_an_env_that_can_hold_back_it_starts_all_the_same(tmp_path: Path, env: str | None) -> None:
    python = stub(tmp_path / "bin/python")
    (tmp_path / "pyvenv.cfg").touch()
    fake, text = tmp_path / "env", SCRIPT.read_text()
    assert ENV in text
    if env is not None:
        fake.write_text(env)
        fake.chmod(0o755)
    script = installed(python.parent, text.replace(ENV, str(fake)))
    assert become(script, "--check", stderr=subprocess.STDOUT) == (str(python), NOTHING)


def test_a_path_that_env_would_take_for_a_variable(tmp_path: Path) -> None:
    python = stub(tmp_path / "a=b/bin/python")
    (tmp_path / "a=b/pyvenv.cfg").touch()
    assert become(installed(python.parent)) == (str(python), NOTHING)


def test_what_is_installed_here_is_the_script_of_the_tree() -> None:
    here = Path(sysconfig.get_path("scripts"), "aegis-agent")
    assert here.read_bytes() == SCRIPT.read_bytes(), "./dev setup installs it"
