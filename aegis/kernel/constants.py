"""Load-time constants: the struct in section `.rodata.aegis`, set before a program is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aegis.kernel import abi

SECTION = ".rodata.aegis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """`struct aegis_constants`. `ring_reserved_bytes` of the ring are kept for urgent kinds; `senders`: the packet
    programs look at the process that sends, which older kernels do not take."""

    agent_tgid: int
    cgroup_hierarchy_v2: int = 0
    ring_bytes: int
    ring_reserved_bytes: int
    senders: bool = True

    def pack(self) -> bytes:
        """The struct's bytes."""
        return abi.pack(
            "aegis_constants",
            agent_tgid=self.agent_tgid,
            cgroup_hierarchy_v2=self.cgroup_hierarchy_v2,
            ring_bytes=self.ring_bytes,
            ring_reserved_bytes=self.ring_reserved_bytes,
            senders=int(self.senders),
        )

    def for_ring(self, ring_bytes: int) -> Constants:
        """The same for a ring of another size, with the same share of it kept."""
        share = self.ring_reserved_bytes * ring_bytes // self.ring_bytes
        return replace(self, ring_bytes=ring_bytes, ring_reserved_bytes=share)
