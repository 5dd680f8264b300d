"""Events: typed facts that leave the host, and their JSON (`aegis.event`).

An event is made for each record and read by few, so it holds references and bytes; text is made in `document`, at most
once for each reader. `encode` gives one JSON object: the keys every object has, the keys of a process, the keys of the
type. What is absent is null beside `<name>_reason`.
"""

from __future__ import annotations

from errno import errorcode
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from aegis.model.absent import Absent
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_text, protocol_name
from aegis.model.process import Owner, OwnerLabel, Process, readable
from aegis.model.stamp import rfc3339

VERSION = 1
NO_NAME = Absent("no sensor of names is built yet")
RESULTS = {0: "established", **errorcode}
NO_PEER = Absent("a listening socket has no peer")
NO_UNIT = Absent("no part of the cgroup's path is a systemd unit")
TYPES = ("exec", "exit", "connect", "accept", "listen", "verdict", "loss")

Reason = str | UnsetType
Known = TypeVar("Known", int, str)


class AncestorDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One member of `ancestors`."""

    pid: int
    start_ns: int
    comm: str | None
    comm_reason: Reason = UNSET
    exe: str | None
    exe_reason: Reason = UNSET


class Document(msgspec.Struct, frozen=True, kw_only=True, tag="aegis.event", tag_field="schema"):
    """Keys every event has."""

    version: int = VERSION
    time: str
    time_ns: int
    type: str


class ProcessDocument(Document, frozen=True, kw_only=True, tag="aegis.event", tag_field="schema"):
    """Keys of an event that a process caused."""

    pid: int | None
    pid_reason: Reason = UNSET
    start_ns: int | None
    start_ns_reason: Reason = UNSET
    ppid: int | None
    ppid_reason: Reason = UNSET
    uid: int | None
    uid_reason: Reason = UNSET
    comm: str | None
    comm_reason: Reason = UNSET
    exe: str | None
    exe_reason: Reason = UNSET
    exe_deleted: bool | UnsetType = UNSET
    exe_truncated: bool | UnsetType = UNSET
    args: list[str] | None
    args_reason: Reason = UNSET
    args_truncated: bool | None
    args_truncated_reason: Reason = UNSET
    args_bytes: int | UnsetType = UNSET
    cwd: str | None
    cwd_reason: Reason = UNSET
    cgroup: str | None
    cgroup_reason: Reason = UNSET
    unit: str | None
    unit_reason: Reason = UNSET
    ancestors: list[AncestorDocument]
    owner: str


class ExitDocument(ProcessDocument, frozen=True, kw_only=True, tag="aegis.event", tag_field="schema"):
    code: int | None
    code_reason: Reason = UNSET
    signal: int | None
    signal_reason: Reason = UNSET
    duration_ns: int


class SocketDocument(ProcessDocument, frozen=True, kw_only=True, tag="aegis.event", tag_field="schema"):
    protocol: str
    src: str
    src_port: int
    dst: str | None
    dst_reason: Reason = UNSET
    dst_port: int | None
    dst_port_reason: Reason = UNSET
    result: str | UnsetType = UNSET
    name: str | None
    name_reason: Reason = UNSET


class VerdictDocument(ProcessDocument, frozen=True, kw_only=True, tag="aegis.event", tag_field="schema"):
    verdict: str
    policy: str | None
    policy_reason: Reason = UNSET
    rule: str | None
    rule_reason: Reason = UNSET
    generation: int
    suppressed: int
    protocol: str
    src: str
    src_port: int
    dst: str
    dst_port: int
    direction: str
    interface: str | None
    interface_reason: Reason = UNSET
    fragment: bool


class LossDocument(Document, frozen=True, kw_only=True, tag="aegis.event", tag_field="schema"):
    stage: str
    kind: str
    reason: str
    count: int


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A fact and its instant: `time_ns` counts from 1970 (UTC)."""

    type: ClassVar[str]

    time_ns: int

    def document(self) -> Document:
        """The event with its text made, one attribute a JSON key."""
        raise NotImplementedError


class ProcessEvent(Event, frozen=True, kw_only=True, gc=False):
    """`owner` is the process as it was then, or the label that stands for it."""

    owner: Owner


class ExecEvent(ProcessEvent, frozen=True, kw_only=True, gc=False):
    """A process began to run a program."""

    type: ClassVar[str] = "exec"

    def document(self) -> ProcessDocument:
        return ProcessDocument(**_head(self), **_process(self.owner))


class ExitEvent(ProcessEvent, frozen=True, kw_only=True, gc=False):
    """A process ended, all its threads. `signal` is what killed it, or 0: then `code` is its exit status."""

    type: ClassVar[str] = "exit"
    code: int
    signal: int
    duration_ns: int

    def document(self) -> ExitDocument:
        killed = bool(self.signal)
        return ExitDocument(
            **_head(self),
            **_process(self.owner),
            code=None if killed else self.code,
            code_reason="killed by a signal" if killed else UNSET,
            signal=self.signal if killed else None,
            signal_reason=UNSET if killed else "ended by itself",
            duration_ns=self.duration_ns,
        )


