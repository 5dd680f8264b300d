"""What this kernel and this process can do, found by trying it, never by a version.

Each probe makes the thing it asks about and takes it down again. None touches an interface of the machine: clsact is
tried in a network namespace of its own, tcx on an interface that cannot exist (the error tells). One pass costs about
20 ms, most of it one reading of the kernel's type information.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from aegis._native import _system
from aegis.errors import FeatureUnsupported, KernelError
from aegis.kernel import type_information
from aegis.kernel.library import CAPABILITIES_HINT, open_library
from aegis.kernel.tc import OtherProgram

State = Literal["ok", "missing", "degraded"]
BPFFS: Final = Path("/sys/fs/bpf")
NO_INTERFACE: Final = 0x7FFFFFFF
LOOPBACK: Final = 1  # its index in every new network namespace
RETURN_0: Final = (0x00000000000000B7, 0x0000000000000095)  # r0 = 0; exit
SOCKET_FILTER: Final = 1  # BPF_PROG_TYPE_SOCKET_FILTER: asks for CAP_BPF only
RETURN_1: Final = (0x00000001000000B7, 0x0000000000000095)
SENDER: Final = (
    0x0000009E00000085,  # call bpf_get_current_task_btf
    0x00000000000006BF,  # r6 = r0
    0x0000000E00000085,  # call bpf_get_current_pid_tgid
    0x000000000000A1BF,  # r1 = r10
    0xFFFFFFF800000107,  # r1 += -8
    0x00000008000002B7,  # r2 = 8
    0x00000000000063BF,  # r3 = r6
    0x0000007100000085,  # call bpf_probe_read_kernel
    0x000000000000A1BF,  # r1 = r10
    0x000000000000611F,  # r1 -= r6
    *RETURN_0,
)


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `source` is what was tried; `reason` is empty when it is ok; `effect` is what is missing without it."""

    name: str
    state: State
    source: str
    reason: str
    effect: str
    hint: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe found. `effect` and `hint` replace those of the row where they are not empty."""

    state: State = "ok"
    reason: str = ""
    source: str = ""
    effect: str = ""
    hint: str = ""


OK: Final = Answer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Where to look. `btf`: type information from a file; `pin_dir`: directory of the pins or where it will be made."""

    btf: Path | None
    pin_dir: Path
    cgroup_root: Path | None


def _missing(number: int) -> Answer:
    number = abs(number)
    reason = f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"
    if number != errno.EPERM:
        return Answer("missing", reason)
    hint = CAPABILITIES_HINT if lacking_capabilities() else ""
    return Answer("missing", f"{reason} ({why_not_permitted()})", hint=hint)


def lacking_capabilities() -> tuple[str, ...]:
    """Those of the three that this thread has not, and nothing it has stands in for."""
    return tuple(
        name for name, number, stand_in in _CAPABILITIES if _capability(number, stand_in).state != "ok"
    )


def why_not_permitted() -> str:
    """What EPERM comes from, as far as this process can see."""
    lacking = lacking_capabilities()
    if lacking:
        return f"without {', '.join(lacking)}"
    return "though no capability is missing: by lockdown, a security module, seccomp or a user namespace"


def _load(kind: int, attach_type: int, instructions: tuple[int, ...], attach_btf_id: int = 0) -> int:
    ffi, lib = open_library()
    code = ffi.new("unsigned long long[]", instructions)
    result: int = lib.aegis_prog_load(
        kind, attach_type, b"aegis_probe", code, len(instructions), attach_btf_id, ffi.NULL, 0
    )
    return result


def _tried(result: int) -> Answer:
    """The answer for a call that gives a descriptor or -errno."""
    if result < 0:
        return _missing(result)
    os.close(result)
    return OK


def probe_libbpf(_: Scope) -> Answer:
    ffi, lib = open_library()
    return Answer(source=f"libbpf {ffi.string(lib.libbpf_version_string()).decode()}")


def probe_btf(scope: Scope) -> Answer:
    """The kernel's own by its place and first bytes; that of a file is read."""
    own = type_information.own_problem()
    if scope.btf is None:
        return OK if own is None else Answer("missing", own)
    given, source = type_information.problem(scope.btf), os.fspath(scope.btf)
    hint = type_information.FILE_HINT
    if given is None and own is None:
        return Answer(source=source)
    if given is None:
        effect = f"no tracing, no iterators, which need that of the kernel itself: {NO_RECORDS}"
        return Answer("degraded", f"{own}", source, effect, "a kernel with CONFIG_DEBUG_INFO_BTF=y")
    if own is None:
        effect = f"programs are fitted by {type_information.VMLINUX} of the kernel itself instead"
        return Answer("degraded", given, source, effect, hint)
    return Answer("missing", f"{given}; {own}", source, "", hint)


