"""The steps of the demo. Each draws its figures afresh and is judged by someone else than the agent."""

from __future__ import annotations

import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis.cli.client import request
from aegis.cli.demo import actors
from aegis.cli.demo.stage import INTERFACE, Stage
from aegis.errors import HostError
from aegis.host import children
from aegis.host.rtnetlink import LinkStatistics

ROLL = random.Random()  # noqa: S311 - figures for a demonstration
POLICY = "aegis-demo"
ORDERED = "telemetry"
CONNECT_S = 20.0


@dataclass(frozen=True)
class Step:
    """What a step showed: its number in the demo, whether it held, and the figures that prove it."""

    number: int
    title: str
    ok: bool
    evidence: dict[str, Any]


class Play:
    """The run: a stage, the ports it drew, and the server in the peer's namespace."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.uid = ""
        self.allowed, self.denied, self.datagram = ROLL.sample(range(20000, 32000), 3)
        reading, writing = os.pipe()
        self.server = children.call(
            actors.serve, stage.peer_v4, (self.allowed, self.denied), writing, namespace=stage.peer
        )
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            if stream.read(1) != b"1":
                raise HostError("the demo's server in the peer namespace did not start")
        self.program = shutil.which("true") or "/bin/true"
        self.started_ns = time.monotonic_ns()
        self.cpu_before = _cpu_seconds(stage.agent)

    def close(self) -> None:
        """End the server."""
        self.server.close()

    def client(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the edge namespace, in the demo's unit."""
        child = children.call(function, *arguments, namespace=self.stage.edge, cgroup=self.stage.unit)
        with child:
            return child.result(60)

    def see(self) -> Step:
        """1: processes, sockets and flows, with owner and unit, to the unit."""
        stage, unit = self.stage, self.stage.unit.name
        programs, connections, datagrams = (
            ROLL.randrange(20, 60),
            ROLL.randrange(20, 60),
            ROLL.randrange(50, 150),
        )
        sizes = [(ROLL.randrange(1, 20000), ROLL.randrange(1, 20000)) for _ in range(connections)]
        forks, before = _forks(), stage.statistics()
        # The peer takes the datagrams: a closed port would answer with ICMP errors, which is another flow.
        with stage.peer.entered():
            sink = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with sink:
            sink.bind((stage.peer_v6, self.datagram))
            ran = self.client(actors.run_programs, self.program, programs)
            outcomes = self.client(actors.talk, stage.peer_v4, self.allowed, sizes)
            sent = self.client(
                actors.send_datagrams,
                stage.peer_v6,
                self.datagram,
                [ROLL.randrange(1, 1200) for _ in range(datagrams)],
            )
            forked = _forks() - forks
            # The sink stays until all is still: a datagram that is under way when it closes is answered with ICMP.
            flows, by_interface = self._settled_flows(before)
        execs = stage.ask_until(
            "events",
            {"types": ["exec"], "last": 10000},
            programs,
            lambda row: (
                row["unit"] == unit and row["exe"] and Path(row["exe"]).name == Path(self.program).name
            ),
        )
        connects = stage.ask_until(
            "events",
            {"types": ["connect"], "last": 10000},
            connections,
            lambda row: row["dst"] == stage.peer_v4 and row["dst_port"] == self.allowed,
        )
        stored = self._stored(
            "type=exec",
            programs,
            lambda row: (
                row["unit"] == unit and row["exe"] and Path(row["exe"]).name == Path(self.program).name
            ),
        )
        owned = [row for row in flows if row["unit"] == unit]
        by_agent = _sum(flows)
        evidence = {
            "programs_run": ran,
            "exec_events": len(execs),
            **({} if stored is None else {"exec_events_at_the_gateway": stored}),
            "forks_by_proc_stat": forked,
            "connections_made": sum(outcome.errno == 0 for outcome in outcomes),
            "connect_events": len(connects),
            "connect_events_of_unit": sum(row["unit"] == unit for row in connects),
            "datagrams_sent": sent,
            "flows": len(flows),
            "flows_of_unit": len(owned),
            "flows_of_others": [_described(row) for row in flows if row["unit"] != unit][:5],
            "unit": unit,
            "agent": by_agent,
            "interface": by_interface,
        }
        ok = (
            len(execs) == ran == programs
            and stored in (None, programs)
            and forked >= programs
            and len(connects)
            == connections
            == evidence["connections_made"]
            == evidence["connect_events_of_unit"]
            and len(owned) == len(flows) == connections + 1
            and by_agent == by_interface
        )
        return Step(1, "processes, sockets and flows, with owner and unit", ok, evidence)

    def _settled_flows(self, before: LinkStatistics) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The flows and what the interface counted since `before`: once both agree and each flow has its owner.

        A last acknowledgement may still come, and the record that names a process may come after its packets. When the
        time is over, what is there now; the step judges it.
        """
        deadline = time.monotonic() + 5
        while True:
            flows, now = self.stage.ask("flows"), self.stage.statistics()
            counted = {
                "packets_sent": now.tx_packets - before.tx_packets,
                "bytes_sent": now.tx_bytes - before.tx_bytes,
                "packets_received": now.rx_packets - before.rx_packets,
                "bytes_received": now.rx_bytes - before.rx_bytes,
            }
            settled = _sum(flows) == counted and all(row["unit"] == self.stage.unit.name for row in flows)
            if settled or time.monotonic() > deadline:
                return flows, counted
            time.sleep(0.1)

    def balance(self) -> Step:
        """2: every conservation identity, summed here from its terms."""
        rows = self.stage.ask("counters")
        records = {row["stage"]: row for row in rows if row["stage"].startswith("records")}
        wrong = [
            name
            for name, row in records.items()
            if row["attempted"] != row["submitted"] + row["ring_full"] + row["filtered"] + row["rate_limited"]
        ]
        lost = sum(row["ring_full"] + row["rate_limited"] for row in records.values())
        evidence = {
            "identities": len(rows),
            "balanced": sum(bool(row["balanced"]) for row in rows),
            "records_attempted": sum(row["attempted"] for row in records.values()),
            "records_submitted": sum(row["submitted"] for row in records.values()),
            "records_lost": lost,
            "not_balanced": [row for row in rows if not row["balanced"]] + wrong,
        }
        ok = bool(rows) and bool(records) and not evidence["not_balanced"] and lost == 0
        return Step(2, "counters that balance", ok, evidence)

    def _policy(self, mode: str) -> str:
        return (
            "apiVersion: aegis/v1\n"
            "kind: HostNetworkPolicy\n"
            f"metadata: {{name: {POLICY}, version: {1 if mode == 'observe' else 2}}}\n"
            "spec:\n"
            f"  mode: {mode}\n"
            "  egressDeny:\n"
            f"  - toCIDRSet: [{{cidr: {self.stage.peer_v4}/32}}]\n"
            f"    toPorts: [{{ports: [{{port: {self.denied}, protocol: TCP}}]}}]\n"
        )

    def _try_both(self, mode: str) -> dict[str, Any]:
        stage = self.stage
        applied = stage.ask("policy.apply", {"document": self._policy(mode)})[0]
        tries = ROLL.randrange(2, 5)
        since = time.time_ns()
        marked = self.client(actors.talk, stage.peer_v4, self.denied, [(10, 10)] * tries)
        others = self.client(actors.talk, stage.peer_v4, self.allowed, [(10, 10)] * tries)
        wanted = "audit" if mode == "observe" else "deny"
        verdicts = stage.ask_until(
            "events",
            {"types": ["verdict"], "last": 10000},
            1,
            lambda row: (
                row["verdict"] == wanted and row["dst_port"] == self.denied and row["time_ns"] >= since
            ),
        )
        first = verdicts[0] if verdicts else {}
        stored = self._stored(
            "type=verdict",
            1,
            lambda row: (
                (row["verdict"], row["rule"], row["dst_port"]) == (wanted, "egressDeny[0]", self.denied)
            ),
        )
        return {
            "mode": mode,
            "generation": applied["generation"],
            "marked_port": self.denied,
            "tries": tries,
            "marked": sorted({outcome.name for outcome in marked}),
            "other": sorted({outcome.name for outcome in others}),
            "verdict": first.get("verdict"),
            "policy": first.get("policy"),
            "rule": first.get("rule"),
            "unit": first.get("unit"),
            **({} if stored is None else {"verdict_at_the_gateway": bool(stored)}),
        }

    def observe(self) -> Step:
        """3: a policy in observe mode, and what it would have cut."""
        evidence = self._try_both("observe")
        ok = (
            evidence["marked"] == ["ok"]
            and evidence["other"] == ["ok"]
            and (evidence["verdict"], evidence["policy"], evidence["rule"])
            == ("audit", POLICY, "egressDeny[0]")
            and evidence.get("verdict_at_the_gateway", True)
        )
        return Step(3, "a policy in observe mode: all passes, the event says what it would cut", ok, evidence)

    def enforce(self) -> Step:
        """4: the same policy enforced: the denied connection fails, the allowed one works, the event names the rule."""
        evidence = self._try_both("enforce")
        ok = (
            "ok" not in evidence["marked"]
            and evidence["other"] == ["ok"]
            and (evidence["verdict"], evidence["policy"], evidence["rule"])
            == ("deny", POLICY, "egressDeny[0]")
            and evidence.get("verdict_at_the_gateway", True)
        )
        return Step(4, "the same enforced: the denied connection fails, the allowed one works", ok, evidence)

    # ---- with a gateway

    def await_connected(self) -> None:
        """Until the session is up, so that all that follows is delivered. Raises HostError."""
        deadline = time.monotonic() + CONNECT_S
        while True:
            status = self.stage.ask("status")[0]
            if status["gateway"]["state"] == "connected":
                self.uid = status["agent"]["uid"]
                return
            if time.monotonic() > deadline:
                raise HostError(f"the agent is {status['gateway']['state']}, not connected to the gateway")
            time.sleep(0.05)

    def _stored(self, query: str, count: int, choose: Callable[[dict[str, Any]], bool]) -> int | None:
        """How many chosen events the gateway has; waits for `count`. None without a gateway."""
        center = self.stage.center
        if center is None:
            return None
        found = center.ask_until(
            f"/events?agent={self.uid}&last=1000&{query}",
            lambda page: sum(map(choose, page["items"])) >= count,
        )
        return sum(map(choose, found["items"]))

    def order_about(self) -> Step:
        """6: a module stopped and started from the gateway; the answer comes after the change, the others go on."""
        stage, center = self.stage, self.stage.center
        assert center is not None
        said: dict[str, Any] = {}
        seen: dict[str, Any] = {}
        for order, wanted in (("stop_module", "stopped"), ("start_module", "running")):
            answer = center.order(self.uid, "backend.modules", {"type": order, "module_id": ORDERED})
            states = {row["name"]: row["state"] for row in stage.ask("modules.list")}
            said[order] = (answer.get("answer") or {}).get("ok", answer["status"])
            seen[wanted] = states[ORDERED]
            seen[f"others_{wanted}"] = sorted({state for name, state in states.items() if name != ORDERED})
        refused = center.order(
            self.uid, "backend.modules", {"type": "stop_module", "module_id": "websocket_communication"}
        )
        agents = center.ask("/agents")["agents"]
        evidence = {
            "agent": self.uid,
            "module": ORDERED,
            "answered": said,
            "state_after_the_answer": {"stop": seen["stopped"], "start": seen["running"]},
            "other_modules": seen["others_stopped"],
            "stopping_its_own_link": (refused.get("answer") or {}).get("code"),
            "agents_known_to_the_gateway": len(agents),
        }
        ok = (
            said == {"stop_module": True, "start_module": True}
            and (seen["stopped"], seen["running"]) == ("stopped", "running")
            and seen["others_stopped"] == seen["others_running"] == ["running"]
            and evidence["stopping_its_own_link"] == "would_cut_control"
            and [row["agent_uid"] for row in agents] == [self.uid]
        )
        return Step(
            6, "modules stopped and started from the gateway, answered after the change", ok, evidence
        )

    def measure(self, start_s: float, gateway_s: float | None) -> Step:
        """7: the agent's memory, CPU and latency, read from outside."""
        count = 100
        reading, writing = os.pipe()
        with (
            children.call(_listen, self.stage.socket, self.stage.unit.name, count, writing) as listener,
            os.fdopen(reading, "rb") as ready,
        ):
            os.close(writing)
            ready.read(1)
            self.client(actors.run_spaced, self.program, count, 0.005)
            arrivals: list[tuple[int, int]] = listener.result(20)
        delays = sorted((arrived - happened) / 1e6 for happened, arrived in arrivals)
        seconds = (time.monotonic_ns() - self.started_ns) / 1e9
        cpu = _cpu_seconds(self.stage.agent) - self.cpu_before
        evidence: dict[str, Any] = {
            **({} if gateway_s is None else {"gateway_start_s": round(gateway_s, 3)}),
            "start_s": round(start_s, 3),
            "rss_mb": round(_rss_bytes(self.stage.agent) / 1e6, 1),
            "cpu_percent_of_a_core": round(100 * cpu / seconds, 2),
            "over_s": round(seconds, 1),
            "events": len(delays),
            "latency_ms_p50": round(delays[len(delays) // 2], 3) if delays else None,
            "latency_ms_p99": round(delays[int(len(delays) * 0.99)], 3) if delays else None,
        }
        # The customer's limits: 100 MB, 5 s to start, every event there.
        ok = len(delays) == count and evidence["rss_mb"] < 100 and start_s < 5
        return Step(7, "the agent's memory, CPU and latency of this run", ok, evidence)


def _listen(socket_path: str, unit: str, count: int, ready: int) -> list[tuple[int, int]]:
    """When each of the next `count` programs of the unit began, by the kernel, and when its event was here."""
    arrivals: list[tuple[int, int]] = []
    live = False
    try:
        for row in request(
            socket_path, "events", {"follow": True, "types": ["exec"], "last": 1}, timeout_s=8
        ):
            now = time.time_ns()
            if not live:
                os.write(ready, b"1")  # the one of the history: from here on the stream is live
                live = True
            elif row["unit"] == unit:
                arrivals.append((row["time_ns"], now))
                if len(arrivals) == count:
                    break
    except TimeoutError:
        return arrivals
    return arrivals


def _forks() -> int:
    """Forks since boot, by the kernel's own count."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    raise HostError("/proc/stat has no line `processes`")


def _sum(flows: list[dict[str, Any]]) -> dict[str, int]:
    names = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")
    return {name: sum(row[name] for row in flows if row["interface"] == INTERFACE) for name in names}


def _described(flow: dict[str, Any]) -> str:
    """A flow that was not expected, in one line: enough to see whose it is."""
    return (
        f"{flow['protocol']} {flow['src']} {flow['src_port']} -> {flow['dst']} {flow['dst_port']} {flow['state']}, "
        f"owner {flow['owner']} pid {flow['pid']} unit {flow['unit'] or flow.get('unit_reason')}"
    )


def _cpu_seconds(agent: children.Child | None) -> float:
    assert agent is not None
    fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_bytes(agent: children.Child | None) -> int:
    assert agent is not None
    for line in Path(f"/proc/{agent.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise HostError("the agent's status has no VmRSS")
