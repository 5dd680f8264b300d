"""The contract of a module, and the surfaces the agent lends it.

A module is a folder `aegis/modules/NAME`:

- `module.py` has exactly one class that fulfils `Module`. Importing it has no effect; constructing it does no I/O;
  `run` acquires what it needs in an exit stack, calls `ready()`, works until it is cancelled, and releases.
- `config.py` has `OPTIONS: tuple[Option, ...]`, names relative to `modules.NAME`. `enabled`, which every module has,
  is added by the runtime.

Its state belongs to the supervisor. A module that raises in `run` is restarted with back-off and, after five times in
ten minutes, left `failed`. A module that runs with less than it should raises a condition (`context.health`) and is
shown as `degraded` while the condition holds. Everything here is called on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from aegis.runtime.settings import Option, Settings

if TYPE_CHECKING:
    from aegis.model.event import Event
    from aegis.model.flow import Owner
    from aegis.model.policy import AppliedPolicy, EnforcementState, Explanation, PolicyReport, Probe, RuleName
    from aegis.model.sample import Sample

__all__ = [
    "Bus",
    "Clock",
    "Context",
    "Enforcer",
    "FlowSource",
    "Harvest",
    "Health",
    "History",
    "Log",
    "Module",
    "Option",
    "Owners",
    "Samples",
    "Settings",
    "Subscription",
    "Uplink",
]


class Subscription(Protocol):
    """One reader's bounded queue of a topic. Async iteration ends when it is closed; leaving `with` closes it."""

    dropped: int  # items that found the queue full, since the subscription began

    def __aiter__(self) -> AsyncIterator[Any]: ...
    def get_nowait(self) -> Any | None:
        """The oldest waiting item, or None."""

    def close(self) -> None:
        """Stop. Twice is harmless."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class Listening(Protocol):
    """One listener of a topic, until it is closed or raises; leaving `with` closes it."""

    async def watch(self) -> None:
        """Until it is closed. Raises what the listener raised; nothing is handed to it from then on."""

    def close(self) -> None:
        """Stop. Twice is harmless."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class Bus(Protocol):
    """Topics inside the process (names and items: `runtime/topics.py`). Publishing never waits."""

    def subscribe(
        self, topic: str, *, capacity: int, full: Literal["drop_oldest", "drop_newest"] = "drop_newest"
    ) -> Subscription:
        """Begin to listen. The first listener of a sensor's topic loads the sensor: KernelError when that fails."""

    def listen(self, topic: str, take: Callable[[Any], None]) -> Listening:
        """As `subscribe`, for who takes an item in the publisher's turn: `take` is quick and never waits."""

    def publish(self, topic: str, item: object) -> None:
        """Hand `item` to every listener of `topic`; a listener whose queue is full counts a drop."""

    def listeners(self, topic: str) -> int:
        """How many there are now, for those to whom an item costs something to make."""


class Clock(Protocol):
    """The only source of time. Deadlines are monotonic; the wall clock is a label."""

    def monotonic_ns(self) -> int: ...
    def boottime_ns(self) -> int:
        """CLOCK_BOOTTIME, the clock of every record of the kernel."""

    def wall_ns(self) -> int: ...
    def wall_of(self, boottime_ns: int) -> int:
        """The wall clock, in ns since 1970, of an instant on the boot clock."""

    def cpu_ns(self) -> int:
        """CPU time of this process, user and system, all threads."""

    async def sleep(self, seconds: float) -> None: ...


class Health(Protocol):
    """Raises and clears conditions in the module's own name; all are cleared when the module ends."""

    def raise_(self, code: str, text: str, hint: str = "") -> None:
        """Say that something is missing or wrong now. Raising the same code again replaces the text."""

    def clear(self, code: str) -> None:
        """Say that it no longer holds. Clearing what is not raised is harmless."""

    def raised(self) -> tuple[str, ...]:
        """Codes that hold now."""


class History(Protocol):
    """The last events (10,000 by default) and their followers."""

    def append(self, events: Sequence[Event]) -> None:
        """Add a batch, oldest first, and publish it on the topic `event`.

        The sequence is kept as it is and read only when somebody asks, so a lazy one stays lazy. It must not change.
        """


class Samples(Protocol):
    """The newest sample of each measured thing."""

    def publish(self, samples: tuple[Sample, ...]) -> None:
        """Replace the latest samples by these, and publish them on the topic `sample`."""

    def latest(self) -> tuple[Sample, ...]: ...


class Harvest(Protocol):
    """What one reading of the flow table found."""

    @property
    def at_ns(self) -> int:
        """CLOCK_BOOTTIME of the reading."""

    @property
    def changed(self) -> int:
        """Flows that had packets since the harvest before."""

    @property
    def flows(self) -> int:
        """Flows known, those that are over and not yet forgotten too."""


