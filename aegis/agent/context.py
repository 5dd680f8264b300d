"""What a module is lent: the agent's surfaces in the module's own name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from aegis.agent.control.verbs import Handler, Stream, Verbs
from aegis.runtime.counters import Counters
from aegis.runtime.module import (
    Bus,
    Clock,
    Enforcer,
    FlowSource,
    Health,
    History,
    Log,
    Owners,
    Samples,
    Uplink,
)
from aegis.runtime.settings import Settings


@dataclass(slots=True, kw_only=True)
class ModuleContext:
    """Fulfils `runtime.module.Context`."""

    name: str
    config: Settings
    bus: Bus
    enforcer: Enforcer
    flows: FlowSource
    owners: Owners
    host: Any
    clock: Clock
    health: Health
    history: History
    samples: Samples
    uplink: Uplink
    log: Log
    agent_pid: int
    verbs: Verbs
    counters: Counters

    def answer(self, verb: str, handler: Handler) -> AbstractContextManager[None]:
        return self.verbs.answer(verb, handler)

    def stream(self, verb: str, stream: Stream) -> AbstractContextManager[None]:
        return self.verbs.stream(verb, stream)

    def count(
        self, identity: str, read: Callable[[], Mapping[str, Mapping[str, int]]]
    ) -> AbstractContextManager[None]:
        return self.counters.count(identity, read)
