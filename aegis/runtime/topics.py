"""The topics of the bus: who publishes, and what one item is."""

from __future__ import annotations

import msgspec


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic. `sensor` is True when the kernel room loads programs while somebody listens."""

    name: str
    item: str
    sensor: bool


TOPICS: tuple[Topic, ...] = (
    Topic(name="process", item="aegis._native.ringbuf.RecordBatch: exec, exit, fork", sensor=True),
    Topic(name="socket", item="aegis._native.ringbuf.RecordBatch: connect, accept, listen", sensor=True),
    Topic(name="cgroup", item="aegis._native.ringbuf.RecordBatch: cgroup", sensor=True),
    Topic(name="verdict", item="aegis._native.ringbuf.RecordBatch: verdict", sensor=True),
    Topic(name="flow", item="aegis.runtime.module.Harvest", sensor=False),
    Topic(name="flow_record", item="aegis.model.block.Encoded: flows that changed", sensor=False),
    Topic(name="event", item="Sequence[aegis.model.event.Event]", sensor=False),
    Topic(name="sample", item="tuple[aegis.model.sample.Sample, ...]", sensor=False),
    Topic(name="sample_record", item="aegis.model.block.Encoded: one report of all samples", sensor=False),
    Topic(name="finding", item="aegis.model.block.Encoded: findings", sensor=False),
)

NAMES = frozenset(topic.name for topic in TOPICS)
SENSORS = frozenset(topic.name for topic in TOPICS if topic.sensor)
