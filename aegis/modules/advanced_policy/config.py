"""Options below `modules.advanced_policy`."""

from __future__ import annotations

from aegis.runtime.settings import Option

OPTIONS: tuple[Option, ...] = (
    Option(
        name="queue_records",
        kind="int",
        default=16_384,
        minimum=256,
        maximum=1_048_576,
        help="Verdict records that may wait for this module; more are dropped, counted and reported as loss.",
    ),
    Option(
        name="check_interval_s",
        kind="float",
        default=5.0,
        minimum=0.1,
        maximum=3600.0,
        reload="live",
        help="How often the state of enforcement is looked at; what is wrong with it becomes a condition.",
    ),
)
