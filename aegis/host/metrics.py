"""Every number Aegis measures of a host: one row each. What is not in this table is not measured.

A reader of a group yields (name, labels, value); unit, kind and source come from here.
"""

from __future__ import annotations

import msgspec

from aegis.model.sample import Kind


class Metric(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One measured thing. `labels` names the labels its samples carry, in order."""

    name: str
    group: str
    kind: Kind
    unit: str
    source: str
    help: str
    labels: tuple[str, ...] = ()


def _rows(
    group: str, source: str, labels: tuple[str, ...], *rows: tuple[str, Kind, str, str]
) -> tuple[Metric, ...]:
    return tuple(
        Metric(name=name, group=group, kind=kind, unit=unit, source=source, help=text, labels=labels)
        for name, kind, unit, text in rows
    )


METRICS: tuple[Metric, ...] = (
    *_rows(
        "cpu",
        "/proc/stat",
        ("cpu", "mode"),
        ("cpu.time", "counter", "seconds", "Time a CPU (or `all`) spent in a mode; user includes guest"),
    ),
    *_rows(
        "cpu",
        "/proc/stat",
        (),
        ("cpu.online", "gauge", "cpus", "CPUs that are online"),
        ("cpu.context_switches", "counter", "switches", "Context switches of all CPUs"),
        ("process.forks", "counter", "processes", "Processes and threads made since boot"),
        ("process.running", "gauge", "threads", "Threads that run or wait for a CPU"),
        ("process.blocked", "gauge", "threads", "Threads that wait for input or output"),
    ),
    *_rows(
        "processes",
        "/proc",
        (),
        ("process.count", "gauge", "processes", "Processes that exist"),
    ),
    *_rows(
        "load",
        "/proc/loadavg",
        ("minutes",),
        ("load.average", "gauge", "threads", "Running or waiting threads, averaged over minutes"),
    ),
    *_rows(
        "load",
        "/proc/loadavg",
        (),
        ("process.threads", "gauge", "threads", "Threads that exist"),
    ),
    *_rows(
        "memory",
        "/proc/meminfo",
        (),
        ("memory.total", "gauge", "bytes", "Memory the kernel can use"),
        ("memory.available", "gauge", "bytes", "Memory that programs could still get without swapping"),
        ("memory.free", "gauge", "bytes", "Memory used for nothing"),
        ("memory.buffers", "gauge", "bytes", "Cache of block devices"),
        ("memory.cached", "gauge", "bytes", "Cache of files, shared memory included"),
        ("memory.shared", "gauge", "bytes", "Shared memory and tmpfs"),
        ("memory.slab", "gauge", "bytes", "The kernel's own objects"),
        ("memory.dirty", "gauge", "bytes", "File data waiting to be written"),
        ("swap.total", "gauge", "bytes", "Swap space"),
        ("swap.free", "gauge", "bytes", "Swap space not in use"),
    ),
    *_rows(
        "swap",
        "/proc/vmstat",
        (),
        ("swap.in", "counter", "bytes", "Read back from swap since boot"),
        ("swap.out", "counter", "bytes", "Written to swap since boot"),
    ),
    *(
        row
        for resource in ("cpu", "memory", "io")
        for row in (
            *_rows(
                f"pressure.{resource}",
                f"/proc/pressure/{resource}",
                ("tasks",),
                (
                    f"pressure.{resource}.stalled",
                    "counter",
                    "seconds",
                    "Time some or all tasks waited for it",
                ),
            ),
            *_rows(
                f"pressure.{resource}",
                f"/proc/pressure/{resource}",
                ("tasks", "window_s"),
                (
                    f"pressure.{resource}.share",
                    "gauge",
                    "percent",
                    "Share of the window some or all waited for it",
                ),
            ),
        )
    ),
    *_rows(
        "disks",
        "/proc/diskstats",
        ("device",),
        ("disk.reads", "counter", "operations", "Reads completed"),
        ("disk.read_bytes", "counter", "bytes", "Bytes read"),
        ("disk.read_time", "counter", "seconds", "Time of all reads together"),
        ("disk.writes", "counter", "operations", "Writes completed"),
        ("disk.written_bytes", "counter", "bytes", "Bytes written"),
        ("disk.write_time", "counter", "seconds", "Time of all writes together"),
        ("disk.in_flight", "gauge", "operations", "Operations under way"),
        ("disk.busy_time", "counter", "seconds", "Time with at least one operation under way"),
    ),
    *_rows(
        "filesystems",
        "statvfs of /proc/self/mountinfo",
        ("mount", "device", "type"),
        ("filesystem.size", "gauge", "bytes", "Size"),
        ("filesystem.free", "gauge", "bytes", "Free, what is reserved for root included"),
        ("filesystem.available", "gauge", "bytes", "Free for everybody"),
        ("filesystem.inodes", "gauge", "inodes", "Inodes"),
        ("filesystem.inodes_free", "gauge", "inodes", "Free inodes"),
    ),
    *_rows(
        "interfaces",
        "rtnetlink",
        ("interface", "index"),
        ("interface.up", "gauge", "boolean", "Whether the interface is set up, 1 or 0"),
        ("interface.received_packets", "counter", "packets", "Packets received"),
        ("interface.received_bytes", "counter", "bytes", "Bytes received"),
        ("interface.receive_errors", "counter", "packets", "Packets received with an error"),
        (
            "interface.receive_dropped",
            "counter",
            "packets",
            "Packets received and dropped for want of room or use",
        ),
        ("interface.sent_packets", "counter", "packets", "Packets sent"),
        ("interface.sent_bytes", "counter", "bytes", "Bytes sent"),
        ("interface.send_errors", "counter", "packets", "Packets that could not be sent"),
        ("interface.send_dropped", "counter", "packets", "Packets dropped before they were sent"),
    ),
    *_rows(
        "tcp",
        "sock_diag",
        ("state",),
        ("tcp.sockets", "gauge", "sockets", "TCP sockets in a state, IPv4 and IPv6"),
    ),
    *_rows(
        "agent",
        "getrusage",
        ("mode",),
        ("agent.cpu_time", "counter", "seconds", "CPU time of the agent's own process"),
    ),
    *_rows(
        "agent",
        "/proc/self/stat",
        (),
        ("agent.rss", "gauge", "bytes", "Memory of the agent that is resident"),
        ("agent.threads", "gauge", "threads", "Threads of the agent"),
    ),
    *_rows(
        "agent",
        "/proc/self/fd",
        (),
        ("agent.descriptors", "gauge", "descriptors", "Open descriptors of the agent"),
    ),
    *_rows(
        "agent.pss",
        "/proc/self/smaps_rollup",
        (),
        (
            "agent.pss",
            "gauge",
            "bytes",
            "Memory of the agent, shared pages counted by share; read every minute",
        ),
    ),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(metric.group for metric in METRICS))
