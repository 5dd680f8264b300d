from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from aegis.agent.directories import Directories
from aegis.errors import StorageError
from aegis.runtime.settings import Settings


def settings(state: Path, run: Path) -> Settings:
    return Settings("agent", {"state_dir": str(state), "run_dir": str(run)})


def test_they_are_made_with_their_modes_and_held(tmp_path: Path) -> None:
    state, run = tmp_path / "a" / "state", tmp_path / "run"
    with Directories.take(settings(state, run)) as held:
        assert [stat.S_IMODE(path.stat().st_mode) for path in (state, run)] == [0o700, 0o755 & ~_umask()]
        assert held.socket == str(run / "agent.sock")
        with pytest.raises(StorageError, match="another agent uses it"):
            Directories.take(settings(tmp_path / "other", run))
    Directories.take(settings(state, run)).close()
    assert [*state.iterdir(), *run.iterdir()] == []


def _umask() -> int:
    now = os.umask(0o22)
    os.umask(now)
    return now


def test_one_directory_may_be_both(tmp_path: Path) -> None:
    Directories.take(settings(tmp_path / "x", tmp_path / "x")).close()


def test_a_directory_others_may_write_in_is_refused(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    with pytest.raises(StorageError, match="others may write"):
        Directories.take(settings(loose, tmp_path / "run"))


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StorageError, match="state") as caught:
        Directories.take(settings(tmp_path / "state", tmp_path / "run"))
    assert caught.value.hint is not None
