from __future__ import annotations

from pathlib import Path

import pytest

from aegis.agent.outbox.files import KEPT, Files
from aegis.errors import StateFileRefused


def test_the_key_is_made_once_and_for_us_alone(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    key = files.key()
    assert len(key) == 32
    assert files.key() == key
    assert (tmp_path / "outbox.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "outbox.key").chmod(0o640)
    with pytest.raises(StateFileRefused):
        files.key()
    (tmp_path / "outbox.key").write_bytes(b"short")
    (tmp_path / "outbox.key").chmod(0o600)
    with pytest.raises(StateFileRefused, match="5 bytes"):
        files.key()


def test_a_link_at_the_place_of_the_database_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "outbox.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateFileRefused):
        Files(str(tmp_path)).prepare()


@pytest.mark.parametrize("begun", ["nothing", "log", "both"])
def test_a_change_of_files_is_finished_from_any_step(tmp_path: Path, begun: str) -> None:
    (tmp_path / "outbox.db").write_bytes(b"old")
    (tmp_path / "outbox.db-wal").write_bytes(b"old log")
    (tmp_path / "outbox.db.new").write_bytes(b"new")
    (tmp_path / "outbox.db.part").write_bytes(b"never mind")
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    if begun in ("log", "both"):
        (tmp_path / "outbox.db-wal").rename(tmp_path / "outbox.db.corrupt-1-wal")
    if begun == "both":
        (tmp_path / "outbox.db").rename(tmp_path / "outbox.db.corrupt-1")
    Files(str(tmp_path)).prepare()
    assert (tmp_path / "outbox.db").read_bytes() == b"new"
    assert not (tmp_path / "outbox.db-wal").exists()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert "outbox.db.part" not in left
    assert {path.read_bytes() for path in tmp_path.glob("*corrupt*")} == {b"old", b"old log"}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    for number in range(5):
        files.prepare()
        (tmp_path / "outbox.db").write_bytes(b"%d" % number)
        (tmp_path / "outbox.db.part").write_bytes(b"next")
        (tmp_path / "outbox.db.part").chmod(0o600)
        files.finish()
    kept = sorted(path.read_bytes() for path in tmp_path.glob("*corrupt*"))
    assert kept == [b"3", b"4"]
    assert len(kept) == KEPT