def probe_bpffs(scope: Scope) -> Answer:
    """A directory must be on a BPF file system and let this process make an entry."""
    path = scope.pin_dir
    while not os.path.exists(path) and path != path.parent:  # what may not be looked at counts as absent
        path = path.parent
    if _system.lib.aegis_filesystem(os.fsencode(path)) != _system.lib.BPF_FS_MAGIC:
        return Answer("missing", f"{path} is not on a BPF file system", os.fspath(path))
    attempt = path / f"aegis-probe-{os.getpid()}"
    try:
        attempt.mkdir(mode=0o700)
        attempt.rmdir()
    except OSError as error:
        return Answer("missing", f"{path}: {error.strerror}", os.fspath(path))
    return Answer(source=os.fspath(path))


def find_cgroup2() -> Path | None:
    """The first cgroup v2 mount of mountinfo."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                return Path(before.split(" ")[4].encode().decode("unicode_escape"))
    return None


def probe_cgroup2(scope: Scope) -> Answer:
    root = scope.cgroup_root or find_cgroup2()
    if root is None:
        return Answer("missing", "no cgroup2 mount in /proc/self/mountinfo")
    problem = _no_hierarchy(root)
    if not problem:
        return Answer(source=os.fspath(root))
    hint = f"another --cgroup-root (kernel.cgroup_root), or none; {CGROUP2_HINT}" if scope.cgroup_root else ""
    return Answer("missing", problem, os.fspath(root), hint=hint)


def _no_hierarchy(root: Path) -> str:
    """Why a path is no cgroup v2 hierarchy, by its file system; empty where it is one."""
    try:
        kind = _system.lib.aegis_filesystem(os.fsencode(root))
    except ValueError as error:  # NUL in the path
        return f"{os.fspath(root)!r}: {error}"
    if kind == -1:
        return f"{root} is not a cgroup v2 hierarchy: {os.strerror(_system.ffi.errno)}"
    if kind != _system.lib.CGROUP2_SUPER_MAGIC or not root.is_dir():
        return f"{root} is not a cgroup v2 hierarchy"
    return ""


def probe_bpf(_: Scope) -> Answer:
    ffi, lib = open_library()
    made = _tried(lib.bpf_map_create(lib.BPF_MAP_TYPE_ARRAY, b"aegis_probe", 4, 8, 1, ffi.NULL))
    return _tried(_load(SOCKET_FILTER, 0, RETURN_0)) if made.state == "ok" else made


def probe_ringbuf(_: Scope) -> Answer:
    ffi, lib = open_library()
    return _tried(
        lib.bpf_map_create(
            lib.BPF_MAP_TYPE_RINGBUF, b"aegis_probe", 0, 0, os.sysconf("SC_PAGESIZE"), ffi.NULL
        )
    )


def probe_sk_storage(_: Scope) -> Answer:
    ffi, lib = open_library()
    result = lib.libbpf_probe_bpf_map_type(lib.BPF_MAP_TYPE_SK_STORAGE, ffi.NULL)
    if result == 1:
        return OK
    if result < 0:
        return _missing(result)
    without = "CAP_BPF" in lacking_capabilities()
    return Answer(
        "missing",
        f"the kernel refused a socket storage map{' (without CAP_BPF)' if without else ''}",
        hint=CAPABILITIES_HINT if without else "",
    )


def probe_tcx(_: Scope) -> Answer:
    """On an interface that cannot exist: ENODEV means that tcx looked for it, EINVAL that there is no tcx."""
    _, lib = open_library()
    program = _load(lib.BPF_PROG_TYPE_SCHED_CLS, 0, RETURN_0)
    if program < 0:
        return _missing(program)
    try:
        result = lib.aegis_link_create(program, NO_INTERFACE, lib.BPF_TCX_INGRESS_)
    finally:
        os.close(program)
    return OK if result == -errno.ENODEV else _missing(result)


def probe_senders(_: Scope) -> Answer:
    """A packet program that reads the current task, and where on its stack it runs."""
    _, lib = open_library()
    return _tried(_load(lib.BPF_PROG_TYPE_SCHED_CLS, 0, SENDER))


def probe_clsact(_: Scope) -> Answer:
    """A filter on the loopback of a new network namespace, in which this thread is for that moment."""
    open_library()
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _system.lib.unshare(_system.lib.CLONE_NEWNET) < 0:
            reason = os.strerror(_system.ffi.errno)
            return Answer("degraded", f"not tried: a namespace of its own (CAP_SYS_ADMIN): {reason}")
        try:
            return _try_clsact()
        finally:
            if _system.lib.setns(before, _system.lib.CLONE_NEWNET) < 0:
                raise KernelError("return to", "the network namespace", _system.ffi.errno)
    finally:
        os.close(before)


def _try_clsact() -> Answer:
    ffi, lib = open_library()
    program = _load(lib.BPF_PROG_TYPE_SCHED_CLS, 0, RETURN_0)
    if program < 0:
        return _missing(program)
    try:
        hook = ffi.new("struct bpf_tc_hook *", {"ifindex": LOOPBACK, "attach_point": lib.BPF_TC_INGRESS})
        hook.sz = ffi.sizeof("struct bpf_tc_hook")
        result = lib.bpf_tc_hook_create(hook)
        if result < 0:
            return _missing(result)
        options = ffi.new("struct bpf_tc_opts *", {"prog_fd": program, "handle": 1, "priority": 1})
        options.sz = ffi.sizeof("struct bpf_tc_opts")
        result = lib.bpf_tc_attach(hook, options)
        return OK if result == 0 else _missing(result)
    finally:
        os.close(program)


def probe_cgroup(scope: Scope) -> Answer:
    """A program that lets every socket be made, at the hierarchy's root for a moment."""
    _, lib = open_library()
    root = scope.cgroup_root or find_cgroup2()
    if root is None:
        return Answer("missing", "no cgroup v2 hierarchy to attach to")
    problem = _no_hierarchy(root)
    if problem:
        return Answer("missing", problem)
    program = _load(lib.BPF_PROG_TYPE_CGROUP_SOCK, lib.BPF_CGROUP_INET_SOCK_CREATE, RETURN_1)
    if program < 0:
        return _missing(program)
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _tried(lib.aegis_link_create(program, directory, lib.BPF_CGROUP_INET_SOCK_CREATE))
        finally:
            os.close(directory)
    except OSError as error:
        return _missing(error.errno or 0)
    finally:
        os.close(program)


