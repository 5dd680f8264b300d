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

from aegis.cli.demo import actors, judges, measuring
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
        assert stage.agent is not None
        self.meter = measuring.Meter(stage.agent.pid)
        self.nftables = judges.Nftables(stage.edge, stage.peer, INTERFACE, self.denied)

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
        forks, before, before_nftables = judges.forks(), stage.statistics(), self.nftables.arrived()
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
            forked = judges.forks() - forks
            # The sink stays until all is still: a datagram that is under way when it closes is answered with ICMP.
            flows, by_interface, by_nftables = self._settled_flows(before, before_nftables)
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
            f"type=exec&process={Path(self.program).name}",
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
            **self._judged("nftables", by_nftables),
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
            and by_nftables in (None, by_agent)
        )
        return Step(1, "processes, sockets and flows, with owner and unit", ok, evidence)

    def _settled_flows(
        self, before: LinkStatistics, before_nftables: dict[str, int] | None
    ) -> tuple[list[dict[str, Any]], dict[str, int], dict[str, int] | None]:
        """The flows, and what interface and nftables counted since: once all agree and each flow has its owner.

        A last acknowledgement may still come, and the record that names a process may come after its packets. When the
        time is over, what is there now; the step judges it.
        """
        deadline = time.monotonic() + 5
        while True:
            flows, now = self.stage.ask("flows"), self.stage.statistics()
            by_nftables = judges.since(self.nftables.arrived(), before_nftables)
            counted = {
                "packets_sent": now.tx_packets - before.tx_packets,
                "bytes_sent": now.tx_bytes - before.tx_bytes,
                "packets_received": now.rx_packets - before.rx_packets,
                "bytes_received": now.rx_bytes - before.rx_bytes,
            }
            agreed = _sum(flows) == counted and by_nftables in (None, counted)
            settled = agreed and all(row["unit"] == self.stage.unit.name for row in flows)
            if settled or time.monotonic() > deadline:
                return flows, counted, by_nftables
            time.sleep(0.1)

    def _judged(self, name: str, reading: dict[str, int] | None) -> dict[str, Any]:
        """A reading of nftables as evidence; why there is none, by name."""
        return (
            {name: reading} if reading is not None else {name: None, f"{name}_reason": self.nftables.reason}
        )

    def _dropped(self) -> int:
        """Packets to the denied port that our hook dropped, as the flows tell it."""
        return sum(
            row["packets_dropped"]
            for row in self.stage.ask("flows")
            if (row["protocol"], row["dst"], row["dst_port"]) == ("tcp", self.stage.peer_v4, self.denied)
        )

    def _settled_packets(self, before: dict[str, int] | None, cut: bool) -> tuple[int, dict[str, int] | None]:
        """Dropped packets by our account, and what nftables saw of the denied port since: once both tell one story."""
        deadline = time.monotonic() + 5
        while True:
            reading, dropped = judges.since(self.nftables.marked(), before), self._dropped()
            if _one_story(reading, dropped, cut=cut) or time.monotonic() > deadline:
                return dropped, reading
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
        since, before = time.time_ns(), self.nftables.marked()
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
        dropped, by_nftables = self._settled_packets(before, cut=mode == "enforce")
        stored = self._stored(
            f"type=verdict&port={self.denied}",
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
            "packets_dropped": dropped,
            **self._judged("packets_by_nftables", by_nftables),
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
            and _one_story(evidence["packets_by_nftables"], evidence["packets_dropped"], cut=False)
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
            and _one_story(evidence["packets_by_nftables"], evidence["packets_dropped"], cut=True)
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
        return center.count_until(f"/events?agent={self.uid}&limit=1000&{query}", choose, count)

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
        delays = measuring.delays_ms(
            self.stage.socket,
            self.stage.unit.name,
            count,
            lambda: self.client(actors.run_spaced, self.program, count, 0.005),
        )
        evidence: dict[str, Any] = {
            **({} if gateway_s is None else {"gateway_start_s": round(gateway_s, 3)}),
            "start_s": round(start_s, 3),
            **self.meter.read(),
            "events": len(delays),
            "latency_ms_p50": round(delays[len(delays) // 2], 3) if delays else None,
            "latency_ms_p99": round(delays[int(len(delays) * 0.99)], 3) if delays else None,
        }
        # The customer's limits: 100 MB, 5 s to start, every event there.
        ok = len(delays) == count and evidence["rss_mb"] < 100 and start_s < 5
        return Step(7, "the agent's memory, CPU and latency of this run", ok, evidence)


def _one_story(by_nftables: dict[str, int] | None, dropped: int, *, cut: bool) -> bool:
    """Cut: all that left the client was dropped by us, and nothing came. Else nothing was dropped, and all came."""
    if by_nftables is None:
        return (dropped > 0) == cut
    left, came = by_nftables["left_the_client"], by_nftables["came_to_the_peer"]
    return left > 0 and (dropped, came) == ((left, 0) if cut else (0, left))


def _sum(flows: list[dict[str, Any]]) -> dict[str, int]:
    names = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")
    return {name: sum(row[name] for row in flows if row["interface"] == INTERFACE) for name in names}


def _described(flow: dict[str, Any]) -> str:
    """A flow that was not expected, in one line: enough to see whose it is."""
    return (
        f"{flow['protocol']} {flow['src']} {flow['src_port']} -> {flow['dst']} {flow['dst_port']} {flow['state']}, "
        f"owner {flow['owner']} pid {flow['pid']} unit {flow['unit'] or flow.get('unit_reason')}"
    )
