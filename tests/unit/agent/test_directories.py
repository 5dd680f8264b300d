from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from aegis.agent.directories import SOCKET_BYTES, Directories
from aegis.errors import StorageError
from aegis.runtime.settings import Settings
from tests.support.world import World


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


@pytest.mark.require("root", "bpf", "bpffs")
def test_pins_that_were_never_made_leave_no_directory(world: World) -> None:
    """A stop between the lock and the first pin."""
    pins = world.bpffs / "aegis"
    with Directories.take(settings(world.directory / "state", world.directory / "run"), str(pins)):
        assert pins.exists()
    assert not pins.exists()


def _umask() -> int:
    now = os.umask(0o22)
    os.umask(now)
    return now


def test_one_directory_may_be_both(tmp_path: Path) -> None:
    Directories.take(settings(tmp_path / "x", tmp_path / "x")).close()


@pytest.mark.parametrize("which", ["state", "run"])
def test_who_can_open_a_directory_cannot_keep_the_agent_from_starting(tmp_path: Path, which: str) -> None:
    (tmp_path / which).mkdir(mode=0o755)
    number = os.open(tmp_path / which, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        with Directories.take(settings(tmp_path / "state", tmp_path / "run")):
            assert stat.S_IMODE((tmp_path / which / "agent.lock").stat().st_mode) == 0o600
    finally:
        os.close(number)


@pytest.mark.parametrize("which", ["state", "run"])
def test_each_directory_is_one_agents(tmp_path: Path, which: str) -> None:
    with Directories.take(settings(tmp_path / "state", tmp_path / "run")):
        other = {"state": tmp_path / "other", "run": tmp_path / "other", which: tmp_path / which}
        with pytest.raises(StorageError, match=f"{which}: another agent uses it"):
            Directories.take(settings(other["state"], other["run"]))


def test_a_lock_file_that_is_a_link_or_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    lock = tmp_path / "state" / "agent.lock"
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        Directories.take(settings(tmp_path / "state", tmp_path / "run"))
    assert not (tmp_path / "elsewhere").exists()
    lock.unlink()
    lock.touch()
    lock.chmod(0o644)
    with pytest.raises(StorageError, match="others may lock it"):
        Directories.take(settings(tmp_path / "state", tmp_path / "run"))


def test_a_lock_left_by_a_killed_agent_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.close(os.open(tmp_path / "run" / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600))
    Directories.take(settings(tmp_path / "state", tmp_path / "run")).close()


def test_a_socket_path_no_address_has_room_for_is_refused(tmp_path: Path) -> None:
    room = SOCKET_BYTES - len(os.fsencode(tmp_path / "x" / "agent.sock"))
    fits, long = tmp_path / ("x" * (room + 1)), tmp_path / ("x" * (room + 2))
    Directories.take(settings(tmp_path / "state", fits)).close()
    with pytest.raises(StorageError, match="at most 107 bytes, and this one 108"):
        Directories.take(settings(tmp_path / "state", long))
    assert not long.exists()


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
