from __future__ import annotations

from aegis.agent.flow_source import IDENTITY, STAGES, TERMS, FlowSource, _part
from aegis.kernel.flows import Count
from aegis.runtime import log
from aegis.runtime.bus import Bus
from aegis.runtime.clock import SystemClock
from aegis.runtime.counters import relations


async def test_without_a_table_there_are_no_flows_and_it_says_so() -> None:
    bus = Bus()
    flows = FlowSource(bus, SystemClock(), log.logger())
    assert not flows.available
    with bus.subscribe("flow", capacity=9) as queue:
        found = flows.harvest()
        assert (found.changed, found.flows) == (0, 0)
        assert queue.get_nowait() == found
    await flows.tick()
    assert (list(flows.rows()), flows.terms(), flows.losses()) == ([], {}, {})
    flows.close()


def test_the_identity_is_of_its_terms() -> None:
    named = {term for sides, _ in relations(IDENTITY) for side in sides for term in side}
    assert named == set(TERMS)


def test_each_stage_is_one_number_of_a_count() -> None:
    count = Count(egress_packets=2, ingress_packets=3, egress_bytes=5, ingress_bytes=7)
    assert [_part(count, stage) for stage in STAGES] == [2, 3, 5, 7]