class SocketOwner(Protocol):
    """What the kernel's own table says of an owner id: the process as it was when it made or connected the socket."""

    @property
    def pid(self) -> int | None: ...
    @property
    def start_ns(self) -> int | None:
        """CLOCK_BOOTTIME; None, as all that follows, where the kernel has forgotten it."""

    @property
    def uid(self) -> int | None: ...
    @property
    def cgroup_id(self) -> int | None: ...
    @property
    def comm(self) -> bytes | None: ...


class FlowRows(Protocol):
    """Rows of one harvest. Harvests that come later do not change them."""

    def __len__(self) -> int: ...
    def part(self, start: int, length: int) -> Sequence[tuple[Any, ...]]:
        """Up to `length` rows from `start` on."""


class FlowSource(Protocol):
    """The kernel's flow table as last read. Rows are tuples in header order; `FlowTable.rows` says which."""

    @property
    def available(self) -> bool:
        """False while no flow program is attached."""

    def harvest(self) -> Harvest:
        """Read the table now, reap what is closed or idle, and publish the result on the topic `flow`."""

    @property
    def table(self) -> Any:
        """The `aegis._native.flowtable.FlowTable` itself, for native code that reads what is due from it."""

    def rows(self) -> Sequence[tuple[Any, ...]]:
        """Every flow known, as of the last harvest."""

    def snapshot(self, last: int | None = None) -> FlowRows:
        """As `rows`, but compact and to be read in parts; with `last`, only so many, those seen latest first."""

    def owner(self, owner: int) -> SocketOwner | None:
        """What the kernel says of an owner id; None while no flow program is attached or the table cannot be read."""


class Owners(Protocol):
    """Who an owner id of the flow table is. The module that watches processes answers; others ask."""

    def provide(self, look_up: Callable[[int], Owner | None]) -> AbstractContextManager[None]:
        """Answer look-ups until the context ends."""

    def find(self, owner: int) -> Owner | None:
        """The owner, or None when nobody knows it."""


class Enforcer(Protocol):
    """The policies of this host. A refused document changes nothing."""

    def check(self, document: bytes, name: str = "<document>") -> PolicyReport:
        """Whether the document could be applied. Raises PolicyInvalid or PolicyUnenforceable."""

    def apply(self, document: bytes, name: str = "<document>") -> AppliedPolicy:
        """Make it part of the set and switch the kernel to the new set. Raises as `check`, and KernelError."""

    def remove(self, name: str) -> AppliedPolicy:
        """Take one policy out. Raises PolicyNotFound."""

    def list(self) -> tuple[AppliedPolicy, ...]: ...
    def explain(self, probe: Probe) -> Explanation:
        """Which rule decides about a packet, and how the decision was reached."""

    def rule(self, generation: int, rule: int) -> RuleName | None:
        """What a record or flow means by its rule number (rank + 1) under that generation; None when forgotten."""

    def state(self) -> EnforcementState: ...


class Uplink(Protocol):
    """The agent's link to its gateway; one module owns when there is one."""

    async def keep(self, settings: Settings, health: Health) -> None:
        """Keep it until cancelled, and close it with a reason then. What is wrong with it becomes conditions.

        Without a gateway it waits, and does nothing. `settings` are those of `modules.websocket_communication`.
        """


class Log(Protocol):
    """Structured log: an event name in words, and fields. Never put a secret into a field."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


class Context(Protocol):
    """All a module gets. Everything else it would reach is another room's."""

    name: str
    config: Settings
    bus: Bus
    enforcer: Enforcer
    flows: FlowSource
    owners: Owners
    host: Any  # aegis.host.reader.Host; a module declares the Protocol of the part it reads
    clock: Clock
    health: Health
    history: History
    samples: Samples
    uplink: Uplink
    log: Log
    agent_pid: int

    def answer(
        self, verb: str, handler: Callable[[dict[str, Any]], Awaitable[Sequence[object]]]
    ) -> AbstractContextManager[None]:
        """Answer a verb of the control socket until the context ends: arguments in, items out."""

    def stream(
        self, verb: str, stream: Callable[[dict[str, Any]], AsyncGenerator[object, None]]
    ) -> AbstractContextManager[None]:
        """As `answer`, item by item: for answers too long to be made in one go."""

    def count(
        self, identity: str, read: Callable[[], Mapping[str, Mapping[str, int]]]
    ) -> AbstractContextManager[None]:
        """Add conservation identities to `counters` until the context ends.

        `read` gives, by stage, each term by name; `identity` (`taken = kept + dropped; kept = sent`) must hold of
        every one of these stages and is what `balanced` is computed from.
        """


@runtime_checkable
class Module(Protocol):
    """What `module.py` exports. `requires` names features of the kernel room without which `run` makes no sense."""

    name: str
    requires: tuple[str, ...]

    def __init__(self, context: Context) -> None: ...
    async def run(self, ready: Callable[[], None]) -> None: ...
