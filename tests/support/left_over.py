"""What a process holds of the machine: descriptors, threads, objects of the kernel's BPF, memory of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_OBJECT = re.compile(r"^(prog_id|map_id|link_id|btf_id):\s+(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Held:
    """BPF objects are those whose ids its descriptors name, and files below its pin directory.

    Threads are its own: the kernel's workers for io_uring come and go as the kernel likes.
    """

    descriptors: int
    threads: int
    objects: frozenset[str]
    pins: frozenset[str]


def held(pid: int, pins: Path | None = None) -> Held:
    place = Path(f"/proc/{pid}")
    objects: set[str] = set()
    descriptors = 0
    for entry in list((place / "fdinfo").iterdir()):
        try:
            text = entry.read_text()
        except FileNotFoundError:  # closed meanwhile
            continue
        descriptors += 1
        objects.update(f"{kind} {number}" for kind, number in _OBJECT.findall(text))
    files = () if pins is None or not pins.exists() else pins.rglob("*")
    return Held(descriptors, _threads(place), frozenset(objects), frozenset(str(each) for each in files))


def _threads(place: Path) -> int:
    count = 0
    for task in (place / "task").iterdir():
        try:
            count += not (task / "comm").read_text().startswith("iou-")
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
    return count


def status(pid: int, name: str) -> int:
    """A number of /proc/PID/status; memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def slope(points: list[tuple[float, float]]) -> float:
    """Theil and Sen's: the median of the slopes between each two points, which single outliers do not move."""
    slopes = sorted(
        (y2 - y1) / (x2 - x1)
        for index, (x1, y1) in enumerate(points)
        for x2, y2 in points[index + 1 :]
        if x2 > x1
    )
    return slopes[len(slopes) // 2]
