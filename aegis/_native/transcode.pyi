from typing_extensions import Buffer

class RecordsMalformed(ValueError):
    offset: int
    def __init__(self, text: str, offset: int) -> None: ...

def to_json(
    records: Buffer, base_ns: int, *, most_items: int = 512, most_bytes: int = 49152
) -> list[tuple[int, int, bytes]]: ...
def to_shared_json(
    records: Buffer,
    base_ns: int,
    *,
    most_items: int = 512,
    most_bytes: int = 49152,
    most_expanded: int = 1048576,
) -> list[tuple[int, int, bytes, bytes]]: ...
def records_of(data: Buffer) -> list[int]: ...
def end_of(data: Buffer, offset: int, count: int) -> int: ...
