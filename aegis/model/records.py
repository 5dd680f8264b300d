"""Records inside a block: events, flows, samples as positional CBOR, and back.

    record  = [type, dt_ns, field...]     dt_ns from the base of the block, signed
    process = [pid, start_ns, ppid, uid, gid, comm, exe, flags, args, args_total, cwd, cgroup, ancestors]
    cgroup  = [id, path, unit | null]     ancestor = [pid, start_ns, comm, exe]

What is absent is tag 60000 with the reason as text. Bytes of the kernel stay byte strings: text is made where JSON is.
Layouts only grow at the end. Native code writes the same bytes (`_native.processes`, `_native.flowtable`) and reads them
(`_native.transcode`); tests hold both to this table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

from msgspec import UNSET

from aegis.model.absent import Absent
from aegis.model.block import BlockClass, Encoded, head
from aegis.model.event import (
    AcceptEvent,
    ConnectEvent,
    Event,
    ExecEvent,
    ExitEvent,
    ListenEvent,
    LossEvent,
    VerdictEvent,
)
from aegis.model.flow import NO_NAME, Flow, flags_text, owner_keys
from aegis.model.flow import Verdict as FlowVerdict
from aegis.model.net import Direction, address_text, protocol_name
from aegis.model.process import Ancestor, Cgroup, Owner, OwnerLabel, Process, legible
from aegis.model.sample import Sample
from aegis.model.stamp import rfc3339

ABSENT_TAG = 60000
EXE_DELETED = 1
EXE_TRUNCATED = 2


class Layout(NamedTuple):
    """One type of record: its number, the class of its blocks, and its fields behind `type` and `dt_ns`."""

    number: int
    cls: BlockClass
    fields: tuple[str, ...]


_ENDS = ("protocol", "source", "source_port", "destination", "destination_port")
_SOCKET = ("owner", *_ENDS, "cookie", "error")

LAYOUTS: dict[str, Layout] = {
    "exec": Layout(1, BlockClass.EVENT, ("owner",)),
    "exit": Layout(2, BlockClass.EVENT, ("owner", "code", "signal", "duration_ns")),
    "connect": Layout(3, BlockClass.EVENT, _SOCKET),
    "accept": Layout(4, BlockClass.EVENT, _SOCKET),
    "listen": Layout(5, BlockClass.EVENT, _SOCKET),
    "verdict": Layout(
        6,
        BlockClass.VERDICT,
        (
            "owner", "verdict", "policy", "rule", "generation", "suppressed", *_ENDS, "direction", "interface",
            "fragment", "cookie",
        ),
    ),
    "loss": Layout(7, BlockClass.EVENT, ("stage", "kind", "reason", "count")),
    "flow": Layout(
        8,
        BlockClass.FLOW,
        (
            *_ENDS, "direction", "interface", "packets_sent", "bytes_sent", "packets_received", "bytes_received",
            "packets_dropped", "tcp_flags", "first_ns", "last_ns", "state", "fragment", "verdict", "policy", "rule",
            "generation", "owner",
        ),
    ),
    "sample": Layout(9, BlockClass.SAMPLE, ("name", "labels", "value", "unit", "kind", "source")),
    "finding": Layout(10, BlockClass.FINDING, ("content",)),
}  # fmt: skip
NAMES = {layout.number: name for name, layout in LAYOUTS.items()}

_EVENTS: dict[str, type[Event]] = {
    event.type: event
    for event in (ExecEvent, ExitEvent, ConnectEvent, AcceptEvent, ListenEvent, VerdictEvent, LossEvent)
}


# ---- into records


def encode(event: Event, base_ns: int) -> bytes:
    """The record of an event made in Python."""
    layout = LAYOUTS[event.type]
    return _dumps(
        [
            layout.number,
            event.time_ns - base_ns,
            *(_plain(getattr(event, field)) for field in layout.fields),
        ]
    )


def encode_sample(sample: Sample, base_ns: int) -> bytes:
    """The record of a sample."""
    value = Absent(sample.reason) if sample.reason is not None else sample.value
    return _dumps(
        [
            LAYOUTS["sample"].number,
            sample.time_ns - base_ns,
            sample.name,
            [[legible(part) for part in label] for label in sample.labels],
            _plain(value),
            sample.unit,
            sample.kind,
            sample.source,
        ]
    )


def encode_events(events: Iterable[Event], base_ns: int) -> tuple[Encoded, ...]:
    """Events made in Python, for the outbox: one run for each class there is, in the order they came."""
    by_class: dict[BlockClass, list[bytes]] = {}
    for event in events:
        by_class.setdefault(LAYOUTS[event.type].cls, []).append(encode(event, base_ns))
    return tuple(Encoded(cls, base_ns, len(group), b"".join(group)) for cls, group in by_class.items())


def encode_samples(samples: Sequence[Sample], base_ns: int) -> Encoded:
    """Samples of one reading as one run."""
    records = b"".join(encode_sample(each, base_ns) for each in samples)
    return Encoded(BlockClass.SAMPLE, base_ns, len(samples), records)


def process_fields(process: Process) -> list[Any]:
    """The fragment that stands for a process."""
    cgroup = process.cgroup
    return [
        process.pid,
        process.start_ns,
        _plain(process.ppid),
        process.uid,
        _plain(process.gid),
        _plain(process.comm),
        _plain(process.exe),
        EXE_DELETED * process.exe_deleted | EXE_TRUNCATED * process.exe_truncated,
        _plain(process.args),
        process.args_total,
        _plain(process.cwd),
        _plain(cgroup)
        if isinstance(cgroup, Absent)
        else [cgroup.id, legible(cgroup.path), cgroup.unit and legible(cgroup.unit)],
        [[each.pid, each.start_ns, _plain(each.comm), _plain(each.exe)] for each in process.ancestors],
    ]


def _dumps(record: list[Any]) -> bytes:
    import cbor2  # noqa: PLC0415  an agent whose events all come from the kernel never needs it

    return cbor2.dumps(record)


def _plain(value: object) -> object:
    if isinstance(value, Absent):
        import cbor2  # noqa: PLC0415

        return cbor2.CBORTag(ABSENT_TAG, legible(value.reason))
    if isinstance(value, Process):
        return process_fields(value)
    return legible(str(value)) if isinstance(value, str) else value  # members of a StrEnum too


# ---- and back


class EncodedEvents(Sequence[Event]):
    """The events of a run, made when somebody looks: each look makes them anew, `len` makes none.

    Looking raises ValueError when the run is not what this build can read.
    """

    __slots__ = ("encoded",)

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return self.encoded.count

    def __iter__(self) -> Iterator[Event]:
        base_ns = self.encoded.base_ns
        return (_event(record, base_ns) for record in loads(self.encoded))

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        base_ns = self.encoded.base_ns
        if isinstance(index, slice):
            return [_event(record, base_ns) for record in loads(self.encoded)[index]]
        return _event(loads(self.encoded)[index], base_ns)


def loads(encoded: Encoded) -> list[list[Any]]:
    """The records as lists of plain values. Raises ValueError when they are not `count` CBOR arrays."""
    import io  # noqa: PLC0415

    import cbor2  # noqa: PLC0415

    stream = io.BytesIO(head(0x80, encoded.count) + encoded.records)
    try:
        found = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise ValueError(f"records: {error}") from error
    if stream.read(1) or not all(type(record) is list and len(record) >= 2 for record in found):
        raise ValueError("records: not as many arrays of a type, an instant and fields as there should be")
    return list(found)


def read_owner(fragment: bytes) -> Owner:
    """The process or label that a fragment stands for. Raises ValueError for what nobody writes."""
    import cbor2  # noqa: PLC0415

    try:
        return _owner(cbor2.loads(fragment))
    except (cbor2.CBORDecodeError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"owner: {error}") from error


def decode(record: Sequence[Any], base_ns: int) -> Event | Flow | Sample | dict[str, Any]:
    """What a record stands for; a finding is the object its JSON is. Raises ValueError for what nobody writes."""
    name = NAMES.get(record[0])
    if name in _EVENTS:
        return _event(record, base_ns)
    if name is None:
        raise ValueError(f"no record has the type {record[0]!r}")
    fields = _fields(name, record)
    time_ns = base_ns + record[1]
    if name == "flow":
        return _flow(fields, time_ns)
    if name == "sample":
        return _sample(fields, time_ns)
    return {
        "schema": "aegis.finding",
        "version": 1,
        "time": rfc3339(time_ns),
        "time_ns": time_ns,
        **fields["content"],
    }


def _fields(name: str, record: Sequence[Any]) -> dict[str, Any]:
    names = LAYOUTS[name].fields
    if len(record) < 2 + len(names):
        raise ValueError(f"a record of {len(record)} members is no {name}")
    return dict(zip(names, record[2:], strict=False))  # what stands behind them a later version has added


def _event(record: Sequence[Any], base_ns: int) -> Event:
    name = NAMES.get(record[0], "")
    if name not in _EVENTS:
        raise ValueError(f"a record of the type {record[0]!r} is no event")
    try:
        fields = _fields(name, record)
        values = {field: _TAKEN.get(field, _known)(value) for field, value in fields.items()}
        return _EVENTS[name](time_ns=base_ns + record[1], **values)
    except (TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _known(value: Any) -> Any:
    """A plain value; the tag becomes the reason it carries."""
    return Absent(value.value) if getattr(value, "tag", None) == ABSENT_TAG else value


def _owner(value: Any) -> Owner:
    if isinstance(value, str):
        return OwnerLabel(value)
    (
        pid, start_ns, ppid, uid, gid, comm, exe, flags, args, args_total, cwd, cgroup, ancestors,
    ) = value[:13]  # fmt: skip
    cgroup = _known(cgroup)
    return Process(
        pid=pid,
        start_ns=start_ns,
        ppid=_known(ppid),
        uid=uid,
        gid=_known(gid),
        comm=_known(comm),
        exe=_known(exe),
        exe_deleted=bool(flags & EXE_DELETED),
        exe_truncated=bool(flags & EXE_TRUNCATED),
        args=_known(args),
        args_total=args_total,
        cwd=_known(cwd),
        cgroup=cgroup if isinstance(cgroup, Absent) else Cgroup(id=cgroup[0], path=cgroup[1], unit=cgroup[2]),
        ancestors=tuple(
            Ancestor(pid=each[0], start_ns=each[1], comm=_known(each[2]), exe=_known(each[3]))
            for each in ancestors
        ),
    )


_TAKEN: dict[str, Callable[[Any], Any]] = {
    "owner": _owner,
    "verdict": FlowVerdict,
    "direction": Direction,
}


def _flow(fields: dict[str, Any], time_ns: int) -> Flow:
    owner = _known(fields["owner"])
    named: dict[str, Any] = {}
    for name in ("interface", "policy", "rule"):
        value = _known(fields[name])
        named[name] = None if isinstance(value, Absent) else value
        named[f"{name}_reason"] = value.reason if isinstance(value, Absent) else UNSET
    same = (
        "packets_sent", "bytes_sent", "packets_received", "bytes_received", "packets_dropped", "first_ns", "last_ns",
        "state", "fragment", "verdict", "generation", "direction",
    )  # fmt: skip
    flags = _known(fields["tcp_flags"])
    return Flow(
        time=rfc3339(time_ns),
        time_ns=time_ns,
        protocol=protocol_name(fields["protocol"]),
        src=address_text(fields["source"]),
        src_port=fields["source_port"],
        dst=address_text(fields["destination"]),
        dst_port=fields["destination_port"],
        tcp_flags=None if isinstance(flags, Absent) else flags_text(flags),
        tcp_flags_reason=flags.reason if isinstance(flags, Absent) else UNSET,
        name=None,
        name_reason=NO_NAME,
        **{name: fields[name] for name in same},
        **named,
        **owner_keys(owner if isinstance(owner, Absent) else _owner(owner)),
    )


def _sample(fields: dict[str, Any], time_ns: int) -> Sample:
    value = _known(fields["value"])
    absent = isinstance(value, Absent)
    return Sample(
        name=fields["name"],
        labels=tuple((key, text) for key, text in fields["labels"]),
        value=None if absent else value,
        reason=value.reason if absent else None,
        unit=fields["unit"],
        kind=fields["kind"],
        source=fields["source"],
        time_ns=time_ns,
    )