class SocketEvent(ProcessEvent, frozen=True, kw_only=True, gc=False):
    """A connection was begun (`connect`) or accepted, or a socket listens. Addresses are 16 bytes, IPv4 mapped.

    `source` is this host's end at connect and listen, the peer's end at accept: the end that began. `error` is the
    errno a connect ended with, 0 when it was established; ECANCELED when its process gave it up.
    """

    protocol: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    cookie: int
    error: int = 0

    def document(self) -> SocketDocument:
        listens = self.type == "listen"
        return SocketDocument(
            **_head(self),
            **_process(self.owner),
            protocol=protocol_name(self.protocol),
            src=address_text(self.source),
            src_port=self.source_port,
            dst=None if listens else address_text(self.destination),
            dst_reason=NO_PEER.reason if listens else UNSET,
            dst_port=None if listens else self.destination_port,
            dst_port_reason=NO_PEER.reason if listens else UNSET,
            result=UNSET if self.type != "connect" else RESULTS.get(self.error, str(self.error)),
            name=None,
            name_reason=NO_NAME.reason,
        )


class ConnectEvent(SocketEvent, frozen=True, kw_only=True, gc=False):
    type: ClassVar[str] = "connect"


class AcceptEvent(SocketEvent, frozen=True, kw_only=True, gc=False):
    type: ClassVar[str] = "accept"


class ListenEvent(SocketEvent, frozen=True, kw_only=True, gc=False):
    type: ClassVar[str] = "listen"


class VerdictEvent(ProcessEvent, frozen=True, kw_only=True, gc=False):
    """A policy denied a packet, or would have (`audit`). Source and destination are the initiator's.

    `suppressed` counts the records of this rule and peer that the rate limit withheld since the one before.
    """

    type: ClassVar[str] = "verdict"
    verdict: Verdict
    policy: str | Absent
    rule: str | Absent
    generation: int
    suppressed: int
    protocol: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    direction: Direction
    interface: str | Absent
    fragment: bool
    cookie: int

    def document(self) -> VerdictDocument:
        return VerdictDocument(
            **_head(self),
            **_process(self.owner),
            verdict=self.verdict.value,
            policy=_value(self.policy),
            policy_reason=_reason(self.policy),
            rule=_value(self.rule),
            rule_reason=_reason(self.rule),
            generation=self.generation,
            suppressed=self.suppressed,
            protocol=protocol_name(self.protocol),
            src=address_text(self.source),
            src_port=self.source_port,
            dst=address_text(self.destination),
            dst_port=self.destination_port,
            direction=self.direction.value,
            interface=_value(self.interface),
            interface_reason=_reason(self.interface),
            fragment=self.fragment,
        )


class LossEvent(Event, frozen=True, kw_only=True, gc=False):
    """Records known not to have arrived: `count` of `kind`, lost at `stage` (ring, queue, table) for `reason`."""

    type: ClassVar[str] = "loss"
    stage: str
    kind: str
    reason: str
    count: int

    def document(self) -> LossDocument:
        return LossDocument(
            **_head(self), stage=self.stage, kind=self.kind, reason=self.reason, count=self.count
        )


_encoder = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """The event as one JSON object, without a newline."""
    return _encoder.encode(event.document())


def _head(event: Event) -> dict[str, Any]:
    return {"time": rfc3339(event.time_ns), "time_ns": event.time_ns, "type": event.type}


def _value(value: Known | Absent) -> Known | None:
    return None if isinstance(value, Absent) else value


def _reason(value: object) -> Reason:
    return value.reason if isinstance(value, Absent) else UNSET


def _text(value: bytes | Absent) -> str | None:
    return None if isinstance(value, Absent) else readable(value)


def _ancestors(process: Process) -> list[AncestorDocument]:
    return [
        AncestorDocument(
            pid=each.pid,
            start_ns=each.start_ns,
            comm=_text(each.comm),
            comm_reason=_reason(each.comm),
            exe=_text(each.exe),
            exe_reason=_reason(each.exe),
        )
        for each in process.ancestors
    ]


def _process(owner: Owner) -> dict[str, Any]:
    if isinstance(owner, OwnerLabel):
        return _LABELLED[owner]
    cgroup = owner.cgroup
    path = cgroup if isinstance(cgroup, Absent) else cgroup.path
    unit = cgroup if isinstance(cgroup, Absent) else cgroup.unit or NO_UNIT
    args = owner.argv()
    return {
        "pid": owner.pid,
        "start_ns": owner.start_ns,
        "ppid": _value(owner.ppid),
        "ppid_reason": _reason(owner.ppid),
        "uid": owner.uid,
        "comm": _text(owner.comm),
        "comm_reason": _reason(owner.comm),
        "exe": _text(owner.exe),
        "exe_reason": _reason(owner.exe),
        "exe_deleted": owner.exe_deleted or UNSET,
        "exe_truncated": owner.exe_truncated or UNSET,
        "args": args,
        "args_reason": _reason(owner.args),
        "args_truncated": None if args is None else owner.args_truncated,
        "args_truncated_reason": _reason(owner.args),
        "args_bytes": UNSET if args is None else owner.args_total,
        "cwd": _text(owner.cwd),
        "cwd_reason": _reason(owner.cwd),
        "cgroup": _value(path),
        "cgroup_reason": _reason(path),
        "unit": _value(unit),
        "unit_reason": _reason(unit),
        "ancestors": _ancestors(owner),
        "owner": "process",
    }


_PROCESS_KEYS = (
    "pid",
    "start_ns",
    "ppid",
    "uid",
    "comm",
    "exe",
    "args",
    "args_truncated",
    "cwd",
    "cgroup",
    "unit",
)
_LABELLED: dict[OwnerLabel, dict[str, Any]] = {
    label: {
        **dict.fromkeys(_PROCESS_KEYS),
        **{f"{key}_reason": label.reason for key in _PROCESS_KEYS},
        "ancestors": [],
        "owner": label.value,
    }
    for label in OwnerLabel
}
