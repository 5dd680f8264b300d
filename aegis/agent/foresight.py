"""What a start with this configuration would find on the host: looked at, never touched."""

from __future__ import annotations

import os
from collections.abc import Iterator

from aegis._native import _system
from aegis.agent.link.choice import choose
from aegis.agent.watched_interfaces import NO_INTERFACE
from aegis.errors import HostError
from aegis.host.reader import Host
from aegis.runtime.clock import SystemClock
from aegis.runtime.config import Configuration
from aegis.runtime.settings import Settings


def foresight(configuration: Configuration) -> tuple[str, ...]:
    """One line for each interface, the pin directory and the gateway. Nothing here makes a configuration invalid."""
    kernel = configuration.table("kernel")
    return (
        *_interfaces(kernel),
        _pins(kernel.text("pin_dir")),
        *_gateway(configuration.table("gateway")),
    )


def _interfaces(kernel: Settings) -> Iterator[str]:
    named = kernel["interfaces"]
    if named == (NO_INTERFACE,):
        yield "interfaces: none is to be watched"
        return
    clock = SystemClock()
    host = Host(wall_ns=clock.wall_ns, monotonic_ns=clock.monotonic_ns)
    try:
        if named is None:
            found = [link.name for link in host.default_interfaces()]
            yield (
                f"interfaces: {', '.join(found)}"
                if found
                else ("interfaces: none holds a route now, so none would be watched; one that comes later is")
            )
            return
        there = {link.name: link for link in host.links()}
    except HostError as error:
        yield f"interfaces: cannot be read: {error}"
        return
    finally:
        host.close()
    for name in kernel.texts("interfaces"):
        link = there.get(name)
        if link is None:
            yield f"interface {name}: there is none now; it would be watched once it comes"
        else:
            yield f"interface {name}: ok, index {link.index}"


def _gateway(gateway: Settings) -> Iterator[str]:
    """Nobody is asked there; what is said is what this configuration comes to."""
    found = choose(gateway)
    if found is None:
        return
    if found.refusal is not None:
        yield f"gateway {found.url.text}: nothing would be spoken to it: {found.refusal} ({found.refusal.hint})"
    elif found.url.secure and found.ca is not None and not os.access(found.ca, os.R_OK):
        yield f"gateway {found.url.text}: refused, since the CA file {found.ca} cannot be read"
    else:
        yield f"gateway {found.url.text}: protocol v1 would be spoken, which is insecure"


def _pins(pin_dir: str) -> str:
    """The directory is made at the start: what counts is the nearest one above that is there."""
    where = os.path.abspath(pin_dir)
    while not os.path.exists(where) and where != os.path.dirname(where):
        where = os.path.dirname(where)
    problem = ""
    if not os.path.isdir(where):
        problem = f"{where} is no directory"
    elif _system.lib.aegis_filesystem(os.fsencode(where)) != _system.lib.BPF_FS_MAGIC:
        problem = f"{where} is not on a BPF file system"
    elif not os.access(where, os.W_OK | os.X_OK):
        problem = f"{where} cannot be written to by uid {os.geteuid()}"
    if problem:
        return f"pins {pin_dir}: {problem}: enforcement would end with the agent"
    return f"pins {pin_dir}: ok" + ("" if where == os.path.abspath(pin_dir) else f", to be made in {where}")
