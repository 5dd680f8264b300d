"""The options `outbox.*`."""

from __future__ import annotations

from typing import Final

from aegis.model.block import BlockClass
from aegis.runtime.settings import Option

PERCENT: Final = {
    BlockClass.FINDING: 100,
    BlockClass.VERDICT: 50,
    BlockClass.EVENT: 75,
    BlockClass.FLOW: 25,
    BlockClass.SAMPLE: 10,
}

OPTIONS: tuple[Option, ...] = (
    Option(
        name="outbox.bytes",
        kind="int",
        default=64 << 20,
        minimum=1 << 20,
        maximum=1 << 40,
        help="Most bytes of blocks that wait on disk for the gateway. Beyond, the oldest of the lowest class go: samples, "
        "flows, events, verdicts, findings.",
    ),
    Option(
        name="outbox.memory_bytes",
        kind="int",
        default=4 << 20,
        minimum=1 << 18,
        maximum=1 << 30,
        help="Most bytes of blocks in memory: those not written yet, those read ahead, and all there are while the disk "
        "cannot be written.",
    ),
    Option(
        name="outbox.commit_ms",
        kind="float",
        default=100.0,
        minimum=0.0,
        maximum=60_000.0,
        help="Longest time, in milliseconds, that events nobody acknowledged wait to be written; flows wait fifty times, "
        "samples a hundred times as long, verdicts and findings not at all.",
    ),
    *(
        Option(
            name=f"outbox.{cls}_percent",
            kind="int",
            default=percent,
            minimum=1,
            maximum=100,
            help=f"Share of outbox.bytes that {cls}s may take.",
        )
        for cls, percent in PERCENT.items()
    ),
)
