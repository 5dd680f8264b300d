"""The link of a real agent: one identity, what it sees at a gateway exactly once, orders obeyed and answered, ends noticed."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import RunningAgent
from tests.support.awaiting import await_condition
from tests.support.disk import open_disk
from tests.support.small_gateway import OnThread, SmallGateway, on_a_thread
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "tcx")

PORT = 8080
LINK = "websocket_communication"


def listener(world: World) -> socket.socket:
    """At the peer's address, ready for agents."""
    made = world.b.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((world.b.v4, PORT))
    made.listen(16)
    return made


@contextlib.contextmanager
def gateway(world: World, **options: Any) -> Iterator[OnThread]:
    with on_a_thread(SmallGateway(**options), listener(world)) as one:
        yield one


def agent_of(world: World, options: str = "", *arguments: str) -> RunningAgent:
    more = ("--gateway-url", f"ws://{world.b.v4}:{PORT}", "--protocol", "v1", *arguments)
    return RunningAgent(world, world.a, "agent", options, more)


@contextlib.contextmanager
def started(agent: RunningAgent) -> Iterator[RunningAgent]:
    agent.start()
    try:
        yield agent
    finally:
        if agent.process is not None:
            assert agent.stop() == 0
        assert "Traceback" not in agent.log.read_text(), agent.log.read_text()


def link(agent: RunningAgent) -> dict[str, Any]:
    found: dict[str, Any] = agent.ask("status")[0]["gateway"]
    return found


def is_connected(agent: RunningAgent) -> None:
    await_condition(lambda: link(agent)["state"] == "connected", every=0.02)


def conditions(agent: RunningAgent) -> dict[str, str]:
    return {row["code"]: row["text"] for row in agent.ask("status")[0]["conditions"]}


def module(agent: RunningAgent, name: str) -> dict[str, Any]:
    return next(row for row in agent.ask("modules.list") if row["name"] == name)


def order(there: OnThread, identity: str, kind: str, **members: Any) -> Any:
    """Send an order and wait for its answer."""
    there.push({"command_id": identity, "type": kind, **members})
    await_condition(lambda: there.gateway.answer(identity))
    return there.gateway.answer(identity)


def test_what_the_host_does_arrives_exactly_once_and_the_identity_stays(world: World) -> None:
    agent = agent_of(world)
    with gateway(world) as there, started(agent):
        is_connected(agent)
        shown = link(agent)
        assert (shown["url"], shown["protocol"], shown["insecure_v1"]) == (
            f"ws://{world.b.v4}:{PORT}/ws/agent",
            "v1",
            True,
        )
        assert shown["authenticated_since"].endswith("Z")
        uid = agent.ask("status")[0]["agent"]["uid"]
        assert [one.uid for one in there.gateway.registrations] == [uid]
        assert there.gateway.headers[0]["User-Agent"] == "Aegis-Agent/1.0"
        for _ in range(20):
            world.a.command("/bin/true")

        def execs() -> list[tuple[int, int]]:
            rows = there.gateway.items("event")
            return [
                (row["pid"], row["start_ns"])
                for row in rows
                if row["type"] == "exec" and row["comm"] == "true"
            ]

        await_condition(lambda: len(execs()) >= 20)
        assert len(execs()) == len(set(execs())) == 20
        await_condition(lambda: there.gateway.items("flow") and there.gateway.items("sample"))
        assert {row["what"] for row in there.gateway.states} == {"module", "condition"}
        assert {row["name"]: row["state"] for row in there.gateway.states if row["what"] == "module"}[
            LINK
        ] == "running"
        assert all(row["balanced"] for row in agent.ask("counters"))
        assert agent.stop() == 0
        assert there.gateway.closes == ["1000 the agent stops"]
        with started(agent):
            is_connected(agent)
            assert agent.ask("status")[0]["agent"]["uid"] == uid
        assert len(there.gateway.registrations) == 1
        assert there.gateway.headers[-1]["X-Agent-ID"] == uid
        assert there.gateway.refused == []


def test_a_gateway_that_is_away_costs_nothing_but_time(world: World) -> None:
    options = f"[modules.{LINK}]\nlongest_pause_s = 1\n"
    agent = agent_of(world, options)
    with started(agent):
        await_condition(lambda: link(agent)["state"] == "backoff", every=0.02)
        assert "gateway_unreachable" in conditions(agent)
        assert module(agent, LINK)["state"] == "degraded"
        for _ in range(5):
            world.a.command("/bin/true")
        time.sleep(0.3)
        assert agent.stop(9) == -9
    with started(agent), gateway(world) as there:
        is_connected(agent)
        assert "gateway_unreachable" not in conditions(agent)

        def seen() -> int:
            return sum(
                row["type"] == "exec" and row["comm"] == "true" for row in there.gateway.items("event")
            )

        await_condition(lambda: seen() >= 5)
        assert seen() == 5
        there.stop()
        await_condition(lambda: link(agent)["state"] in {"backoff", "connecting"}, every=0.02)
        there.listen(listener(world))
        is_connected(agent)
        assert there.gateway.opened == 2


