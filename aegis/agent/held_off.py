"""Modules that held the loop until the agent had to start again: how often, and until when each is held off.

STATE_DIR/spun.json, mode 0600, replaced durably. The pause doubles from a minute to an hour; an order to start a module
forgets it all. What cannot be written is handed to the next start in the environment, so that no failing disk makes
the agent start again and again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import MutableMapping, Sequence
from typing import Final

import msgspec

from aegis.agent import private_file
from aegis.errors import StorageError
from aegis.runtime.spin import Spin

FILE: Final = "spun.json"
VARIABLE: Final = "_AEGIS_SPUN"
MAX_BYTES: Final = 1 << 16
FIRST_S: Final = 60.0
LONGEST_S: Final = 3600.0
AGENT: Final = "agent"  # where it was no module's code; the agent itself cannot be held off


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One module. Instants are wall clock nanoseconds; `hold_s` is the pause in force from `spun_ns`."""

    times: int
    spun_ns: int
    hold_s: float
    where: str
    seconds: float

    def left_s(self, now_ns: int) -> float:
        """Of the pause; 0 when it is over. A wall clock that was set back does not make it longer."""
        return min(max(0.0, self.hold_s - (now_ns - self.spun_ns) / 1e9), self.hold_s)


class Interrupted(msgspec.Struct, frozen=True, kw_only=True):
    """An order that was under way; `module` is empty where it is about none."""

    command_id: str
    module: str = ""
    policy: bool = False


class _File(msgspec.Struct, frozen=True, kw_only=True):
    modules: dict[str, Held] = {}


class _Handed(_File, frozen=True, kw_only=True):
    """What goes by the environment."""

    orders: tuple[Interrupted, ...] = ()


class HeldOff:
    """What the file and the agent before this one say. One thread at a time."""

    def __init__(self, state_dir: str, environ: MutableMapping[str, str] | None = None) -> None:
        self._path = os.path.join(state_dir, FILE)
        self._environ = os.environ if environ is None else environ
        self.problem = ""  # why the file could not be read or written
        try:
            found = _decoded(private_file.read(self._path, MAX_BYTES))
        except StorageError as error:
            self.problem = str(error)
            found = _Handed()
        handed = _decoded(self._environ.pop(VARIABLE, "").encode())
        self._modules = found.modules | handed.modules
        self.just = frozenset(handed.modules)  # why this start is one
        self.interrupted = handed.orders

    def of(self, module: str) -> Held | None:
        return self._modules.get(module)

    def all(self) -> dict[str, Held]:
        return dict(self._modules)

    def add(self, spin: Spin, now_ns: int, orders: Sequence[Interrupted] = ()) -> Held:
        """Remember one more; its pause. Raises nothing: what the disk refuses goes by the environment.

        `orders` are for the next start alone, which answers them; of more than the environment holds the last are dropped.
        """
        name = spin.module or AGENT
        before = self._modules.get(name)
        held = Held(
            times=1 if before is None else before.times + 1,
            spun_ns=now_ns,
            hold_s=FIRST_S if before is None else min(2 * before.hold_s, LONGEST_S),
            where=spin.where,
            seconds=spin.seconds,
        )
        self._modules[name] = held
        self._write()
        while (
            len(text := msgspec.json.encode(_Handed(modules={name: held}, orders=tuple(orders)))) > MAX_BYTES
        ):
            orders = orders[: len(orders) // 2]
        self._environ[VARIABLE] = text.decode()
        return held

    def forget(self, module: str) -> None:
        """An operator wants it to run."""
        if self._modules.pop(module, None) is not None:
            self._write()

    def _write(self) -> None:
        self.problem = ""
        try:
            private_file.replace(self._path, msgspec.json.encode(_File(modules=self._modules)))
        except StorageError as error:
            self.problem = str(error)


def _decoded(content: bytes | None) -> _Handed:
    """Nothing, where it cannot be read: then nothing is held off."""
    with contextlib.suppress(msgspec.DecodeError):
        if content:
            return msgspec.json.decode(content, type=_Handed)
    return _Handed()
