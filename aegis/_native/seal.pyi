from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from typing_extensions import Buffer

KEY_BYTES: Final[int]
TAG_BYTES: Final[int]

class SealError(ValueError): ...

class SealBroken(SealError):
    index: int
    def __init__(self, index: int) -> None: ...

class NonceExhausted(SealError): ...

class Seal:
    @property
    def sealed(self) -> int: ...  # counter of the next message to seal
    @property
    def opened(self) -> int: ...  # counter of the next message to open
    @property
    def limit(self) -> int: ...
    def __init__(
        self,
        key: Buffer,
        prefix: Buffer = b"\0\0\0\0",
        *,
        sealed: int = 0,
        opened: int = 0,
        limit: int = ...,
    ) -> None: ...
    def seal_many(self, messages: Iterable[Buffer], ads: Iterable[Buffer] | None = None) -> list[bytes]: ...
    def seal_into(
        self, messages: Iterable[Buffer], out: Buffer, ads: Iterable[Buffer] | None = None
    ) -> int: ...
    def open_many(self, messages: Iterable[Buffer], ads: Iterable[Buffer] | None = None) -> list[bytes]: ...
    def open_into(
        self, messages: Iterable[Buffer], out: Buffer, ads: Iterable[Buffer] | None = None
    ) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
