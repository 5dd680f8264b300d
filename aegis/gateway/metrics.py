"""What the gateway counts, in its own Prometheus registry. The hot paths add to plain integers; a scrape reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from aegis.model.block import BlockClass

Gauges = Callable[[], Iterable[tuple[str, str, float]]]


class Metrics:
    """`events` are named facts that are counted; `gauges` gives (name, help, value) of now."""

    def __init__(self) -> None:
        self.heartbeats = 0
        self.events: Counter[str] = Counter()
        self.gauges: Gauges = tuple
        self._items: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[str] = Counter()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def count(self, what: str) -> None:
        self.events[what] += 1

    def received(self, cls: BlockClass, items: int, size: int) -> None:
        self._items[cls, "received"] += items
        self._bytes[cls] += size

    def stored(self, cls: str, new: int, *, known: int) -> None:
        """Of a batch that was received."""
        self._items[cls, "stored"] += new
        if known:
            self._items[cls, "duplicate"] += known

    def text(self) -> bytes:
        """The exposition, Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks for it."""
        beats = CounterMetricFamily("aegis_gateway_heartbeats", "Heartbeats of agents")
        beats.add_metric([], self.heartbeats)
        yield beats
        items = CounterMetricFamily(
            "aegis_gateway_items",
            "Items of batches: received, stored, or known already",
            labels=["class", "state"],
        )
        for (cls, state), value in sorted(self._items.items()):
            items.add_metric([str(cls), state], value)
        yield items
        size = CounterMetricFamily(
            "aegis_gateway_received_bytes", "Bytes of items received", labels=["class"]
        )
        for cls, value in sorted(self._bytes.items()):
            size.add_metric([str(cls)], value)
        yield size
        events = CounterMetricFamily(
            "aegis_gateway_events", "Named facts: refusals, conflicts, cuts", labels=["event"]
        )
        for name, value in sorted(self.events.items()):
            events.add_metric([name], value)
        yield events
        for name, about, level in self.gauges():
            yield GaugeMetricFamily(name, about, value=level)
