"""The control socket of a real agent: who may do what, what nonsense does, what is printed."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from aegis.agent.control.verbs import VERBS
from aegis.cli.client import AgentError
from aegis.model.stamp import rfc3339
from tests.support.agent import RunningAgent, running_agent
from tests.support.awaiting import await_condition
from tests.support.scale import scaled, seed
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx")

NOBODY = 65534
READING = {
    "status",
    "doctor",
    "events",
    "flows",
    "counters",
    "policy.list",
    "policy.history",
    "policy.export",
    "modules.list",
    "config.show",
    "samples",
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "policy.check": {"document": "apiVersion: aegis/v1"},
    "policy.apply": {"document": "apiVersion: aegis/v1"},
    "policy.diff": {"document": "apiVersion: aegis/v1"},
    "policy.explain": {"protocol": "tcp", "dst": "10.0.0.1", "dst_port": 23},
    "policy.remove": {"name": "x"},
    **{
        f"modules.{order}": {"name": "telemetry"}
        for order in ("start", "stop", "enable", "disable", "config")
    },
}


@pytest.fixture
def agent(world: World) -> Iterator[RunningAgent]:
    with running_agent(world) as running:
        yield running


def connect(agent: RunningAgent) -> Any:
    return unix_connect(agent.socket, "ws://localhost/", compression=None, ping_interval=None, max_size=None)


def answer(client: Any, frame: str | bytes) -> dict[str, Any]:
    client.send(frame)
    found: dict[str, Any] = json.loads(client.recv(timeout=20))
    return found


def test_every_object_has_the_four_keys_and_a_reason_for_each_null(agent: RunningAgent) -> None:
    for verb in sorted(READING | {"policy.explain"}):
        rows = agent.ask(verb, **ARGUMENTS.get(verb, {}))
        for row in rows:
            assert row["schema"].startswith("aegis.")
            assert (row["version"], row["time"][-1]) == (1, "Z")
            assert isinstance(row["time_ns"], int)
            assert row["time"] == rfc3339(row["time_ns"])  # one instant
            absent(row, verb)


def absent(row: Any, where: str) -> None:
    """Each null of the object, and of objects in it, stands beside its reason."""
    if isinstance(row, list):
        for one in row:
            absent(one, where)
    if isinstance(row, dict):
        for name, value in row.items():
            if value is None:
                assert row.get(f"{name}_reason"), f"{where}: {name} is null without a reason"
            absent(value, f"{where}.{name}")


def test_status_has_the_keys_users_hold_on_to(agent: RunningAgent) -> None:
    (status,) = agent.ask("status")
    assert status["schema"] == "aegis.status"
    assert {"id", "uid", "version", "pid", "uptime_s"} <= set(status["agent"])
    assert status["agent"]["pid"] == agent.pid
    assert set(status["gateway"]) >= {"url", "state", "protocol", "authenticated_since", "insecure_v1"}
    assert status["gateway"]["state"] == "unconfigured"
    assert set(status["enforcement"]) >= {"state", "generation", "mode", "interfaces", "confirm_deadline"}
    assert (status["enforcement"]["state"], status["enforcement"]["interfaces"]) == ("none", ["aegis0"])
    for module in status["modules"]:
        assert {"name", "state", "reason", "since", "cpu_percent", "memory_bytes"} <= set(module)
    rss = int(Path(f"/proc/{agent.pid}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    assert abs(status["resources"]["rss_bytes"] - rss) < 0.05 * rss
    assert status["resources"]["map_bytes"] > 0
    assert status["losses"] == {}


def test_changing_verbs_are_roots(world: World, agent: RunningAgent, tmp_path: Path) -> None:
    mode = stat.S_IMODE(os.stat(agent.socket).st_mode)
    assert mode in {0o600, 0o660}
    script = """
import json, os, sys
sys.path[:0] = json.loads(sys.argv[1])
from aegis.cli.client import AgentError, request
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for name, verb, args in json.loads(sys.argv[3]):
    try:
        list(request(sys.argv[2], verb, args, timeout_s=20))
        print(name, "ok")
    except AgentError as error:
        print(name, error.code)
