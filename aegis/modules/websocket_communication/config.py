"""Options below `modules.websocket_communication`. Where the gateway is stands in the table `gateway`."""

from __future__ import annotations

from aegis.runtime.settings import Option

OPTIONS: tuple[Option, ...] = (
    Option(
        name="heartbeat_interval_s",
        kind="float",
        default=20.0,
        minimum=5.0,
        maximum=30.0,
        help="Seconds between heartbeats; a gateway cuts who says nothing for 60.",
    ),
    Option(
        name="in_flight_bytes",
        kind="int",
        default=2 << 20,
        minimum=128 << 10,
        maximum=64 << 20,
        help="Records that may be sent and not acknowledged; more wait in the outbox.",
    ),
    Option(
        name="longest_pause_s",
        kind="float",
        default=60.0,
        minimum=1.0,
        maximum=3600.0,
        help="Longest pause before another try to connect; each pause is random up to a limit that doubles up to this.",
    ),
)
