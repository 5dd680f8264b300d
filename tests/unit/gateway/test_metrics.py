from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from aegis.gateway.metrics import Metrics
from aegis.model.block import BlockClass


def test_what_was_counted_is_in_the_text() -> None:
    metrics = Metrics()
    metrics.gauges = lambda: (("aegis_gateway_agents", "Agents", 3.0),)
    metrics.heartbeats += 5
    metrics.count("slow_consumer")
    metrics.received(BlockClass.EVENT, 10, 700)
    metrics.stored("event", 7, known=0)
    metrics.stored("event", 1, known=2)
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }
    assert found["aegis_gateway_heartbeats_total", ()] == 5
    assert found["aegis_gateway_events_total", (("event", "slow_consumer"),)] == 1
    assert found["aegis_gateway_received_bytes_total", (("class", "event"),)] == 700
    assert found["aegis_gateway_agents", ()] == 3
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in found.items()
        if name == "aegis_gateway_items_total"
    }
    assert states == {"received": 10, "stored": 8, "duplicate": 2}
