"""The flow table against a model in plain Python, over any order of harvests, rows, reaping and forgetting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aegis._native.flowtable import FlowRow, FlowTable
from aegis.kernel import abi

COUNTERS = ("packets_egress", "packets_ingress", "bytes_egress", "bytes_ingress")
Identity = tuple[int, int]  # number of the key, first_ns


@dataclass
class ModelFlow:
    counters: tuple[int, int, int, int]
    state: int
    harvest: int
    changed_at: int  # a clock of changes
    added: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    reaped: bool = False


class Model:
    """The same answers by dictionaries and sorting."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.flows: dict[Identity, ModelFlow] = {}
        self.harvest = 0
        self.clock = 0
        self.evicted = 0
        self.evicted_live = 0
        self.totals = [0, 0, 0, 0]

    def merge(
        self, identity: Identity, counters: tuple[int, int, int, int], state: int, *, reaped: bool
    ) -> bool:
        flow = self.flows.get(identity)
        if flow is None:
            if len(self.flows) == self.capacity:
                self.evict()
            flow = ModelFlow(counters=(0, 0, 0, 0), state=state, harvest=0, changed_at=0)
            self.flows[identity] = flow
        elif (flow.counters, flow.state, flow.reaped) == (counters, state, flow.reaped or reaped):
            return False
        if flow.harvest != self.harvest:
            flow.harvest, flow.added = self.harvest, [0, 0, 0, 0]
        for index, (before, now) in enumerate(zip(flow.counters, counters, strict=True)):
            gain = max(0, now - before)
            flow.added[index] += gain
            self.totals[index] += gain
        flow.counters = tuple(map(max, flow.counters, counters))  # type: ignore[assignment]
        flow.state = state
        flow.reaped |= reaped
        self.clock += 1
        flow.changed_at = self.clock
        return True

    def evict(self) -> None:
        gone = [identity for identity, flow in self.flows.items() if flow.reaped]
        if gone:
            self.evicted += 1
        else:
            self.evicted_live += 1
        del self.flows[min(gone or self.flows, key=lambda identity: self.flows[identity].changed_at)]

    def forget(self, harvests: int) -> int:
        old = [
            identity
            for identity, flow in self.flows.items()
            if flow.reaped and self.harvest - flow.harvest >= harvests
        ]
        for identity in old:
            del self.flows[identity]
        return len(old)

    def rows(self, *, changed: bool) -> list[tuple[Any, ...]]:
        chosen = [
            (identity, flow)
            for identity, flow in self.flows.items()
            if not changed or flow.harvest == self.harvest
        ]
        chosen.sort(key=lambda item: (item[1].reaped, -item[1].changed_at))
        return [
            (
                *identity,
                *flow.counters,
                flow.state,
                *(flow.added if flow.harvest == self.harvest else (0, 0, 0, 0)),
                flow.reaped,
            )
            for identity, flow in chosen
        ]


def essence(row: FlowRow) -> tuple[Any, ...]:
    counters = tuple(getattr(row, name) for name in COUNTERS)
    added = tuple(getattr(row, f"added_{name}") for name in COUNTERS)
    return (int.from_bytes(row.remote, "big"), row.first_ns, *counters, row.state, *added, row.reaped)


ROWS = st.lists(
    st.tuples(
        st.integers(1, 23),  # key
        st.integers(1, 3),  # first_ns
        st.tuples(*[st.integers(0, 2**62) | st.integers(0, 50)] * 4),
        st.sampled_from([abi.FLOW_NEW, abi.FLOW_ESTABLISHED, abi.FLOW_CLOSED]),
    ),
    max_size=13,
)


class Tables(RuleBasedStateMachine):
    @initialize(capacity=st.integers(1, 31))
    def begin(self, capacity: int) -> None:
        self.table = FlowTable(capacity)
        self.model = Model(capacity)
        self.next_harvest()

    @rule()
    def next_harvest(self) -> None:
        self.model.harvest += 1
        assert self.table.next_harvest() == self.model.harvest

    @rule(rows=ROWS, reaped=st.booleans())
    def ingest(self, rows: list[tuple[int, int, tuple[int, int, int, int], int]], reaped: bool) -> None:
        packed = b"".join(
            abi.pack(
                "aegis_flow_row",
                key={"remote": key.to_bytes(16, "big")},
                value={
                    "packets": counters[:2],
                    "bytes": counters[2:],
                    "first_ns": first_ns,
                    "state": state,
                },
            )
            for key, first_ns, counters, state in rows
        )
        changed = sum(
            self.model.merge((key, first_ns), counters, state, reaped=reaped)
            for key, first_ns, counters, state in rows
        )
        assert self.table.ingest(packed, reaped=reaped) == changed

    @rule(harvests=st.integers(0, 3))
    def forget(self, harvests: int) -> None:
        assert self.table.forget(harvests) == self.model.forget(harvests)

    @rule(n=st.integers(0, 9), by=st.sampled_from(["bytes", "packets"]))
    def top(self, n: int, by: Any) -> None:
        def gained(row: tuple[Any, ...]) -> int:
            first = 7 if by == "packets" else 9
            return int(row[first] + row[first + 1])

        ranked = sorted((gained(row) for row in self.model.rows(changed=True)), reverse=True)[:n]
        assert [gained(essence(row)) for row in self.table.top(n, by=by)] == ranked

    @invariant()
    def agree(self) -> None:
        assert [essence(row) for row in self.table.rows()] == self.model.rows(changed=False)
        assert [essence(row) for row in self.table.rows(changed=True)] == self.model.rows(changed=True)
        assert len(self.table) == len(self.model.flows)
        assert self.table.totals() == tuple(total % 2**64 for total in self.model.totals)
        assert (self.table.evicted, self.table.evicted_live) == (self.model.evicted, self.model.evicted_live)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=101, stateful_step_count=31, deadline=None)
