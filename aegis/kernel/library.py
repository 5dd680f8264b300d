"""The door to libbpf: opened at first use, so that importing this room never fails where the library is missing.

libbpf's messages are captured for the thread that called it and end in the typed error, never on stderr.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from aegis.errors import CapabilityMissing, FeatureUnsupported, KernelError

if TYPE_CHECKING:
    from aegis._native._libbpf import Library

CAPABILITIES_HINT = "run as root, or give the process CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
MESSAGES_KEPT = 16
MESSAGE_TAIL = 16_384  # characters kept of one message: the end of a verifier log names the reason


class Messages(threading.local):
    """What libbpf said in this thread, oldest first."""

    def __init__(self) -> None:
        self.kept: deque[str] = deque(maxlen=MESSAGES_KEPT)

    def take(self) -> str:
        """All of it as one text; afterwards there is none."""
        text = "".join(self.kept)
        self.kept.clear()
        return text


messages = Messages()
_opened: tuple[Any, Library] | None = None


def open_library() -> tuple[Any, Library]:
    """The cffi pair (ffi, lib) of libbpf. Raises FeatureUnsupported where it cannot be loaded."""
    global _opened  # noqa: PLW0603 - one library in a process
    if _opened is not None:
        return _opened
    try:
        from aegis._native import _libbpf  # noqa: PLC0415 - absent libbpf is an answer, not an import error
    except ImportError as error:
        raise FeatureUnsupported(
            "load", "libbpf", detail=str(error), hint="install libbpf 1.1 or later (Debian: libbpf1)"
        ) from error

    def keep(_level: int, text: Any, size: int) -> None:
        skipped = max(0, size - MESSAGE_TAIL)
        messages.kept.append(_libbpf.ffi.buffer(text + skipped, size - skipped)[:].decode(errors="replace"))

    _libbpf.ffi.def_extern(name="aegis_libbpf_message")(keep)
    _libbpf.lib.aegis_capture_messages()
    _opened = (_libbpf.ffi, _libbpf.lib)
    return _opened


def library_version() -> str:
    """The version of the libbpf in use, such as `v1.1`. Raises FeatureUnsupported."""
    ffi, lib = open_library()
    text: str = ffi.string(lib.libbpf_version_string()).decode()
    return text


def failure(
    number: int,
    operation: str,
    subject: str,
    kind: type[KernelError] = KernelError,
    *,
    hint: str | None = None,
) -> KernelError:
    """The typed error for a failed call; `number` is an errno of either sign."""
    number = abs(number)
    detail = messages.take().strip()[-400:]
    if number == errno.EPERM:
        return CapabilityMissing(operation, subject, number, detail=detail, hint=hint or CAPABILITIES_HINT)
    return kind(operation, subject, number, detail=detail, hint=hint)


def checked(
    result: int,
    operation: str,
    subject: str,
    kind: type[KernelError] = KernelError,
    *,
    hint: str | None = None,
) -> int:
    """`result` when it is not negative; otherwise its typed error (libbpf 1.x returns -errno)."""
    if result >= 0:
        messages.kept.clear()
        return result
    raise failure(result, operation, subject, kind, hint=hint)
