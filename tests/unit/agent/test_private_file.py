from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from aegis.agent import private_file
from aegis.errors import StateFileRefused, StorageError


def test_what_was_written_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    assert private_file.read(path, 10) is None
    for content in (b"first", b"2", b""):
        private_file.replace(path, content)
        assert private_file.read(path, 10) == content
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path) == ["x"]


def test_what_a_dead_writer_left_is_replaced_and_a_link_there_is_not_followed(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / "x.new").symlink_to(tmp_path / "elsewhere")
    private_file.replace(path, b"ours")
    assert (tmp_path / "elsewhere").read_text() == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "x"]


def plant(path: Path, kind: str) -> None:
    path.write_bytes(b"content")
    path.chmod(0o600)
    match kind:
        case "link":
            path.rename(path.with_suffix(".other"))
            path.symlink_to(path.with_suffix(".other"))
        case "hardlink":
            os.link(path, path.with_suffix(".other"))
        case "directory":
            path.unlink()
            path.mkdir(0o600)
        case "fifo":
            path.unlink()
            os.mkfifo(path, 0o600)
        case "large":
            path.write_bytes(bytes(33))
        case "owner":
            os.chown(path, 65534, -1)
        case mode:
            path.chmod(int(mode, 8))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("link", "is a symbolic link"),
        ("hardlink", "has 2 names"),
        ("directory", "is no regular file"),
        ("fifo", "is no regular file"),
        ("large", "has 33 bytes, more than 32"),
        ("0640", "has mode 0640"),
        ("0602", "has mode 0602"),
        ("0700", "has mode 0700"),
        pytest.param("owner", "belongs to uid 65534", marks=pytest.mark.require("root")),
    ],
)
def test_what_is_not_ours_alone_is_refused_by_name_and_left(tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / "x"
    plant(path, kind)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(StateFileRefused) as caught:
        private_file.read(str(path), 32)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert str(path) in (caught.value.hint or "")
    assert sorted(os.listdir(tmp_path)) == before


def test_where_nothing_can_be_written_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=str(tmp_path / "none" / "x")):
        private_file.replace(str(tmp_path / "none" / "x"), b"")


def test_a_write_that_fails_leaves_the_content_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "x")
    private_file.replace(path, b"before")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        private_file.replace(path, b"after")
    monkeypatch.undo()
    assert private_file.read(path, 10) == b"before"
    assert os.listdir(tmp_path) == ["x"]


def test_the_directory_is_flushed_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flushed(number: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def renamed(old: str, new: str) -> None:
        steps.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    private_file.replace(str(tmp_path / "x"), b"")
    assert steps == ["file", "rename", "directory"]
