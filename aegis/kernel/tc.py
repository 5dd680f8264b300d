"""Packet hooks of an interface: tcx links, and clsact filters where the kernel is older than 6.6.

Aegis touches only what is its own: its links and, on clsact, its one handle and priority in each direction.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Literal

from aegis.errors import AttachFailed
from aegis.kernel import abi
from aegis.kernel.filters import hook_kind, list_filters
from aegis.kernel.library import checked, failure, messages, open_library
from aegis.kernel.links import Link
from aegis.kernel.object import Program, program_info

CLSACT_PRIORITY: Final = 1  # first: a filter before ours that says "accept" would end the walk before policy
CLSACT_HANDLE: Final = 0xAE915
PLACE_REFUSED: Final = (
    -errno.EINVAL,
    -errno.EOPNOTSUPP,
    -errno.ERANGE,
)  # the place asked for, not the program

Way = Literal["tcx", "clsact"]


class Direction(IntEnum):
    """As enum aegis_direction."""

    EGRESS = abi.EGRESS
    INGRESS = abi.INGRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherProgram:
    """A program on one of our hooks that is not ours."""

    ifindex: int
    direction: Direction
    program_id: int
    name: str


class ClsactFilter:
    """Our filter in one direction of one interface. It outlives the process by itself; it has no descriptor."""

    __slots__ = ("direction", "ifindex", "made_qdisc")

    def __init__(self, ifindex: int, direction: Direction, *, made_qdisc: bool) -> None:
        self.ifindex = ifindex
        self.direction = direction
        self.made_qdisc = made_qdisc

    @property
    def name(self) -> str:
        return f"clsact {self.direction.name.lower()} of interface {self.ifindex}"

    def program_id(self) -> int:
        """Id of the program in it; 0 when it is gone."""
        return clsact_program_id(self.ifindex, self.direction)

    def update(self, program: Program) -> None:
        """Put another program in its place in one step."""
        _put_filter(program, self.ifindex, self.direction)

    def detach(self) -> None:
        """Remove the filter; an interface or filter that is gone already is no error."""
        ffi, lib = open_library()
        hook = _hook(self.ifindex, self.direction)
        options = ffi.new("struct bpf_tc_opts *", {"handle": CLSACT_HANDLE, "priority": CLSACT_PRIORITY})
        options.sz = ffi.sizeof("struct bpf_tc_opts")
        result = lib.bpf_tc_detach(hook, options)
        if result not in (0, -errno.ENOENT, -errno.ENODEV, -errno.EINVAL):
            raise failure(result, "detach", self.name)
        messages.kept.clear()

    def close(self) -> None:
        """Nothing to give back: the filter stays."""


def attach_tcx(program: Program, ifindex: int, direction: Direction) -> Link:
    """A tcx link, before the programs that are there: one that says "accept" would end the walk before policy.

    Whoever attaches at the head later comes before it again (`programs_before`). Raises AttachFailed with EINVAL where
    the kernel knows no tcx.
    """
    _, lib = open_library()
    name = f"tcx {direction.name.lower()} of interface {ifindex}"
    kind = lib.BPF_TCX_EGRESS_ if direction is Direction.EGRESS else lib.BPF_TCX_INGRESS_
    result = lib.aegis_link_create_first(program.fd, ifindex, kind)
    if result in PLACE_REFUSED:
        messages.kept.clear()
        result = lib.aegis_link_create(program.fd, ifindex, kind)
    return Link(checked(result, f"attach {program.name} to", name, AttachFailed), name)


def attach_clsact(program: Program, ifindex: int, direction: Direction) -> ClsactFilter:
    """Our filter, made or replaced in one step; the clsact qdisc is made where there is none.

    Raises AttachFailed where an ingress qdisc has its place: that has no egress, and takes a filter for it all the same.
    """
    _, lib = open_library()
    result = lib.bpf_tc_hook_create(_hook(ifindex, direction))
    if result not in (0, -errno.EEXIST):
        raise failure(result, "make clsact on", f"interface {ifindex}", AttachFailed)
    messages.kept.clear()
    if result and (kind := hook_kind(ifindex)) != "clsact":
        raise AttachFailed(
            "make clsact on",
            f"interface {ifindex}",
            errno.EEXIST,
            detail=f"its place is taken by a qdisc {kind or 'that is gone by now'}",
            hint="put a clsact qdisc in its place, which takes the same ingress filters",
        )
    _put_filter(program, ifindex, direction)
    return ClsactFilter(ifindex, direction, made_qdisc=result == 0)


def attach(
    program: Program, ifindex: int, direction: Direction, *, prefer: Way | None = None
) -> Link | ClsactFilter:
    """A tcx link, or a clsact filter where tcx is missing. `prefer` leaves no choice."""
    if prefer == "clsact":
        return attach_clsact(program, ifindex, direction)
    try:
        return attach_tcx(program, ifindex, direction)
    except AttachFailed as error:
        if prefer == "tcx" or error.errno != errno.EINVAL:
            raise
    return attach_clsact(program, ifindex, direction)


def clsact_program_id(ifindex: int, direction: Direction) -> int:
    """Id of the program in our filter; 0 when there is none."""
    ffi, lib = open_library()
    options = ffi.new("struct bpf_tc_opts *", {"handle": CLSACT_HANDLE, "priority": CLSACT_PRIORITY})
    options.sz = ffi.sizeof("struct bpf_tc_opts")
    result = lib.bpf_tc_query(_hook(ifindex, direction), options)
    messages.kept.clear()
    if result in (-errno.ENOENT, -errno.EINVAL, -errno.ENODEV):  # no filter, no qdisc, no interface
        return 0
    checked(result, "query clsact of", f"interface {ifindex}")
    return int(options.prog_id)


def tcx_program_ids(ifindex: int, direction: Direction) -> tuple[int, ...]:
    """Ids of the programs on the tcx hook in the order they run. Raises AttachFailed where there is no tcx."""
    ffi, lib = open_library()
    kind = lib.BPF_TCX_EGRESS_ if direction is Direction.EGRESS else lib.BPF_TCX_INGRESS_
    ids, count = ffi.new("unsigned int[64]"), ffi.new("unsigned int *", 64)
    result = lib.aegis_prog_query(ifindex, kind, 0, ids, count)
    checked(result, "query tcx of", f"interface {ifindex}", AttachFailed)
    return tuple(ids[0 : count[0]])


def destroy_clsact(ifindex: int) -> bool:
    """Remove the clsact qdisc when no filter is left in it; False when one is, whosever it is."""
    ffi, lib = open_library()
    if any(list_filters(ifindex, egress=egress) for egress in (False, True)):
        return False
    hook = ffi.new("struct bpf_tc_hook *", {"ifindex": ifindex})
    hook.sz = ffi.sizeof("struct bpf_tc_hook")
    hook.attach_point = lib.BPF_TC_INGRESS | lib.BPF_TC_EGRESS
    result = lib.bpf_tc_hook_destroy(hook)
    messages.kept.clear()
    return bool(result == 0)


def other_programs(ifindex: int, ours: frozenset[int]) -> tuple[OtherProgram, ...]:
    """Programs on the packet hooks of an interface (tcx and clsact) whose ids are not in `ours`."""
    found = []
    for direction in Direction:
        try:
            numbers = tcx_program_ids(ifindex, direction)
        except AttachFailed:  # a kernel without tcx
            numbers = ()
        filters = list_filters(ifindex, egress=direction is Direction.EGRESS)
        named = {number: program_name(number) for number in numbers}
        named |= {each.program_id: each.name for each in filters if each.program_id}
        found += [
            OtherProgram(ifindex=ifindex, direction=direction, program_id=number, name=name)
            for number, name in named.items()
            if number not in ours
        ]
    return tuple(found)


def programs_before(ifindex: int, ours: frozenset[int]) -> tuple[OtherProgram, ...]:
    """What runs before the first of `ours` on the packet hooks of an interface, and so can keep packets from it.

    tcx runs before clsact. A filter that is no BPF program has program id 0. None in a direction without one of `ours`.
    """
    found = []
    for direction in Direction:
        try:
            order = [(number, "") for number in tcx_program_ids(ifindex, direction)]
        except AttachFailed:  # a kernel without tcx
            order = []
        # The kernel lists filters in the order it asks them.
        order += [
            (each.program_id, each.name)
            for each in list_filters(ifindex, egress=direction is Direction.EGRESS)
        ]
        first = next((at for at, (number, _) in enumerate(order) if number in ours), 0)
        found += [
            OtherProgram(
                ifindex=ifindex,
                direction=direction,
                program_id=number,
                name=name or (program_name(number) if number else "filter"),
            )
            for number, name in order[:first]
        ]
    return tuple(found)


def program_name(number: int) -> str:
    """Name of the program with this id; empty where the process may not ask (CAP_SYS_ADMIN) or it is gone."""
    _, lib = open_library()
    fd = lib.bpf_prog_get_fd_by_id(number)
    if fd < 0:
        return ""
    try:
        return program_info(fd).name
    finally:
        os.close(fd)


def _hook(ifindex: int, direction: Direction) -> Any:
    ffi, lib = open_library()
    point = lib.BPF_TC_EGRESS if direction is Direction.EGRESS else lib.BPF_TC_INGRESS
    hook = ffi.new("struct bpf_tc_hook *", {"ifindex": ifindex, "attach_point": point})
    hook.sz = ffi.sizeof("struct bpf_tc_hook")
    return hook


def _put_filter(program: Program, ifindex: int, direction: Direction) -> None:
    ffi, lib = open_library()
    options = ffi.new(
        "struct bpf_tc_opts *",
        {
            "prog_fd": program.fd,
            "flags": lib.BPF_TC_F_REPLACE,
            "handle": CLSACT_HANDLE,
            "priority": CLSACT_PRIORITY,
        },
    )
    options.sz = ffi.sizeof("struct bpf_tc_opts")
    result = lib.bpf_tc_attach(_hook(ifindex, direction), options)
    name = f"clsact {direction.name.lower()} of interface {ifindex}"
    checked(result, f"attach {program.name} to", name, AttachFailed)
