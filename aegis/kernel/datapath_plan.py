"""What the datapath is made of: an object file and where its programs go; as much of it as this kernel loads; what is
told of parts that are missing, that keep another size, or that were put back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aegis.errors import AbiMismatch, KernelError
from aegis.kernel.constants import Constants
from aegis.kernel.maps import Map
from aegis.kernel.object import BpfObject
from aegis.kernel.tc import Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An object file and where its programs go. Without those of `packet` there is no datapath; the others name
    owners, and what cannot be loaded or attached of them is reported in `Datapath.missing`."""

    object: str
    packet: Mapping[Direction, str]
    cgroup: tuple[str, ...] = ()
    tracing: tuple[str, ...] = ()
    snapshot: tuple[str, ...] = ()  # iterators, run once when all else is attached
    on_demand: tuple[str, ...] = ()  # run by the agent
    optional: tuple[str, ...] = ()  # likewise, where they can be loaded


SENDERS: Final = "owner by sending"  # a part of the packet programs

CORE: Final = Plan(
    object="core",
    packet={Direction.EGRESS: "tc_egress_flow", Direction.INGRESS: "tc_ingress_flow"},
    cgroup=(
        "cgroup_sock_create_owner",
        "cgroup_connect4_subject",
        "cgroup_connect6_subject",
        "cgroup_sendmsg4_subject",
        "cgroup_sendmsg6_subject",
    ),
    tracing=(
        "tp_sock_relabel",
        "tp_subject_mkdir",
        "tp_subject_release",
        "tp_subject_exec",
        "tp_subject_fork",
        "tp_subject_exit",
    ),
    snapshot=("iter_task_file_owner",),
    on_demand=("syscall_flow_sweep", "syscall_names"),
    optional=("tc_names", "syscall_subject_root", "syscall_subject_fill", "iter_task_subject"),
)


# Without one of these nobody can be told apart.
SUBJECT_PROGRAMS: Final = frozenset(
    name for name in (*CORE.cgroup, *CORE.tracing, *CORE.optional) if "subject" in name
) | {"cgroup_sock_create_owner"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSize:
    """A pinned table whose size differs from the configured one: it keeps its own until it is detached."""

    name: str
    configured: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A part that could not be loaded or attached; the rest runs without it."""

    part: str
    error: KernelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A hook somebody had taken our program off, and, where it could not be put back, why.

    Not `seen`: whether it is in place cannot be told, and `error` says why; it counts as attached.
    """

    part: str
    error: KernelError | None
    seen: bool = True


def _is_of(error: KernelError, programs: Collection[str]) -> bool:
    """Whether it is one of these programs that was refused."""
    return any(error.subject.endswith(f": {name}") for name in programs)


def load_most(
    plan: Plan,
    constants: Constants | None,
    map_sizes: Mapping[str, int],
    reuse: Mapping[str, Map],
    btf: Path | None,
) -> tuple[BpfObject, tuple[Missing, ...]]:
    """The plan's object, loaded with as much of the plan as this kernel takes. Raises what the packet programs raise.

    Where they are refused they are tried without their look at who sends."""
    needed = {*plan.packet.values(), *plan.on_demand}
    extra = [*plan.cgroup, *plan.optional, *plan.tracing, *plan.snapshot]
    missing: list[Missing] = []
    while True:
        loaded = BpfObject.open(
            plan.object,
            constants=constants,
            map_sizes=map_sizes,
            autoload={*needed, *extra},
            reuse=reuse,
            btf=btf,
        )
        try:
            loaded.load()
        except KernelError as error:
            loaded.close()
            if constants is not None and constants.senders and _is_of(error, plan.packet.values()):
                missing.append(Missing(part=SENDERS, error=error))
                constants = replace(constants, senders=False)
                continue
            if not extra or isinstance(error, AbiMismatch):
                raise
            # Tracing needs most (CAP_PERFMON, type information), so it goes first.
            part = extra.pop()
            missing.append(Missing(part=part, error=error))
        else:
            return loaded, tuple(missing)
