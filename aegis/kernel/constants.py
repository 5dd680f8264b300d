"""Load-time constants: the struct in section `.rodata.aegis`, set before a program is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from aegis.kernel import abi

SECTION = ".rodata.aegis"
# Ranks that an image of a size may have, and twice as many the table of hits beside it.
IMAGE_RULES: Final = MappingProxyType(
    {size: min(size // 64, abi.MAX_RULES) for size in (abi.IMAGE_SMALL, abi.IMAGE_MEDIUM, abi.IMAGE_LARGE)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """`struct aegis_constants`. `ring_reserved_bytes` of the ring are kept for urgent kinds; `senders`: the packet
    programs look at the process that sends, which older kernels do not take.

    `image_bytes`: the size of policy images, a key of IMAGE_RULES.
    """

    agent_tgid: int
    cgroup_hierarchy_v2: int = 0
    ring_bytes: int
    ring_reserved_bytes: int
    senders: bool = True
    image_bytes: int = abi.IMAGE_SMALL

    @property
    def rules(self) -> int:
        """Ranks that a policy image may have, and twice as many the table of hits."""
        return IMAGE_RULES[self.image_bytes]

    def pack(self) -> bytes:
        """The struct's bytes."""
        return abi.pack(
            "aegis_constants",
            agent_tgid=self.agent_tgid,
            cgroup_hierarchy_v2=self.cgroup_hierarchy_v2,
            ring_bytes=self.ring_bytes,
            ring_reserved_bytes=self.ring_reserved_bytes,
            image_bytes=self.image_bytes,
            rules=self.rules,
            senders=int(self.senders),
        )

    def for_images(self, hits: int) -> Constants:
        """The same for images of the size that a table of so many hits stands beside."""
        return replace(self, image_bytes=image_bytes_beside(hits))

    def for_ring(self, ring_bytes: int) -> Constants:
        """The same for a ring of another size, with the same share of it kept."""
        share = self.ring_reserved_bytes * ring_bytes // self.ring_bytes
        return replace(self, ring_bytes=ring_bytes, ring_reserved_bytes=share)


def image_bytes_beside(hits: int) -> int:
    """The size of images beside a table of so many hits."""
    return next(size for size, ranks in IMAGE_RULES.items() if 2 * ranks >= hits)
