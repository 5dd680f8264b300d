# The shared headers: structs and enums through `ffi`, enum members as attributes of `lib`.

from typing import Any

ffi: Any

class Members:
    def __getattr__(self, name: str) -> int: ...

lib: Members
