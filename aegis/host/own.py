"""What the agent costs its host: its own CPU time, memory, descriptors and threads."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from aegis.errors import HostError
from aegis.host import procfs
from aegis.host.processes import parse_stat
from aegis.host.usage import PAGE_BYTES, Reading


def agent(proc: str) -> Iterator[Reading]:
    """The cheap ones. CPU time is getrusage's, to the microsecond; /proc has it to the clock tick only."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield "agent.cpu_time", (("mode", "user"),), used.ru_utime
    yield "agent.cpu_time", (("mode", "system"),), used.ru_stime
    where = f"{proc}/self/stat"
    stat = parse_stat(procfs.read(where), where)
    yield "agent.rss", (), stat.rss_pages * PAGE_BYTES
    yield "agent.threads", (), stat.threads
    # The descriptor of the listing itself is in the list.
    yield "agent.descriptors", (), len(procfs.listing(f"{proc}/self/fd")) - 1


def agent_pss(proc: str) -> Iterator[Reading]:
    """Proportional memory. The kernel walks the page tables for it, so it is not read at every turn."""
    where = f"{proc}/self/smaps_rollup"
    for line in procfs.read(where).split(b"\n"):
        if line.startswith(b"Pss:"):
            yield "agent.pss", (), procfs.number(procfs.columns(line, 3, where)[1], where) * 1024
            return
    raise HostError(f"{where}: no Pss in it")
