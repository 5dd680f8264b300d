"""What an agent before left at its hooks, found and removed by its pins alone: nothing is loaded for it."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from aegis.errors import FeatureUnsupported, KernelError
from aegis.kernel import tc
from aegis.kernel.pins import PinDirectory
from aegis.kernel.tc import ClsactFilter, Direction


def link_name(ifindex: int, direction: Direction) -> str:
    """The pin's name of a tcx link."""
    return f"tcx-{ifindex}-{direction.name.lower()}"


def pinned_interfaces(pins: PinDirectory) -> tuple[int, ...]:
    """The interfaces an agent before attached to."""
    tcx = (name.split("-") for name in pins.link_names() if name.startswith("tcx-"))
    return tuple(sorted({int(parts[1]) for parts in tcx} | pins.clsact_interfaces()))


def drop_clsact(pins: PinDirectory, ifindex: int) -> None:
    """Remove our filters from an interface, and the qdisc where it is ours and empty."""
    for direction in Direction:
        ClsactFilter(ifindex, direction, made_qdisc=False).detach()
    if pins.made_clsact(ifindex):
        with contextlib.suppress(KernelError):  # a device that is gone took everything with it
            tc.destroy_clsact(ifindex)
    pins.unmark_clsact(ifindex)


def clear(pins: PinDirectory) -> None:
    """Remove every hook and table of an agent before. Its clsact filters first: they stay without any pin."""
    for ifindex in pins.clsact_interfaces():
        drop_clsact(pins, ifindex)
    pins.clear()


def uninstall(pin_dir: Path) -> None:
    """Remove every hook and pin of this ABI below `pin_dir` without loading anything. Raises FeatureUnsupported."""
    pins = PinDirectory(pin_dir)
    if not pins.root.exists():
        raise FeatureUnsupported("find", str(pins.root), errno.ENOENT, detail="nothing is installed")
    clear(pins)
    pins.remove_all()