def test_orders_are_obeyed_answered_after_the_change_and_not_done_twice(world: World) -> None:
    agent = agent_of(world, "[policy]\nunsigned_orders = 'accept'\n")
    with gateway(world) as there, started(agent):
        is_connected(agent)
        listed = order(there, "1", "list_modules")
        assert listed.ok
        assert {row["name"] for row in listed.state["modules"]} == {
            "advanced_policy",
            "observability",
            "telemetry",
            LINK,
        }
        stopped = order(there, "2", "stop_module", module_id="telemetry")
        assert (stopped.ok, stopped.state["state"]) == (True, "stopped")
        assert module(agent, "telemetry")["state"] == "stopped"
        assert order(there, "3", "start_module", module_id="telemetry").state["state"] == "running"
        there.push({"command_id": "2", "type": "stop_module", "module_id": "telemetry"})
        await_condition(lambda: sum(one.in_reply_to == "2" for one in there.gateway.answers) == 2)
        assert module(agent, "telemetry")["state"] == "running"
        changed = order(there, "4", "configure_module", module_id="telemetry", settings={"interval_s": 7})
        assert {row["option"]: row["value"] for row in changed.state["options"]}[
            "modules.telemetry.interval_s"
        ] == 7
        assert order(there, "5", "disable_module", module_id="telemetry").state["state"] == "disabled"
        for number, kind in enumerate(("start_module", "stop_module", "start_module")):
            still = order(there, f"5{number}", kind, module_id="telemetry")
            assert still.code == ("module_disabled" if kind == "start_module" else "")
            assert module(agent, "telemetry")["state"] == "disabled"
        cut = order(there, "6", "stop_module", module_id=LINK)
        assert (cut.ok, cut.code) == (False, "would_cut_control")
        assert order(there, "7", "disable_module", module_id="communication").code == "would_cut_control"
        assert order(there, "8", "stop_module", module_id="nonsense").code == "module_unknown"
        assert order(there, "9", "make_coffee").code == "order_unknown"
        assert link(agent)["state"] == "connected"
    with started(agent):
        assert module(agent, "telemetry")["state"] == "disabled"


def test_orders_nobody_signed_are_refused_by_default_and_readings_answered(world: World) -> None:
    agent = agent_of(world)
    with gateway(world) as there, started(agent):
        is_connected(agent)
        refused = order(there, "1", "stop_module", module_id="telemetry")
        assert (refused.ok, refused.code) == (False, "policy_unsigned")
        assert "policy.unsigned_orders" in refused.text
        assert module(agent, "telemetry")["state"] == "running"
        assert order(there, "2", "get_module_status", module_id="telemetry").state["state"] == "running"


def test_a_policy_of_the_gateway_is_enforced_listed_and_removed(world: World) -> None:
    agent = agent_of(world, "[policy]\nunsigned_orders = 'accept'\n")
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "no-telnet", "version": 1},
        "spec": {
            "mode": "enforce",
            "egressDeny": [{"toPorts": [{"ports": [{"port": 23, "protocol": "TCP"}]}]}],
        },
    }
    with gateway(world) as there, started(agent):
        is_connected(agent)
        applied = order(there, "1", "apply_policy", document=document)
        assert (applied.ok, applied.state["origin"], applied.state["policy"]) == (
            True,
            "gateway",
            "no-telnet",
        )
        assert agent.ask("status")[0]["enforcement"]["state"] == "enforcing"
        assert [row["policy"] for row in order(there, "2", "list_policies").state["policies"]] == [
            "no-telnet"
        ]
        agent.apply(
            "apiVersion: aegis/v1\nkind: HostNetworkPolicy\nmetadata: {name: mine, version: 1}\n"
            "spec: {egressDeny: [{toPorts: [{ports: [{port: 24, protocol: TCP}]}]}]}\n"
        )
        assert order(there, "3", "remove_policy", name="mine").code == "policy_not_found"
        taken = document | {"metadata": {"name": "mine", "version": 9}}
        refused = order(there, "3b", "apply_policy", document=taken)
        assert (refused.ok, refused.code) == (False, "policy_exists_local")
        assert "the policy mine in force is of origin local" in refused.text
        mine = next(row for row in agent.ask("policy.list") if row["policy"] == "mine")
        assert (mine["policy_version"], mine["origin"], mine["mode"]) == (1, "local", "observe")
        assert order(there, "4", "remove_policy", name="no-telnet").ok
        assert [row["policy"] for row in agent.ask("policy.list")] == ["mine"]


