"""nftables as the demo's judge: its readings in the words of a flow, and where there are none the reason by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aegis.cli.demo import judges
from aegis.cli.demo.judges import Nftables

# Writes down its words and the rules it was given; tells the namespace's counters as nft 1.0.6 does.
TOOL = """#!/bin/sh
echo "$NAMESPACE $*" >>{log}
[ "$1" = -f ] && exec cat >>{log}
case $NAMESPACE in edge) sent=7 ;; *) sent=2 ;; esac
cat <<TEXT
{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}},
{{"counter": {{"family": "inet", "name": "sent", "table": "aegis_demo", "packets": $sent, "bytes": 200}}}},
{{"counter": {{"family": "inet", "name": "received", "table": "aegis_demo", "packets": 3, "bytes": 1000}}}},
{{"counter": {{"family": "inet", "name": "marked_sent", "table": "aegis_demo", "packets": $sent, "bytes": 1}}}},
{{"counter": {{"family": "inet", "name": "marked_received", "table": "aegis_demo", "packets": 3, "bytes": 1}}}}]}}
TEXT
"""


class Namespace:
    """One a process cannot be in; the tool sees its name."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._name, self._monkeypatch = name, monkeypatch

    @contextlib.contextmanager
    def entered(self) -> Any:
        with self._monkeypatch.context() as patch:
            patch.setenv("NAMESPACE", self._name)
            yield


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], Nftables]:
    """A judge whose tool is the given script; None: there is none."""

    def make(script: str | None) -> Nftables:
        tool = tmp_path / "nft"
        if script is not None:
            tool.write_text(script)
            tool.chmod(0o755)
        found = None if script is None else str(tool)
        monkeypatch.setattr(judges, "shutil", SimpleNamespace(which=lambda *_, **__: found))
        places = [cast("Any", Namespace(name, monkeypatch)) for name in ("edge", "peer")]
        return Nftables(places[0], places[1], "aegis0", 4711)

    return make


def test_the_peer_counts_what_the_edge_sent_and_as_an_interface_does(
    judge: Callable[[str | None], Nftables], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    nftables = judge(TOOL.format(log=log))
    assert nftables.reason is None
    assert nftables.arrived() == {
        "packets_sent": 3,
        "bytes_sent": 1000 + 3 * 14,
        "packets_received": 2,
        "bytes_received": 200 + 2 * 14,
    }
    assert nftables.marked() == {"left_the_client": 7, "came_to_the_peer": 3}
    said = log.read_text()
    for place in ("edge", "peer"):
        assert f"{place} -f -\n" in said
        assert f"{place} -j list counters table inet aegis_demo\n" in said
    for rule in ('oifname "aegis0" tcp dport 4711', 'iifname "aegis0" tcp dport 4711'):
        assert said.count(rule) == 2


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "nft is not installed (Debian package nftables)"),
        (
            "#!/bin/sh\ncat >/dev/null\necho 'Error: Operation not supported' >&2\necho more >&2\nexit 1\n",
            "nft -f: Error: Operation not supported",
        ),
        ("#!/bin/sh\ncat >/dev/null\nexit 3\n", "nft -f: exit code 3"),
        ("#!/nowhere\n", "No such file or directory"),
        ("#!/bin/sh\n[ $1 = -f ] || { echo 'no JSON here' >&2; exit 1; }\n", "nft -j: no JSON here"),
    ],
)
def test_without_a_reading_there_is_a_reason(
    judge: Callable[[str | None], Nftables], script: str | None, reason: str
) -> None:
    nftables = judge(script)
    assert reason in (nftables.reason or "")
    assert nftables.arrived() is None
    assert nftables.marked() is None
    assert judges.since(nftables.marked(), None) is None


def test_between_two_readings() -> None:
    assert judges.since({"a": 5, "b": 2}, {"a": 3, "b": 2}) == {"a": 2, "b": 0}


def test_forks_are_the_kernels() -> None:
    lines = dict(line.split(" ", 1) for line in Path("/proc/stat").read_text().splitlines())
    assert judges.forks() >= int(lines["processes"]) > 0
