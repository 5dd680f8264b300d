"""The configuration while it runs: read again on SIGHUP, changed by an order, remembered over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

from aegis.agent.remembered import origin, remember
from aegis.errors import ConfigError, RestartNeeded
from aegis.runtime import log as logging
from aegis.runtime.config import Configuration, OptionTable, Setting, from_text
from aegis.runtime.module import Health, Log
from aegis.runtime.settings import Settings, Value
from aegis.runtime.supervisor import Supervisor

ORIGIN = "modules config"
MOST_CHANGES = 64  # of one order; no module has as many options
SHOWN = 128  # characters of a path that is no option


class Options:
    """The one owner of the configuration in force. `read` reads every source again and raises ConfigError."""

    def __init__(
        self,
        configuration: Configuration,
        read: Callable[[], Configuration],
        state_dir: str,
        health: Health,
        log: Log,
    ) -> None:
        self._now = configuration
        self._started = configuration  # what the options that are taken at a start are worth in this process
        self._read = read
        self._state_dir = state_dir
        self._health = health
        self._log = log
        self._overrides: dict[str, Setting] = {}
        self._changing = asyncio.Lock()

    def values(self) -> tuple[Setting, ...]:
        """Every option, by path."""
        return self._now.values()

    def table(self, name: str) -> Settings:
        return self._now.table(name)

    def of_module(self, name: str) -> Settings | None:
        """A module's options as it gets them; None where its config.py is broken."""
        if f"modules.{name}" in self._now.options.opaque:
            return None
        settings = self._now.table(f"modules.{name}")
        chosen = self._now["agent.modules"].value
        if isinstance(chosen, tuple) and name not in chosen:
            values = {one: settings[one] for one in settings.names()}
            return Settings(settings.table, values | {"enabled": False})
        return settings

    def remember(self, module: str, *, enabled: bool) -> None:
        """Keep an order over restarts; from now on it is what the option says. Raises StorageError."""
        remember(self._state_dir, module, enabled=enabled)
        path = f"modules.{module}.enabled"
        setting = Setting(path=path, value=enabled, origin=origin(self._state_dir))
        self._now = self._now.with_settings({path: setting})

    async def override(self, supervisor: Supervisor, module: str, changes: Mapping[str, object]) -> None:
        """Give options of a module other values until the process ends. Raises ConfigError and changes nothing."""
        if len(changes) > MOST_CHANGES:
            text = f"{len(changes)} options at once; at most {MOST_CHANGES} may be given"
            raise ConfigError(((f"modules.{module}", ORIGIN, text),))
        table = self._now.options
        problems: list[tuple[str, str, str]] = []
        taken: dict[str, Setting] = {}
        late = 0  # of the problems: options of the agent that are taken at a start
        for name, value in changes.items():
            path = f"modules.{module}.{name}"
            option = table.by_path.get(path)
            if option is None:
                problems.append((path[:SHOWN], ORIGIN, self._unknown(path, name)))
                late += self._at_start(name) is not None
                continue
            if name == "enabled":
                problems.append((path, ORIGIN, "is set by modules enable and modules disable"))
                continue
            plain = from_text(option, value) if isinstance(value, str) else value
            problem = option.problem(plain)
            if problem:
                problems.append((path, ORIGIN, problem))
            else:
                kept = tuple(plain) if isinstance(plain, list) else plain
                taken[path] = Setting(path=path, value=cast("Value", kept), origin=ORIGIN)
        if problems:
            raise (RestartNeeded if late == len(problems) else ConfigError)(tuple(problems))
        async with self._changing:
            self._overrides |= taken
            await self._take(supervisor, self._now.with_settings(taken))

    def _unknown(self, path: str, name: str) -> str:
        """What to say of an option that is none of the module's."""
        other = self._at_start(name)
        if other is not None:
            return f"is {other}, an option of the whole agent that is taken at its start: no order changes it"
        return self._now.options.unknown(path)

    def _at_start(self, name: str) -> str | None:
        """The option outside of all modules that somebody means by its path or the last part of it, and no order changes."""
        table = self._now.options
        for path in table.by_path:
            if not path.startswith("modules.") and name in {path, path.partition(".")[2]}:
                return None if _live(table, path) else path
        return None

    async def reload(self, supervisor: Supervisor | None) -> None:
        """Read every source again (SIGHUP): take the whole if it is valid, else nothing."""
        async with self._changing:
            try:
                fresh = self._read()
            except ConfigError as error:
                for path, origin, text in error.problems:
                    self._log.warning("configuration problem", option=path, origin=origin, text=text)
                self._health.raise_("config_refused", str(error))
                return
            self._health.clear("config_refused")
            await self._take(supervisor, fresh.with_settings(self._overrides))

    async def _take(self, supervisor: Supervisor | None, fresh: Configuration) -> None:
        before, self._now = self._now, fresh
        changed = before.changes(fresh)
        self._log.info("configuration read", changed=list(changed))
        if "log.level" in changed:
            logging.set_level(fresh.table("log").text("level"))
        late = [
            path
            for path in self._started.changes(fresh)
            if not path.startswith("modules.") and not _live(fresh.options, path)
        ]
        if late:
            self._health.raise_("restart_needed", f"changed, and taken at the next start: {', '.join(late)}")
        else:
            self._health.clear("restart_needed")
        for name in supervisor.names() if supervisor is not None else ():
            prefix = f"modules.{name}."
            own = frozenset(path.removeprefix(prefix) for path in changed if path.startswith(prefix))
            if own and supervisor is not None:
                await self._take_module(supervisor, name, own)

    async def _take_module(self, supervisor: Supervisor, name: str, changed: frozenset[str]) -> None:
        settings = self.of_module(name)
        if settings is None:
            return
        if "enabled" in changed:
            order = supervisor.enable if settings.boolean("enabled") else supervisor.disable
            await order(name)
        others = changed - {"enabled"}
        if others:
            live = frozenset(one for one in others if _live(self._now.options, f"modules.{name}.{one}"))
            await supervisor.configure(name, others, live)


def _live(table: OptionTable, path: str) -> bool:
    option = table.by_path.get(path)
    return option is not None and option.reload == "live"
