from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from aegis.errors import StateFileRefused, StorageError
from aegis.gateway.keys import (
    KEY_FILE,
    TOKEN_FILE,
    DataDirectory,
    OperatorToken,
    gateway_seed,
    operator_token,
)


def test_both_are_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with DataDirectory.take(str(path)) as directory:
        seed = gateway_seed(directory)
        operator_token(directory)
    text = (path / TOKEN_FILE).read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for name in (KEY_FILE, TOKEN_FILE):
        assert stat.S_IMODE((path / name).stat().st_mode) == 0o600
    with DataDirectory.take(str(path)) as directory:
        assert gateway_seed(directory) == seed
        token = operator_token(directory)
    assert token.matches(text)
    assert not token.matches(text[:-1])
    assert not token.matches("")
    assert len(text) >= 40


def test_tokens_of_two_gateways_differ(tmp_path: Path) -> None:
    seeds = set()
    for name in "ab":
        with DataDirectory.take(str(tmp_path / name)) as directory:
            seeds.add(gateway_seed(directory))
            operator_token(directory)
    assert len(seeds) == 2
    assert (tmp_path / "a" / TOKEN_FILE).read_text() != (tmp_path / "b" / TOKEN_FILE).read_text()


def test_one_gateway_at_a_time(tmp_path: Path) -> None:
    held = DataDirectory.take(str(tmp_path / "d"))
    with held, pytest.raises(StorageError, match="another gateway uses it"):
        DataDirectory.take(str(tmp_path / "d"))
    with DataDirectory.take(str(tmp_path / "d")):
        pass


def test_a_directory_others_write_in(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StorageError, match="others may write"):
        DataDirectory.take(str(tmp_path))
    (tmp_path / "file").write_text("")
    tmp_path.chmod(0o700)
    with pytest.raises(StorageError):
        DataDirectory.take(str(tmp_path / "file"))


@pytest.mark.parametrize("name", [KEY_FILE, TOKEN_FILE])
@pytest.mark.parametrize("how", ["mode", "link", "content", "empty", "directory"])
def test_a_secret_that_cannot_be_trusted(tmp_path: Path, name: str, how: str) -> None:
    with DataDirectory.take(str(tmp_path / "d")) as directory:
        gateway_seed(directory)
        operator_token(directory)
        path = tmp_path / "d" / name
        if how == "mode":
            path.chmod(0o640)
        elif how == "link":
            path.rename(tmp_path / "real")
            path.symlink_to(tmp_path / "real")
        elif how == "directory":
            path.unlink()
            path.mkdir(mode=0o700)
        else:
            path.write_bytes(b"!" if how == "content" else b"")
        with pytest.raises(StateFileRefused, match=name):
            (gateway_seed if name == KEY_FILE else operator_token)(directory)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with DataDirectory.take(str(tmp_path / "d")) as directory:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space"):
            gateway_seed(directory)
        monkeypatch.undo()
        assert [path.name for path in (tmp_path / "d").iterdir()] == ["gateway.lock"]
        assert len(gateway_seed(directory)) == 32


def test_a_token_is_not_shown() -> None:
    token = OperatorToken("aegis-operator-secret")
    assert "secret" not in repr(vars(token))
