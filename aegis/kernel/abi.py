"""Numbers and layouts of the shared headers, as the C compiler gave them. No number is repeated here.

A name missing from the headers fails this import. Works without libbpf: the types are in a module of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from aegis._native import _abi
from aegis.errors import AbiMismatch

_ffi: Any = _abi.ffi


@dataclass(frozen=True, slots=True, kw_only=True)
class Struct:
    """Layout of one shared struct: size and member offsets in bytes."""

    name: str
    size: int
    offsets: Mapping[str, int]


@cache
def struct(name: str) -> Struct:
    """The layout of `struct NAME`."""
    try:
        kind = _ffi.typeof(f"struct {name}")
    except _ffi.error as error:
        raise AbiMismatch("find", f"struct {name}", detail="not in the shared headers") from error
    offsets = {field: member.offset for field, member in kind.fields}
    return Struct(name=name, size=_ffi.sizeof(kind), offsets=MappingProxyType(offsets))


@cache
def enum(name: str) -> Mapping[str, int]:
    """Members of `enum NAME`, in order of value."""
    try:
        members = _ffi.typeof(f"enum {name}").relements
    except _ffi.error as error:
        raise AbiMismatch("find", f"enum {name}", detail="not in the shared headers") from error
    return MappingProxyType(dict(sorted(members.items(), key=lambda item: (item[1], item[0]))))


def pack(name: str, **fields: Any) -> bytes:
    """The bytes of `struct NAME` with these members; the others are zero."""
    return bytes(_ffi.buffer(_ffi.new(f"struct {name} *", fields)))


def unpack(name: str, data: Any) -> Any:
    """A cffi view of `data` (bytes or buffer) as `struct NAME *`; it keeps `data` alive and does not copy."""
    size = struct(name).size
    if len(data) < size:
        raise AbiMismatch("unpack", f"struct {name}", detail=f"{len(data)} bytes, needs {size}")
    return _ffi.from_buffer(f"struct {name} *", data)


def buffer(view: Any) -> memoryview:
    """The bytes behind a view of `unpack`."""
    return memoryview(_ffi.buffer(view))


def _member(name: str) -> int:
    try:
        return int(getattr(_abi.lib, name))
    except AttributeError as error:
        raise AbiMismatch("find", name, detail="not in the shared headers") from error


ABI_VERSION: Final = _member("AEGIS_ABI_VERSION")

EGRESS: Final = _member("AEGIS_EGRESS")
INGRESS: Final = _member("AEGIS_INGRESS")

KIND_NONE: Final = _member("AEGIS_KIND_NONE")
KIND_EXEC: Final = _member("AEGIS_KIND_EXEC")
KIND_EXIT: Final = _member("AEGIS_KIND_EXIT")
KIND_FORK: Final = _member("AEGIS_KIND_FORK")
KIND_CONNECT: Final = _member("AEGIS_KIND_CONNECT")
KIND_ACCEPT: Final = _member("AEGIS_KIND_ACCEPT")
KIND_LISTEN: Final = _member("AEGIS_KIND_LISTEN")
KIND_VERDICT: Final = _member("AEGIS_KIND_VERDICT")
KIND_CGROUP: Final = _member("AEGIS_KIND_CGROUP")
KIND_SYNTHETIC: Final = _member("AEGIS_KIND_SYNTHETIC")
KINDS: Final = _member("AEGIS_KINDS")

VERDICT_ALLOW: Final = _member("AEGIS_VERDICT_ALLOW")
VERDICT_AUDIT: Final = _member("AEGIS_VERDICT_AUDIT")
VERDICT_DENY: Final = _member("AEGIS_VERDICT_DENY")

OWNER_UNKNOWN: Final = _member("AEGIS_OWNER_UNKNOWN")
OWNER_KERNEL: Final = _member("AEGIS_OWNER_KERNEL")
OWNER_REQUEST: Final = _member("AEGIS_OWNER_REQUEST")
OWNER_FORWARDED: Final = _member("AEGIS_OWNER_FORWARDED")
OWNER_PROCESS: Final = _member("AEGIS_OWNER_PROCESS")

FLOW_NEW: Final = _member("AEGIS_FLOW_NEW")
FLOW_ESTABLISHED: Final = _member("AEGIS_FLOW_ESTABLISHED")
FLOW_CLOSING: Final = _member("AEGIS_FLOW_CLOSING")
FLOW_CLOSED: Final = _member("AEGIS_FLOW_CLOSED")

TOTAL_SEEN: Final = _member("AEGIS_TOTAL_SEEN")
TOTAL_REAPED: Final = _member("AEGIS_TOTAL_REAPED")
TOTAL_TABLE_FULL: Final = _member("AEGIS_TOTAL_TABLE_FULL")
TOTAL_RETIRED: Final = _member("AEGIS_TOTAL_RETIRED")
TOTAL_NOT_IP: Final = _member("AEGIS_TOTAL_NOT_IP")
TOTAL_TRUNCATED: Final = _member("AEGIS_TOTAL_TRUNCATED")
TOTAL_BAD_HEADER: Final = _member("AEGIS_TOTAL_BAD_HEADER")
TOTAL_EXTENSIONS: Final = _member("AEGIS_TOTAL_EXTENSIONS")
TOTAL_DENIED: Final = _member("AEGIS_TOTAL_DENIED")
TOTAL_AUDITED: Final = _member("AEGIS_TOTAL_AUDITED")
TOTAL_REFUSED_DROPPED: Final = _member("AEGIS_TOTAL_REFUSED_DROPPED")
TOTAL_LOOPED: Final = _member("AEGIS_TOTAL_LOOPED")
TOTALS: Final = _member("AEGIS_TOTALS")

LOSS_OWNER_FULL: Final = _member("AEGIS_LOSS_OWNER_FULL")
LOSS_OWNER_STORAGE: Final = _member("AEGIS_LOSS_OWNER_STORAGE")
LOSSES: Final = _member("AEGIS_LOSSES")

POLICY_SLOTS: Final = _member("AEGIS_POLICY_SLOTS")
IMAGE_SMALL: Final = _member("AEGIS_IMAGE_SMALL")
IMAGE_MEDIUM: Final = _member("AEGIS_IMAGE_MEDIUM")
IMAGE_LARGE: Final = _member("AEGIS_IMAGE_LARGE")
MAX_RULES: Final = _member("AEGIS_MAX_RULES")

AUTOMATON_STATES: Final = _member("AEGIS_AUTOMATON_STATES")
AUTOMATON_AFFIXES: Final = _member("AEGIS_AUTOMATON_AFFIXES")
AUTOMATON_EDGES: Final = _member("AEGIS_AUTOMATON_EDGES")
COMPONENT_BYTES: Final = _member("AEGIS_COMPONENT_BYTES")
AFFIX_BYTES: Final = _member("AEGIS_AFFIX_BYTES")
SUBJECT_COUNTS: Final = _member("AEGIS_SUBJECT_COUNTS")