"""
    verbs = [[verb.name, verb.name, ARGUMENTS.get(verb.name, {})] for verb in VERBS]
    setting = {"name": "telemetry", "set": {"interval_s": 7}}
    verbs.append(["modules.config-set", "modules.config", setting])
    command = [sys.executable, "-c", script, json.dumps(sys.path), agent.socket, json.dumps(verbs)]
    said = dict(line.split() for line in subprocess.check_output(command, text=True).splitlines())
    assert said == dict.fromkeys([name for name, _, _ in verbs], "permission_denied")  # by the socket's mode
    directories = [Path(agent.socket), *Path(agent.socket).parents]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in directories if path != Path("/")}
    try:  # as a member of the group would come in
        for path, found in modes.items():
            path.chmod(found | (0o006 if path == directories[0] else 0o001))
        said = dict(line.split() for line in subprocess.check_output(command, text=True).splitlines())
    finally:
        for path, found in modes.items():
            path.chmod(found)
    for verb in VERBS:
        expected = (
            "permission_denied"
            if verb.changes
            else "policy_invalid"
            if verb.name in {"policy.check", "policy.diff"}
            else "ok"
        )
        assert said[verb.name] == expected
    assert not next(verb for verb in VERBS if verb.name == "modules.config").changes
    assert said["modules.config-set"] == "permission_denied"


def test_a_second_agent_leaves_the_socket_of_a_live_one_alone(world: World, agent: RunningAgent) -> None:
    """The lock of the run directory decides, before anything is removed from it."""
    before = os.stat(agent.socket)
    (world.directory / "other").mkdir()
    command = list(agent.command)
    command[command.index("--state-dir") + 1] = str(world.directory / "other")
    second = world.a.command(*command, check=False)
    assert (second.returncode, "another agent uses it" in second.stderr) == (77, True)
    after = os.stat(agent.socket)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
    assert agent.ask("status")


NASTY: tuple[Any, ...] = (
    *(None, True, -1, 10**30, -(10**30), 1.5, 1e308, "", "x", "\x00", "\u0666", "../..", "9" * 5000),
    *("x" * 70_000, [], [[]], [1], [None], ["9" * 5000], {}, {"x": {}}, {"interval_s": 10**30}),
    *({"interval_s": "9" * 5000}, {"interval_s": None}, {"": [[]]}, {"processes": [{}]}, {"enabled": 1}),
)


def test_arguments_of_every_kind_get_typed_errors(agent: RunningAgent) -> None:
    """Whatever stands in an argument's place, no verb fails by an error of its own: that would be `aegis_error`."""
    with connect(agent) as client:
        for verb in VERBS:
            given = ARGUMENTS.get(verb.name, {})
            for name in (*verb.args, "nonsense"):
                for value in NASTY:
                    if (verb.name, name, value) == ("events", "follow", True):
                        continue  # never ends
                    client.send(json.dumps({"id": 1, "verb": verb.name, "args": given | {name: value}}))
                    while "item" in (said := json.loads(client.recv(timeout=30))):
                        pass
                    code = said.get("error", {}).get("code")
                    assert code != "aegis_error", (verb.name, name, repr(value)[:80], said)
                    kind = verb.args.get(name)
                    if kind is None or not isinstance(value, kind):
                        assert code == "envelope_invalid", (verb.name, name, repr(value)[:80], said)
    assert agent.ask("status")


def garbage(dice: random.Random) -> str | bytes:
    """A frame that is no request: noise, broken JSON, right JSON of the wrong shape."""
    shapes: list[str | bytes] = [
        dice.randbytes(dice.randrange(200)),
        "".join(chr(dice.randrange(1, 0xD7FF)) for _ in range(dice.randrange(80))),
        "[" * dice.randrange(1, 20_000),
        json.dumps({"id": dice.choice([None, 1.5, [], {}]), "verb": "status"}),
        json.dumps({"id": 1, "verb": dice.choice([None, 3, "", "x" * 9999, "policy.", "\u0000"])}),
        json.dumps({"id": 1, "verb": "status", "args": dice.choice([[], 1, "x", {"nonsense": 1}])}),
        json.dumps({"id": 1, "verb": "events", "args": {"types": [[]], "last": -1}}),
        json.dumps({"id": 1, "verb": "policy.explain", "args": {"protocol": "\ud800"}}),
    ]
    return dice.choice(shapes)