class TypeIds:
    """Ids in the kernel's own type information, read once for the probes that need it."""

    def __init__(self) -> None:
        self._btf: Any = None

    def find(self, name: bytes, kind: int) -> int:
        """The id, or -errno. Raises FeatureUnsupported where there is no type information."""
        ffi, lib = open_library()
        if self._btf is None:
            where = type_information.VMLINUX
            pointer = lib.btf__parse(where.encode(), ffi.NULL)
            if not pointer:
                raise FeatureUnsupported("read", f"type information (BTF) {where}", int(ffi.errno))
            self._btf = ffi.gc(pointer, lib.btf__free)
        return int(lib.btf__find_by_name_kind(self._btf, name, kind))


def probe_tracing(types: TypeIds) -> Answer:
    """tp_btf: loaded and attached to sched_process_exec for a moment."""
    ffi, lib = open_library()
    number = types.find(b"btf_trace_sched_process_exec", lib.BTF_KIND_TYPEDEF)
    if number < 0:
        return _missing(number)
    program = _load(lib.BPF_PROG_TYPE_TRACING, lib.BPF_TRACE_RAW_TP, RETURN_0, number)
    if program < 0:
        return _missing(program)
    try:
        return _tried(lib.bpf_raw_tracepoint_open(ffi.NULL, program))
    finally:
        os.close(program)


def probe_iterators(types: TypeIds) -> Answer:
    _, lib = open_library()
    number = types.find(b"bpf_iter_task_file", lib.BTF_KIND_FUNC)
    if number < 0:
        return _missing(number)
    program = _load(lib.BPF_PROG_TYPE_TRACING, lib.BPF_TRACE_ITER, RETURN_0, number)
    if program < 0:
        return _missing(program)
    try:
        return _tried(lib.aegis_link_create_iter(program, -1))
    finally:
        os.close(program)


def effective_capabilities() -> int:
    """The thread's effective set, one bit a capability."""
    sets = _system.ffi.new("unsigned long long[3]")
    return 0 if _system.lib.aegis_capget(sets) < 0 else int(sets[0])


def _capability(number: int, stand_in: int | None) -> Answer:
    held = effective_capabilities()
    if held >> number & 1:
        return OK
    if stand_in is not None and held >> stand_in & 1:
        return Answer(source="CAP_SYS_ADMIN")
    return Answer("missing", "not in the effective set")


def _capability_probe(number: int, stand_in: int | None) -> Callable[[Scope], Answer]:
    return lambda _: _capability(number, stand_in)


