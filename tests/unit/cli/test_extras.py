"""The line that installs an extra names the file this package came from, never a bare name of an index."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from aegis.cli.extras import IN_A_CHECKOUT, line_for


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        ('{"url": "file:///srv/aegis-9.whl", "archive_info": {}}', "'/srv/aegis-9.whl[gateway]'"),
        ('{"url": "file:///srv/a%20b/aegis-9.whl"}', "'/srv/a b/aegis-9.whl[gateway]'"),
        ('{"url": "https://example.org/aegis-9.whl"}', "'https://example.org/aegis-9.whl[gateway]'"),
        (None, "'WHEEL_OF_AEGIS_9.1[gateway]'"),
        ("[]", "'WHEEL_OF_AEGIS_9.1[gateway]'"),
        ("no JSON", "'WHEEL_OF_AEGIS_9.1[gateway]'"),
    ],
)
def test_the_wheel_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None, what: str
) -> None:
    info = tmp_path / "aegis-9.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aegis\nVersion: 9.1\n")
    if origin is not None:
        (info / "direct_url.json").write_text(origin)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "executable", "/opt/aegis/bin/python")
    assert line_for("gateway") == f"/opt/aegis/bin/python -m pip install {what}"


def test_in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    assert line_for("gateway") == IN_A_CHECKOUT
