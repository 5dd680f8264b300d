"""Options below `modules.observability`."""

from __future__ import annotations

from aegis.runtime.settings import Option

OPTIONS: tuple[Option, ...] = (
    Option(
        name="keep_ended",
        kind="int",
        default=4096,
        minimum=0,
        maximum=262_144,
        help="Processes kept after their end, so that their sockets and flows still find them (about 0.3 kB each; fewer where they are longer than 1 KiB on average).",
    ),
    Option(
        name="flow_report_interval_s",
        kind="float",
        default=60.0,
        minimum=1.0,
        maximum=86_400.0,
        reload="live",
        help="Seconds between two reports of a flow that goes on; its beginning and its end are reported at once.",
    ),
)
