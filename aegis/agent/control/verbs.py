"""The verbs of the control socket: one table, and who answers each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from aegis.errors import EnvelopeInvalid, ModuleError

Handler = Callable[[dict[str, Any]], Awaitable[Sequence[object]]]
Stream = Callable[[dict[str, Any]], AsyncGenerator[object, None]]


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `changes` ones are root's, as are others where one of `changing_args` is given.

    `args` names what may be given, with the type of each.
    """

    name: str
    help: str
    args: dict[str, type] = {}
    required: tuple[str, ...] = ()
    changes: bool = False
    changing_args: tuple[str, ...] = ()

    def changes_with(self, args: Mapping[str, object]) -> bool:
        """Whether a request with these arguments is an order, not a question."""
        return self.changes or any(name in args for name in self.changing_args)


VERBS: tuple[Verb, ...] = (
    Verb(name="status", help="What runs, what is enforced, what is missing."),
    Verb(name="doctor", help="Every feature of the kernel, with the effect of its absence."),
    Verb(
        name="events",
        help="The last events, and with follow those to come.",
        args={"follow": bool, "types": list, "last": int, "since": int},
    ),
    Verb(
        name="flows",
        help="Every flow known, read now; with last only so many, those seen latest.",
        args={"last": int},
    ),
    Verb(name="counters", help="Every conservation identity, read now."),
    Verb(
        name="policy.check",
        help="Whether a document could be applied.",
        args={"document": str, "path": str},
        required=("document",),
    ),
    Verb(
        name="policy.apply",
        help="Put a document in force; with confirm_within_ms, until then on trial.",
        args={"document": str, "path": str, "confirm_within_ms": int},
        required=("document",),
        changes=True,
    ),
    Verb(name="policy.confirm", help="End the trial: what is on trial stays.", changes=True),
    Verb(name="policy.rollback", help="Undo the trial, or bring back the set before.", changes=True),
    Verb(name="policy.history", help="The sets that were in force, and the one that is."),
    Verb(name="policy.export", help="The documents in force.", args={"name": str}),
    Verb(
        name="policy.diff",
        help="What a document would change of the policy of its name.",
        args={"document": str, "path": str},
        required=("document",),
    ),
    Verb(name="policy.list", help="Policies in force."),
    Verb(
        name="policy.explain",
        help="Which rule decides about a five-tuple.",
        args={
            "protocol": str,
            "src": str,
            "src_port": int,
            "dst": str,
            "dst_port": int,
            "direction": str,
        },
        required=("protocol",),
    ),
    Verb(
        name="policy.remove",
        help="Take a policy out of force.",
        args={"name": str},
        required=("name",),
        changes=True,
    ),
    Verb(name="modules.list", help="Every module with state and reason."),
    Verb(name="modules.start", help="Start a module.", args={"name": str}, required=("name",), changes=True),
    Verb(name="modules.stop", help="Stop a module.", args={"name": str}, required=("name",), changes=True),
    Verb(
        name="modules.enable",
        help="Start a module, also at the next start.",
        args={"name": str},
        required=("name",),
        changes=True,
    ),
    Verb(
        name="modules.disable",
        help="Stop a module, also at the next start.",
        args={"name": str},
        required=("name",),
        changes=True,
    ),
    Verb(
        name="modules.config",
        help="A module's options; with `set`, other values from now to the end of the process.",
        args={"name": str, "set": dict},
        required=("name",),
        changing_args=("set",),
    ),
    Verb(name="config.show", help="Every option with value and origin."),
    Verb(name="samples", help="The newest sample of each measured thing."),
)


class Verbs:
    """Who answers which verb. A verb of the table that nobody answers now is named as such."""

    def __init__(self, table: Sequence[Verb] = VERBS) -> None:
        self._table = {verb.name: verb for verb in table}
        self._streams: dict[str, Stream] = {}

    @contextmanager
    def answer(self, name: str, handler: Handler) -> Iterator[None]:
        """Answer `name` until the context ends. A module may bring a verb of its own: a reading one, any arguments."""
        with self.stream(name, _once(handler)):
            yield

    @contextmanager
    def stream(self, name: str, stream: Stream) -> Iterator[None]:
        """As `answer`, item by item."""
        if name in self._streams:
            raise LookupError(f"verb {name} is answered already")
        self._streams[name] = stream
        try:
            yield
        finally:
            del self._streams[name]

    def find(self, name: str, args: dict[str, Any]) -> tuple[Verb, Stream]:
        """Raises EnvelopeInvalid: no such verb, an argument missing, unknown or of another type."""
        verb = self._table.get(name)
        stream = self._streams.get(name)
        if verb is None:
            if stream is None:
                known = ", ".join(self._table)
                raise EnvelopeInvalid(f"there is no verb {name[:80]!r}", hint=f"verbs: {known}")
            return Verb(name=name, help=""), stream
        check(verb, args)
        if stream is None:
            raise ModuleError(f"nobody answers {name} now", hint="aegis modules list shows what runs")
        return verb, stream


def check(verb: Verb, args: dict[str, Any]) -> None:
    """Raises EnvelopeInvalid that names every wrong argument."""
    wrong = [f"{name} is missing" for name in verb.required if name not in args]
    for name, value in args.items():
        kind = verb.args.get(name)
        if kind is None:
            wrong.append(f"{name[:80]} is unknown")
        elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            wrong.append(f"{name} must be {_NOUNS[kind]}")
    if wrong:
        takes = ", ".join(verb.args) or "none"
        raise EnvelopeInvalid(f"{verb.name}: {'; '.join(wrong)}", hint=f"arguments of {verb.name}: {takes}")


_NOUNS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}


def _once(handler: Handler) -> Stream:
    async def stream(args: dict[str, Any]) -> AsyncGenerator[object, None]:
        for item in await handler(args):
            yield item

    return stream