def test_a_gateway_is_not_told_that_a_policy_is_in_force_where_it_is_not(world: World) -> None:
    agent = agent_of(world, "[policy]\nunsigned_orders = 'accept'\n")
    agent.command[agent.command.index("--interface") + 1] = "none"
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "no-telnet"},
        "spec": {"mode": "enforce", "egressDeny": [{"toPorts": [{"ports": [{"port": 23}]}]}]},
    }
    for ours in (True, False):
        with gateway(world, ours=ours) as there, started(agent):
            is_connected(agent)
            kept = order(there, "1", "apply_policy", document=document)
            assert (kept.ok, kept.code) == (False, "policy_not_enforced")
            assert "not in force: no interface carries the packet programs" in kept.text
            assert (kept.state["policy"], kept.state["state"]) == ("no-telnet", "not_enforced")
            (listed,) = order(there, "2", "list_policies").state["policies"]
            assert (listed["policy"], listed["state"]) == ("no-telnet", "not_enforced")
            assert agent.ask("status")[0]["enforcement"]["state"] == "unavailable"


def test_connected_is_not_said_before_a_full_disk_took_the_registration(world: World, tmp_path: Path) -> None:
    with open_disk(tmp_path) as disk:
        disk.mount()
        agent = agent_of(world)
        agent.command[agent.command.index("--state-dir") + 1] = str(disk.top)
        with started(agent):
            await_condition(
                lambda: link(agent)["state"] == "backoff"
            )  # the key is there, and nobody who knows it
            filler = disk.top / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with gateway(world) as there:
                await_condition(lambda: "registration_not_kept" in conditions(agent), seconds=30)
                shown = link(agent)
                assert shown["state"] == "registering"
                assert "not written down: " in shown["reason"]
                assert "No space left" in shown["reason"]
                assert not (disk.top / "registration.json").exists()
                assert order(there, "1", "list_modules").ok  # the link works meanwhile
                filler.unlink()
                await_condition(lambda: link(agent)["state"] == "connected", seconds=60)
                assert "registration_not_kept" not in conditions(agent)
                uid = agent.ask("status")[0]["agent"]["uid"]
                assert uid in (disk.top / "registration.json").read_text()
                assert (there.gateway.opened, len(there.gateway.registrations)) == (1, 1)


def test_the_module_owns_the_link(world: World) -> None:
    agent = agent_of(world)
    with gateway(world) as there, started(agent):
        is_connected(agent)
        agent.ask("modules.stop", name=LINK)
        assert link(agent)["state"] == "disconnected"
        await_condition(lambda: there.gateway.closes == [f"1000 {LINK} was stopped"])
        agent.ask("modules.start", name=LINK)
        is_connected(agent)
        assert (len(there.gateway.registrations), there.gateway.opened) == (1, 2)


def test_what_cannot_be_spoken_is_refused_with_its_reason(world: World) -> None:
    agent = RunningAgent(world, world.a, "agent", "", ("--gateway-url", f"ws://{world.b.v4}:{PORT}"))
    with started(agent):
        shown = link(agent)
        assert shown["state"] == "refused"
        assert "v2 is not built yet" in shown["reason"]
        assert "v2 is not built yet" in conditions(agent)["gateway_refused"]
        assert agent.ask("status")[0]["agent"]["uid"] is None
        assert not (agent.directory / "state" / "agent.key").exists()


def test_a_peer_that_is_silently_gone_is_noticed_within_15_s(world: World) -> None:
    """Packets to it go to nobody from one moment on: no reset, no close, no error."""
    agent = agent_of(world)
    with gateway(world) as there, started(agent):
        is_connected(agent)
        time.sleep(0.5)  # nothing is under way
        for place, other in ((world.a, world.b), (world.b, world.a)):
            with place.netlink() as netlink:
                netlink.add_neighbour(place.interface, other.v4, b"\x02\x00\x00\x00\xff\xff")
        gone = time.monotonic()
        await_condition(lambda: link(agent)["state"] != "connected", every=0.05)
        assert time.monotonic() - gone <= 15
        for place, other in ((world.a, world.b), (world.b, world.a)):
            with place.netlink() as netlink:
                netlink.add_neighbour(place.interface, other.v4, other.mac)
        is_connected(agent)
        assert len(there.gateway.registrations) == 1


