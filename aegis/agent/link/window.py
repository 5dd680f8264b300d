"""Blocks that were sent and not acknowledged: how much more may be sent now."""

from __future__ import annotations

from aegis.model.block import Block, BlockClass

LEAST_BYTES = 64 << 10  # a block fits; below this it is waited for acknowledgements


class Window:
    """Bounds the bytes of records in flight. Acknowledgements are cumulative by stream and class."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._sent: dict[
            tuple[int, BlockClass], list[tuple[int, int]]
        ] = {}  # (next, bytes) in order of sending
        self.bytes = 0

    @property
    def room(self) -> int:
        """Bytes that may be sent; 0 where they would not pay."""
        left = self._most - self.bytes
        return left if left >= LEAST_BYTES else 0

    def take(self, block: Block) -> None:
        """A block goes out."""
        size = len(block.records)
        self._sent.setdefault((block.stream, block.cls), []).append((block.next, size))
        self.bytes += size

    def acknowledged(self, stream: int, cls: BlockClass, next_: int) -> bool:
        """Everything before `next_` is durable. Whether that let any block go."""
        waiting = self._sent.get((stream, cls), [])
        kept = [one for one in waiting if one[0] > next_]
        self.bytes -= sum(size for end, size in waiting if end <= next_)
        if kept:
            self._sent[stream, cls] = kept
        else:
            self._sent.pop((stream, cls), None)
        return len(kept) < len(waiting)
