"""What is known of a module: its state, why, and since when."""

from __future__ import annotations

import enum

import msgspec


class ModuleState(enum.StrEnum):
    """The states of a module. They belong to the supervisor; a module never sets its own."""

    DECLARED = "declared"  # found, not started yet
    STARTING = "starting"  # running, has not said ready
    RUNNING = "running"
    DEGRADED = "degraded"  # running with a condition of its own raised
    STOPPING = "stopping"
    STOPPED = "stopped"  # by an order
    FAILED = "failed"
    DISABLED = "disabled"  # by configuration


class ModuleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One module as `modules list` and `status` show it; `since_ns` is the wall clock of the last change of state."""

    name: str
    state: ModuleState
    reason: str
    since_ns: int
    restarts: int
