"""Orders about modules, from whoever may give them: one path for the control socket and for a gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from aegis.agent.options import Options
from aegis.errors import ModuleDisabled
from aegis.model.module import ModuleState, ModuleStatus
from aegis.runtime.config import Setting
from aegis.runtime.supervisor import Supervisor

Order = Literal["start", "stop", "enable", "disable"]
ORDERS: tuple[Order, ...] = ("start", "stop", "enable", "disable")


class ModuleOrders:
    """Each call returns after the change, with what is true then. A module nobody knows is ModuleUnknown."""

    def __init__(self, supervisor: Supervisor, options: Options) -> None:
        self._supervisor = supervisor
        self._options = options

    def statuses(self) -> tuple[ModuleStatus, ...]:
        return self._supervisor.statuses()

    def status(self, name: str) -> ModuleStatus:
        return self._supervisor.status(name)

    async def give(self, order: Order, name: str) -> ModuleStatus:
        """Enable and disable are remembered over restarts, before they are carried out. Raises StorageError.

        A disabled module is started by `enable` alone, else ModuleDisabled; and it stays disabled when it is stopped.
        """
        supervisor = self._supervisor
        now = supervisor.status(name)  # ModuleUnknown before anything is remembered
        if now.state is ModuleState.DISABLED and order == "stop":
            return now
        if now.state is ModuleState.DISABLED and order == "start":
            raise ModuleDisabled(
                f"{name} is disabled ({now.reason}), and is not started by this order",
                hint="an order to enable it starts it, and is remembered: aegis modules enable",
            )
        match order:
            case "enable" | "disable":
                self._options.remember(name, enabled=order == "enable")
                return await (supervisor.enable(name) if order == "enable" else supervisor.disable(name))
            case "start":
                return await supervisor.start(name)
            case "stop":
                return await supervisor.stop(name)

    async def configure(self, name: str, changes: Mapping[str, object]) -> Sequence[Setting]:
        """Other values until the process ends; the module's options now. Raises ConfigError and changes nothing."""
        self._supervisor.status(name)
        if changes:
            await self._options.override(self._supervisor, name, changes)
        return self.options(name)

    def options(self, name: str) -> Sequence[Setting]:
        self._supervisor.status(name)
        prefix = f"modules.{name}."
        return [one for one in self._options.values() if one.path.startswith(prefix)]
