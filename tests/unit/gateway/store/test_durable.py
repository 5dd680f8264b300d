from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from aegis.errors import StorageError
from aegis.gateway.store.durable import Durable


def test_a_name_is_flushed_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does that with its own first flush, which never comes."""
    (tmp_path / "x-wal").write_bytes(b"frames")
    flushed = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(
            os, name, lambda number, name=name: flushed.append((name, os.readlink(f"/proc/self/fd/{number}")))
        )
    durable = Durable(str(tmp_path / "x"))
    durable.sync()
    durable.sync()
    file, folder = ("fdatasync", str(tmp_path / "x-wal")), ("fsync", str(tmp_path))
    assert flushed == [folder, file, file]
    durable.forget()
    durable.forget()
    durable.sync()
    assert flushed == [folder, file, file, folder, file]
    durable.forget()


def test_a_name_that_cannot_be_flushed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x-wal").write_bytes(b"frames")
    durable = Durable(str(tmp_path / "x"))

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError):
        durable.sync()
    with pytest.raises(StorageError):
        durable.mend()
    monkeypatch.undo()
    durable.mend()
    durable.sync()
    durable.forget()


def test_a_file_that_was_taken_away_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x-wal").write_bytes(b"frames")
    durable = Durable(str(tmp_path / "x"))
    monkeypatch.setattr(os, "fdatasync", lambda _: 1 / 0)
    durable.mend()  # of nothing
    durable.forget()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageError, match="flushed to the disk"):
        durable.sync()
    (tmp_path / "x-wal").unlink()
    durable.mend()
    durable.sync()


def test_what_is_long_is_written_again_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(3 << 20) + b"end"
    (tmp_path / "x-wal").write_bytes(content)
    durable = Durable(str(tmp_path / "x"))

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageError):
        durable.sync()
    monkeypatch.undo()
    write, written = os.pwrite, []

    def short(number: int, piece: bytes, at: int) -> int:
        written.append(at)
        return write(number, piece[:700_000], at)

    monkeypatch.setattr(os, "pwrite", short)
    durable.mend()
    assert written == [0, 700_000, 1_400_000, 2_100_000, 2_800_000]
    assert (tmp_path / "x-wal").read_bytes() == content
    durable.forget()
