"""Commands that ask a gateway: same words, same output, same exit codes as on the agent's own host."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aegis.gateway.views import Order
from tests.support.api import NOW_NS, TOKEN, UID, Api, agent_view, running_api

ITEM = {"schema": "aegis.module", "version": 1, "name": "telemetry", "state": "stopped", "reason": "by order"}
OPTION = {
    "schema": "aegis.config",
    "version": 1,
    "option": "modules.telemetry.period",
    "value": "5s",
    "origin": "order",
}


class Tool:
    """Runs `aegis` as a user would."""

    def __init__(self, api: Api, token_file: Path) -> None:
        self.api = api
        self.where = ("--gateway", api.url, "--token-file", str(token_file))

    async def __call__(self, *arguments: str, where: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aegis.cli.main", *(self.where if where else ()), *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "AEGIS_TOKEN_FILE"}
        return await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, timeout=60, env=environment
        )


@pytest_asyncio.fixture
async def tool(tmp_path: Path) -> AsyncIterator[Tool]:
    path = tmp_path / "operator.token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    async with running_api() as api:
        yield Tool(api, path)


pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # the tool is another process


def answered(order: Order) -> dict[str, Any]:
    kind = order.message["type"]
    if kind == "list_modules":
        return {"ok": True, "code": "", "text": "", "state": {"modules": [ITEM, ITEM], "count": 2}}
    if order.message["module_id"] != "telemetry":
        return {"ok": False, "code": "module_unknown", "text": "there is no module nonsense", "state": None}
    state = {**ITEM, "options": [OPTION]} if kind in {"configure_module", "get_module_status"} else ITEM
    return {"ok": True, "code": "", "text": "telemetry is stopped", "state": state}


async def test_agents(tool: Tool) -> None:
    tool.api.hub.views["agent-2"] = agent_view("agent-2", labels=["web"])
    shown = await tool("gateway", "agents", "-o", "json")
    assert [json.loads(line)["agent_uid"] for line in shown.stdout.splitlines()] == [UID, "agent-2"]
    table = await tool("gateway", "agents", "--label", "web")
    assert table.stdout.splitlines()[0].split()[:2] == ["AGENT", "UID"]
    assert "agent-2" in table.stdout
    assert UID not in table.stdout
    behind = await tool("gateway", "agents", *tool.where, where=False)
    assert behind.returncode == 0
    assert UID in behind.stdout


async def test_send(tool: Tool) -> None:
    message = '{"type": "list_modules"}'
    done = await tool("gateway", "send", UID, "backend.modules", message, "-o", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "answered"
    sent = await tool("gateway", "send", UID, "backend.modules", message, "--wait", "0s", "--ttl", "9")
    assert (sent.returncode, sent.stdout.split()[1]) == (0, "sent")
    assert tool.api.hub.sent[1][0].ttl_s == 9
    tool.api.hub.answers = lambda _order: {"ok": False, "code": "policy_unsigned", "text": "refused here"}
    refused = await tool("gateway", "send", UID, "backend.policies", message)
    assert (refused.returncode, "policy_unsigned refused here" in refused.stdout) == (4, True)
    tool.api.hub.views["away"] = agent_view("away", connected=False)
    assert (await tool("gateway", "send", "away", "backend.modules", message)).returncode == 3
    tool.api.hub.views["silent"] = agent_view("silent", ours=False)
    assert (await tool("gateway", "send", "silent", "backend.modules", message)).returncode == 124
    assert (await tool("gateway", "send", "nobody", "backend.modules", message)).returncode == 5
    assert (await tool("gateway", "send", UID, "backend.modules", "nonsense")).returncode == 2
    assert (await tool("gateway", "send", UID, "backend.modules", "[]")).returncode == 2


async def test_modules_from_afar(tool: Tool) -> None:
    tool.api.hub.answers = answered
    listed = await tool("modules", "--agent", UID, "list", "-o", "json")
    assert [json.loads(line) for line in listed.stdout.splitlines()] == [ITEM, ITEM]
    for verb in ("start", "stop", "enable", "disable"):
        done = await tool("modules", "--agent", UID, verb, "telemetry")
        assert (done.returncode, done.stdout) == (0, "telemetry stopped by order\n")
        order, wait_s = tool.api.hub.sent[-1]
        assert order.channel == "backend.modules"
        assert order.message == {"type": f"{verb}_module", "module_id": "telemetry"}
        assert (order.ttl_s, wait_s) == (1, 30.0)
    shown = await tool("modules", "--agent", UID, "config", "telemetry", "-o", "json")
    assert json.loads(shown.stdout) == OPTION
    assert tool.api.hub.sent[-1][0].message == {"type": "get_module_status", "module_id": "telemetry"}
    await tool("modules", "--agent", UID, "config", "telemetry", "period=5s", "on=true")
    assert tool.api.hub.sent[-1][0].message == {
        "type": "configure_module",
        "module_id": "telemetry",
        "settings": {"period": "5s", "on": True},
    }


async def test_modules_that_cannot_be_asked(tool: Tool) -> None:
    tool.api.hub.answers = answered
    unknown = await tool("modules", "--agent", UID, "stop", "nonsense")
    assert (unknown.returncode, unknown.stdout) == (5, "")
    assert "module_unknown: there is no module nonsense" in unknown.stderr
    tool.api.hub.views["away"] = agent_view("away", connected=False)
    away = await tool("modules", "--agent", "away", "list")
    assert (away.returncode, "agent_away" in away.stderr) == (3, True)
    tool.api.hub.views["silent"] = agent_view("silent", ours=False)
    assert (await tool("modules", "--agent", "silent", "list")).returncode == 124
    tool.api.hub.answers = lambda _order: {"ok": True, "state": None}
    odd = await tool("modules", "--agent", UID, "stop", "telemetry")
    assert (odd.returncode, "answer_invalid" in odd.stderr) == (1, True)
    for arguments, where in ((("modules", "list"), True), (("modules", "--agent", UID, "list"), False)):
        assert (await tool(*arguments, where=where)).returncode == 2


async def test_a_command_that_asks_this_host_takes_no_gateway(tool: Tool) -> None:
    for arguments in (("status",), ("policy", "list"), ("doctor",)):
        refused = await tool(*arguments)
        assert (refused.returncode, "asks the agent of this host" in refused.stderr) == (2, True)
    alone = await tool("events", "--agent", UID, where=False)
    assert (alone.returncode, "--gateway" in alone.stderr) == (2, True)


async def test_events(tool: Tool) -> None:
    tool.api.hub.store(
        *({"type": "exec", "pid": number, "exe": f"/bin/{'curl' if number % 2 else 'sh'}",
           "time": f"2025-11-23T12:13:{number:02d}.000000Z"} for number in range(30))
    )  # fmt: skip
    shown = await tool("events", "--agent", UID, "-o", "json", "--type", "exec")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [row["pid"] for row in rows] == list(range(10, 30))
    assert rows[0]["agent_uid"] == UID
    asked = tool.api.hub.queries[-1]
    assert (asked.uid, asked.types, asked.cls) == (UID, frozenset({"exec"}), ("event",))
    few = await tool("events", "--last", "4", "--process", "curl", "--fields", "pid,agent_uid", "-o", "csv")
    assert few.stdout.splitlines() == ["pid,agent_uid", f"27,{UID}", f"29,{UID}"]
    since = await tool("events", "--since", "2025-11-23T12:00:00Z", "-o", "json", "--filter", "pid<3")
    assert len(since.stdout.splitlines()) == 3
    assert tool.api.hub.queries[-1].since_ns == 1_763_899_200_000_000_000
    compact = await tool("events", "--last", "1")
    assert compact.stdout == f"12:13:29.000000 + exec    /bin/curl[29] @{UID}\n"
    table = await tool("events", "--last", "1", "-o", "table")
    assert table.stdout.startswith("AGENT UID")


async def test_events_followed(tool: Tool) -> None:
    tool.api.hub.store(*({"type": "exec", "pid": number} for number in range(5)))

    async def later() -> None:
        while not any(query.after is not None for query in tool.api.hub.queries):  # noqa: ASYNC110  another process asks
            await asyncio.sleep(0.02)
        tool.api.hub.store(
            {"type": "exec", "pid": 100}, {"type": "exit", "pid": 101}, {"type": "exec", "pid": 102}
        )

    coming = asyncio.create_task(later())
    shown = await tool(
        "events", "-f", "--last", "2", "--first", "5", "--timeout", "20", "-o", "json", "--fields", "pid"
    )
    await coming
    assert [json.loads(line)["pid"] for line in shown.stdout.splitlines()] == [3, 4, 100, 101, 102]
    assert shown.returncode == 0
    ended = await tool("events", "-f", "--timeout", "1")
    assert (ended.returncode, ended.stdout) == (124, "")


def flow(number: int, packets: int, **more: Any) -> dict[str, Any]:
    return {
        "schema": "aegis.flow", "protocol": "tcp", "src": "10.0.0.1", "src_port": 1000 + number, "dst": "10.0.0.2",
        "dst_port": 80, "interface": "eth0", "first_ns": 1, "last_ns": NOW_NS + packets, "packets_sent": packets,
        "verdict": "allow", "state": "established", **more,
    }  # fmt: skip


async def test_flows_each_once_as_last_told(tool: Tool) -> None:
    tool.api.hub.store(flow(1, 1), flow(2, 2), flow(1, 3), flow(3, 4, verdict="deny"), flow(1, 5))
    shown = await tool("flows", "-o", "json", "--fields", "src_port,packets_sent")
    assert [tuple(json.loads(line).values()) for line in shown.stdout.splitlines()] == [
        (1002, 2),
        (1003, 4),
        (1001, 5),
    ]
    last = await tool("flows", "--last", "1", "-o", "json", "--fields", "packets_sent")
    assert json.loads(last.stdout) == {"packets_sent": 5}
    denied = await tool("flows", "--verdict", "deny", "--protocol", "TCP", "--port", "80", "-o", "json")
    assert len(denied.stdout.splitlines()) == 1
    assert tool.api.hub.queries[-1].verdict == "deny"
    sorted_ = await tool("flows", "--sort", "packets_sent", "-o", "json", "--fields", "packets_sent")
    assert [json.loads(line)["packets_sent"] for line in sorted_.stdout.splitlines()] == [2, 4, 5]


async def test_no_token_is_told_where_it_is(tool: Tool) -> None:
    refused = await tool("events", "--gateway", tool.api.url, where=False)
    assert refused.returncode == 4
    assert "operator.token" in refused.stderr
    missing = await tool("events", "--gateway", tool.api.url, "--token-file", "/no/such/file", where=False)
    assert (missing.returncode, "permission_denied" in missing.stderr) == (4, True)


async def test_the_token_file_of_the_environment(tool: Tool) -> None:
    command = [sys.executable, "-m", "aegis.cli.main", "--gateway", tool.api.url, "gateway", "agents"]
    environment = {**os.environ, "AEGIS_TOKEN_FILE": tool.where[3]}
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, UID in done.stdout) == (0, True)


async def test_run_is_among_the_commands(tool: Tool) -> None:
    shown = await tool("gateway", "--help", where=False)
    assert [name for name in ("run", "agents", "send") if f"  {name} " in shown.stdout] == [
        "run",
        "agents",
        "send",
    ]