@pytest.mark.parametrize("after_ms", [0, 40, 80, 120, 160, 200, 240, 280])
def test_killed_on_the_way_to_its_first_registration_it_is_one_agent(world: World, after_ms: int) -> None:
    """The start of this agent takes some 250 ms; whatever was done by then, the next start is the same identity."""
    agent = agent_of(world)
    with gateway(world) as there:
        with agent.log.open("ab") as log:
            process = world.a.popen(agent.command, stdout=log, stderr=log)
        await_condition(agent.log.read_bytes)  # it has begun to attach
        time.sleep(after_ms / 1000)
        process.kill()
        process.wait()
        with started(agent):
            is_connected(agent)
            uid = agent.ask("status")[0]["agent"]["uid"]
        assert set(there.gateway.known.values()) == {uid}


def test_a_stop_is_in_time_whatever_the_gateway_does(world: World) -> None:
    """One that stores nothing, one that does not read, one whose host answers no packet; two signals as well as one."""
    agent = agent_of(world)
    with gateway(world) as there:
        there.gateway.acknowledges = False
        for silent in (False, True):
            with started(agent):
                is_connected(agent)
                if silent:
                    there.call(there.gateway.pause)
                for _ in range(20):
                    world.a.command("/bin/true")
                begun = time.monotonic()
                assert agent.process is not None
                agent.process.send_signal(15)
                if silent:
                    agent.process.send_signal(15)
                assert agent.stop() == 0
                assert time.monotonic() - begun < 4
    with world.a.netlink() as netlink:
        netlink.add_neighbour(world.a.interface, world.b.v4, b"\x02\x00\x00\x00\xff\xff")
    with started(agent):
        assert link(agent)["state"] == "connecting"
        begun = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - begun < 2


def answered_by_the_api(world: World, token: str, method: str, path: str, body: Any = None) -> Any:
    """What the Actions API of a gateway in the peer's namespace says, as JSON."""
    with world.b.entered():
        connection = http.client.HTTPConnection("127.0.0.1", 8083, timeout=20)
        connection.connect()
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return json.loads(response.read())
    finally:
        connection.close()


def test_with_the_gateway_of_this_project_killed_in_the_middle(world: World) -> None:
    """The agent, `aegis gateway run` and its API: an order there and back, and every record once in its store."""
    data = world.directory / "gateway"
    command = [
        sys.executable,
        "-m",
        "aegis.cli.main",
        "gateway",
        "run",
        "--data-dir",
        str(data),
        "--allow-v1",
    ]
    command += ["--listen", f"{world.b.v4}:{PORT}"]
    log = (world.directory / "gateway.log").open("wb")
    agent = agent_of(
        world, "[policy]\nunsigned_orders = 'accept'\n" + f"[modules.{LINK}]\nlongest_pause_s = 1\n"
    )
    with log, contextlib.ExitStack() as stack:
        running = world.b.popen(command, stdout=log, stderr=log)
        stack.callback(lambda: (running.kill(), running.wait()))
        stack.enter_context(started(agent))
        is_connected(agent)
        token = (data / "operator.token").read_text().strip()
        (uid,) = [row["agent_uid"] for row in answered_by_the_api(world, token, "GET", "/agents")["agents"]]
        assert uid == agent.ask("status")[0]["agent"]["uid"]
        stop = {"channel": "backend.modules", "message": {"type": "stop_module", "module_id": "telemetry"}}
        sent = answered_by_the_api(world, token, "POST", f"/agents/{uid}/send?wait=5s", stop)
        assert (sent["status"], sent["answer"]["state"]["state"]) == ("answered", "stopped")
        assert module(agent, "telemetry")["state"] == "stopped"
        for _ in range(10):
            world.a.command("/bin/true")
        running.kill()
        running.wait()
        for _ in range(10):
            world.a.command("/bin/true")
        await_condition(lambda: link(agent)["state"] != "connected", every=0.02)
        running = world.b.popen(command, stdout=log, stderr=log)
        is_connected(agent)

        def stored() -> list[tuple[int, int]]:
            path = f"/events?agent={uid}&type=exec&exe=/usr/bin/true&limit=1000"
            rows = answered_by_the_api(world, token, "GET", path)["items"]
            return [(row["pid"], row["start_ns"]) for row in rows if row["comm"] == "true"]

        await_condition(lambda: len(stored()) >= 20, every=0.1)
        assert len(stored()) == len(set(stored())) == 20
        assert len(answered_by_the_api(world, token, "GET", "/agents")["agents"]) == 1
