"""What `aegis-agent --check` says of the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aegis.agent.foresight import foresight
from aegis.errors import HostError
from aegis.host.reader import Host
from aegis.runtime.config import Configuration, load
from aegis.runtime.settings import Value


def configured(tmp_path: Path, **kernel: Value) -> Configuration:
    file = tmp_path / "agent.toml"
    file.touch()
    return load(file, environ={}, flags={f"kernel.{name}": ("test", value) for name, value in kernel.items()})


def test_interfaces_by_default_and_none(tmp_path: Path) -> None:
    line, _ = foresight(configured(tmp_path))
    assert line.startswith("interfaces: ")
    line, _ = foresight(configured(tmp_path, interfaces=("none",)))
    assert line == "interfaces: none is to be watched"


def test_interfaces_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Host) -> Any:
        raise HostError("netlink: refused")

    monkeypatch.setattr(Host, "links", refused)
    line, _ = foresight(configured(tmp_path, interfaces=("lo",)))
    assert line == "interfaces: cannot be read: netlink: refused"


def test_no_default_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "default_interfaces", lambda _: ())
    line, _ = foresight(configured(tmp_path))
    assert "none holds a route now" in line


def test_a_pin_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, line = foresight(configured(tmp_path, pin_dir=str(tmp_path / "file" / "below")))
    assert f"{tmp_path}/file is no directory" in line


@pytest.mark.require("root", "bpffs")
def test_a_pin_directory_on_a_bpf_file_system(tmp_path: Path) -> None:
    _, line = foresight(configured(tmp_path, pin_dir="/sys/fs/bpf"))
    assert line == "pins /sys/fs/bpf: ok"
    place = "/sys/fs/bpf/no-such-directory/v1"
    _, line = foresight(configured(tmp_path, pin_dir=place))
    assert line == f"pins {place}: ok, to be made in /sys/fs/bpf"
    assert not Path(place).parent.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"url": "ws://gw:1", "min_protocol": 1},
            "ws://gw:1/ws/agent: protocol v1 would be spoken, which is insecure",
        ),
        (
            {"url": "ws://gw:1"},
            "ws://gw:1/ws/agent: nothing would be spoken to it: gateway.min_protocol is 2",
        ),
        (
            {"url": "wss://gw:1", "min_protocol": 1, "ca": "/none.pem"},
            "refused, since the CA file /none.pem cannot be",
        ),
    ],
)
def test_what_the_link_would_come_to(tmp_path: Path, options: dict[str, Value], said: str) -> None:
    (tmp_path / "agent.toml").touch()
    flags = {f"gateway.{name}": ("test", value) for name, value in options.items()}
    line = foresight(load(tmp_path / "agent.toml", environ={}, flags=flags))[-1]
    assert line.startswith("gateway ws")
    assert said in line
