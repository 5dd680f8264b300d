from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from aegis.agent import remembered
from aegis.errors import StorageError


def test_an_order_is_kept_and_the_last_one_counts(tmp_path: Path) -> None:
    state = str(tmp_path)
    assert remembered.remembered(state) == {}
    remembered.remember(state, "telemetry", enabled=False)
    remembered.remember(state, "observability", enabled=False)
    remembered.remember(state, "telemetry", enabled=True)
    origin = str(tmp_path / "modules.json")
    assert remembered.origin(state) == origin
    assert remembered.remembered(state) == {
        "modules.observability.enabled": (origin, False),
        "modules.telemetry.enabled": (origin, True),
    }
    assert stat.S_IMODE(os.stat(origin).st_mode) == 0o600
    assert os.listdir(state) == ["modules.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"enabled": {"x": 1}}', b"\xff" * 100])
def test_a_file_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "modules.json").write_bytes(content)
    assert remembered.remembered(str(tmp_path)) == {}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('{"enabled": {"x": true}}')
    (tmp_path / "modules.json").symlink_to(tmp_path / "elsewhere")
    assert remembered.remembered(str(tmp_path)) == {}
    remembered.remember(str(tmp_path), "y", enabled=True)
    assert (tmp_path / "elsewhere").read_text() == '{"enabled": {"x": true}}'


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        remembered.remember(str(tmp_path / "none"), "x", enabled=True)