def test_garbage_gets_typed_errors_and_disturbs_nobody(agent: RunningAgent) -> None:
    dice = random.Random(seed())
    with connect(agent) as good, connect(agent) as bad:
        for number in range(scaled(307, 20_011)):
            said = answer(bad, garbage(dice))
            assert said["error"]["code"] == "envelope_invalid", (seed(), said)
            if number % 50 == 0:
                assert answer(good, '{"id": 1, "verb": "status"}')["item"]["schema"] == "aegis.status"
                good.recv(timeout=20)
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(agent.socket)
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n" + dice.randbytes(5000))
        for noise in (b"garbage\r\n\r\n", bytes(97), b"\xff" + dice.randbytes(5000)):
            with socket.socket(socket.AF_UNIX) as raw, raw.makefile("rb") as heard:
                raw.settimeout(20)
                raw.connect(agent.socket)
                raw.sendall(noise)
                head, _, body = heard.read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n"), (seed(), head)
            assert json.loads(body)["error"]["code"] == "envelope_invalid"
        with connect(agent) as huge, pytest.raises(ConnectionClosed):
            answer(huge, " " * (2 << 20))
        assert "item" in answer(good, '{"id": 1, "verb": "status"}')


def test_a_client_that_does_not_read_disturbs_nobody_and_is_told(world: World, agent: RunningAgent) -> None:
    """Its queue is bounded; what does not fit is counted, and said in-band once it reads again."""
    with connect(agent) as slow, connect(agent) as good:
        slow.send('{"id": 1, "verb": "events", "args": {"follow": true}}')
        await_condition(lambda: any(row["stage"].startswith("client.") for row in agent.ask("counters")))
        world.a.command("/bin/sh", "-c", "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done")
        assert "item" in answer(good, '{"id": 1, "verb": "status"}')
        stage = next(row for row in agent.ask("counters") if row["stage"].startswith("client."))
        assert stage["received"] == stage["sent"] + stage["filtered"] + stage["dropped"] + stage["waiting"]
        assert stage["balanced"]


def test_a_policy_document_of_the_largest_size_goes_through(agent: RunningAgent) -> None:
    blocks = ",".join(f"{{cidr: 10.{n // 256}.{n % 256}.0/24}}" for n in range(1000))
    document = (
        "apiVersion: aegis/v1\nkind: HostNetworkPolicy\nmetadata: {name: large, version: 1}\n"
        f"spec:\n  mode: observe\n  egressDeny:\n  - toCIDRSet: [{blocks}]\n"
    )
    applied = agent.apply(document)
    assert applied["policy"] == "large"
    (status,) = agent.ask("status")
    assert (status["enforcement"]["state"], status["enforcement"]["mode"]) == ("observing", "observe")
    with pytest.raises(AgentError) as refused:
        agent.apply(document.replace("10.0.7.0/24", "10.0.7.0/99"))
    assert (refused.value.code, refused.value.answer["line"]) == ("policy_invalid", 7)
    assert [row["policy"] for row in agent.ask("policy.list")] == ["large"]


def test_health_over_tcp_and_the_socket(world: World) -> None:
    quiet = RunningAgent(world, world.a, "agent", "", ())
    quiet.start()
    texts = [Path(f"/proc/{quiet.pid}/net/{kind}").read_text() for kind in ("tcp", "tcp6")]
    rows = [line.split() for text in texts for line in text.splitlines()]
    assert quiet.stop() == 0
    assert not [row for row in rows if row[3] == "0A"]  # nobody listens: off by default
    agent = RunningAgent(world, world.a, "agent", "", ("--health-listen", "127.0.0.1:9100"))
    agent.start()

    def tcp(path: str) -> tuple[int, bytes]:
        made = http.client.HTTPConnection("127.0.0.1", 9100, timeout=5)
        made.sock = world.a.socket()
        made.sock.settimeout(5)
        made.sock.connect(("127.0.0.1", 9100))
        made.request("GET", path)
        answer = made.getresponse()
        return answer.status, answer.read()

    try:
        assert (tcp("/healthz"), tcp("/readyz"), tcp("/")[0]) == ((200, b"ok\n"), (200, b"ok\n"), 404)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(agent.socket)
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: agent\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
    finally:
        assert agent.stop() == 0
    assert "Traceback" not in agent.log.read_text()