# Name, number, and that of the one which stands in for it.
_CAPABILITIES: Final[tuple[tuple[str, int, int | None], ...]] = (
    ("CAP_BPF", int(_system.lib.CAP_BPF), int(_system.lib.CAP_SYS_ADMIN)),
    ("CAP_PERFMON", int(_system.lib.CAP_PERFMON), int(_system.lib.CAP_SYS_ADMIN)),
    ("CAP_NET_ADMIN", int(_system.lib.CAP_NET_ADMIN), None),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what is tried, what its absence costs, what to do about it."""

    name: str
    source: str
    effect: str
    hint: str
    probe: Callable[[Scope], Answer] | None = None
    typed: Callable[[TypeIds], Answer] | None = None


NO_POLICY: Final = "packets are neither counted nor judged"
CGROUP2_HINT: Final = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
NO_RECORDS: Final = "no process, socket or cgroup events"

TABLE: Final[tuple[Row, ...]] = (
    Row("libbpf", "libbpf.so.1", f"{NO_POLICY}; {NO_RECORDS}", "install libbpf 1.1 or later (Debian: libbpf1)", probe_libbpf),
    Row("btf", type_information.VMLINUX, f"programs cannot be fitted to this kernel: {NO_RECORDS}",
        type_information.HINT, probe_btf),
    Row("bpffs", os.fspath(BPFFS), "nothing is pinned: enforcement ends with the agent",
        "mount -t bpf bpf /sys/fs/bpf; for an unprivileged user make the pin directory and give it to that user", probe_bpffs),
    Row("cgroup2", "/proc/self/mountinfo", "sockets have no owner and events no cgroup v2 path",
        CGROUP2_HINT, probe_cgroup2),
    Row("bpf", "bpf(BPF_MAP_CREATE), bpf(BPF_PROG_LOAD)", f"{NO_POLICY}; {NO_RECORDS}", CAPABILITIES_HINT, probe_bpf),
    Row("tcx", "bpf(BPF_LINK_CREATE) of type tcx", "clsact filters are used instead of links",
        "kernel 6.6 or later; none needed where clsact is ok", probe_tcx),
    Row("clsact", "a filter in a network namespace of its own", "no fall-back where tcx is missing",
        "kernel modules sch_ingress and cls_bpf; none needed where tcx is ok", probe_clsact),
    Row("cgroup", "bpf(BPF_LINK_CREATE) of cgroup/sock_create", "flows and sockets have no owner",
        "CONFIG_CGROUP_BPF=y and a cgroup2 hierarchy", probe_cgroup),
    Row("tracing", "tp_btf/sched_process_exec", NO_RECORDS, "CAP_PERFMON and kernel type information", None, probe_tracing),
    Row("sk_storage", "bpf(BPF_MAP_CREATE) of socket storage", "flows and sockets have no owner", "kernel 5.2 or later", probe_sk_storage),
    Row("ringbuf", "bpf(BPF_MAP_CREATE) of a ring", NO_RECORDS, "kernel 5.8 or later", probe_ringbuf),
    Row("iterators", "iter/task_file", "sockets older than the agent have no owner", "CAP_PERFMON and kernel type information",
        None, probe_iterators),
    Row("senders", "a packet program that reads the current task",
        "flows of a socket that was passed, inherited or accepted by a child name who made the socket or listens",
        "CAP_PERFMON and a kernel that lets packet programs read tasks", probe_senders),
    *(Row(name, "capget(2)", effect, CAPABILITIES_HINT, _capability_probe(number, stand_in))
      for (name, number, stand_in), effect
      in zip(_CAPABILITIES, (f"{NO_POLICY}; {NO_RECORDS}", NO_RECORDS, NO_POLICY), strict=True)),
)  # fmt: skip


def _ask(row: Row, scope: Scope, types: TypeIds) -> Feature:
    try:
        answer = row.typed(types) if row.typed else row.probe(scope) if row.probe else OK
    except (KernelError, OSError) as error:  # the second: no descriptor left to try it with
        answer = Answer("missing", str(error), hint=getattr(error, "hint", None) or "")
    absent = answer.state != "ok"
    return Feature(
        name=row.name,
        state=answer.state,
        source=answer.source or row.source,
        reason=answer.reason,
        effect=(answer.effect or row.effect) if absent else "",
        hint=(answer.hint or row.hint) if absent else "",
    )


def probe_all(
    btf: Path | None = None,
    *,
    pin_dir: Path = BPFFS,
    cgroup_root: Path | None = None,
    names: frozenset[str] | None = None,
) -> tuple[Feature, ...]:
    """Try everything, or only `names`, in the order of the table."""
    scope, types = Scope(btf=btf, pin_dir=pin_dir, cgroup_root=cgroup_root), TypeIds()
    return tuple(_ask(row, scope, types) for row in TABLE if names is None or row.name in names)


def describe_others(others: Iterable[OtherProgram]) -> Feature:
    """Programs of others on our packet hooks, as one more line for the operator."""
    found = [
        f"{each.direction.name.lower()} of interface {each.ifindex}: {each.name or 'program'} (id {each.program_id})"
        for each in others
    ]
    return Feature(
        name="other_programs",
        state="degraded" if found else "ok",
        source="tcx query, clsact filter list",
        reason="; ".join(found),
        effect="a program before ours may decide about a packet that policy never sees" if found else "",
        hint="bpftool net shows them; take them off where they are not wanted" if found else "",
    )
