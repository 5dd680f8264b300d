from collections.abc import Callable
from typing import Protocol

from aegis._native.flowtable import FlowTable

class RuleName(Protocol):
    @property
    def policy(self) -> str: ...
    @property
    def rule(self) -> str: ...

def shortened(fragment: bytes) -> bytes: ...

class FlowEncoder:
    def __init__(
        self,
        owner_of: Callable[[int], bytes | None],
        rule_of: Callable[[int, int], RuleName | None],
        interface_of: Callable[[int], str | None],
    ) -> None: ...
    def forget(self) -> None: ...
    def encode(
        self,
        table: FlowTable,
        *,
        now_ns: int,
        wall_offset_ns: int,
        base_ns: int,
        interval_ns: int,
        most_items: int = 512,
        most_bytes: int = 49152,
    ) -> tuple[int, bytes]: ...
