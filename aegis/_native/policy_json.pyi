from typing import Any

class Refused(Exception):
    line: int
    reason: str
    path: list[str | int]

def elements(data: bytes, depth: int) -> tuple[int, int]: ...

class Reader:
    def __init__(
        self, data: bytes, kinds: tuple[Any, Any, Any, Any], most_depth: int, most_nodes: int
    ) -> None: ...
    def document(self) -> Any: ...
