"""What an operator ordered and the next start must know: which modules are enabled or disabled.

STATE_DIR/modules.json, `{"enabled": {NAME: true|false}}`, mode 0600, replaced by rename.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from aegis.errors import StorageError
from aegis.runtime.settings import Value

FILE = "modules.json"
MAX_BYTES = 1 << 16


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content."""

    enabled: dict[str, bool] = {}


def read(state_dir: str) -> Remembered:
    """Nothing, where there is no file or none that can be read: an unreadable one is left as it is."""
    try:
        number = os.open(os.path.join(state_dir, FILE), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=Remembered)
    except (OSError, msgspec.DecodeError):
        return Remembered()


def origin(state_dir: str) -> str:
    """Where a remembered value says it comes from: the file."""
    return os.path.join(state_dir, FILE)


def remembered(state_dir: str) -> dict[str, tuple[str, Value]]:
    """As `runtime.config.load` takes it."""
    where = origin(state_dir)
    return {
        f"modules.{name}.enabled": (where, enabled)
        for name, enabled in sorted(read(state_dir).enabled.items())
    }


def remember(state_dir: str, module: str, *, enabled: bool) -> None:
    """Raises StorageError; then nothing has changed."""
    content = Remembered(enabled={**read(state_dir).enabled, module: enabled})
    path = origin(state_dir)
    fresh = f"{path}.new"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(content))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise StorageError(f"{path}: {error.strerror}") from error
