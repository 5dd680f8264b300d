"""Options of the telemetry module, below `modules.telemetry`."""

from __future__ import annotations

from aegis.runtime.settings import Option

OPTIONS: tuple[Option, ...] = (
    Option(
        name="interval_s",
        kind="float",
        default=10.0,
        minimum=1.0,
        maximum=3600.0,
        reload="live",
        help="Seconds from one reading of the host's numbers to the next.",
    ),
    Option(
        name="slow_interval_s",
        kind="float",
        default=60.0,
        minimum=1.0,
        maximum=86400.0,
        reload="live",
        help="Seconds between readings of numbers that cost more, such as the agent's proportional memory.",
    ),
    Option(
        name="report_interval_s",
        kind="float",
        default=60.0,
        minimum=1.0,
        maximum=86400.0,
        reload="live",
        help="Seconds between reports of these numbers to the gateway; what did not change is left out.",
    ),
)
