"""What each program costs the verifier, against its budget.

The figures are the kernel's own: instructions walked (`verified_insns`) and the time verification took, from the
statistics line of the log. Loops that explode show here long before a kernel refuses them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from aegis.errors import KernelError
from aegis.kernel.constants import Constants
from aegis.kernel.library import checked, messages, open_library
from aegis.kernel.object import BpfObject, program_info

LOG_STATISTICS: Final = 4  # BPF_LOG_STATS
LOG_BYTES: Final = 65_536
TIME: Final = re.compile(rb"verification time (\d+) usec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most a program may take. Milliseconds are of one load on an idle core."""

    object: str
    program: str
    instructions: int
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a program took."""

    object: str
    program: str
    instructions: int
    milliseconds: float


# Following a pointer by type information costs the verifier about a millisecond each time it gets there (it searches
# the kernel's types by name), which is why some short programs take longer than long ones.
BUDGETS: Final[tuple[Budget, ...]] = (
    Budget(object="core", program="tc_egress_flow", instructions=34_000, milliseconds=40),
    Budget(object="core", program="tc_ingress_flow", instructions=34_000, milliseconds=40),
    Budget(object="core", program="cgroup_sock_create_owner", instructions=1_000, milliseconds=15),
    Budget(object="core", program="tp_sock_relabel", instructions=1_000, milliseconds=15),
    Budget(object="core", program="iter_task_file_owner", instructions=1_000, milliseconds=3),
    Budget(object="core", program="tp_subject_mkdir", instructions=2_000, milliseconds=15),
    Budget(object="core", program="tp_subject_release", instructions=200, milliseconds=5),
    Budget(object="core", program="tp_subject_exec", instructions=2_500, milliseconds=15),
    Budget(object="core", program="tp_subject_fork", instructions=300, milliseconds=5),
    Budget(object="core", program="tp_subject_exit", instructions=200, milliseconds=5),
    Budget(object="core", program="syscall_subject_root", instructions=200, milliseconds=5),
    Budget(object="core", program="syscall_subject_fill", instructions=2_500, milliseconds=15),
    Budget(object="core", program="iter_task_subject", instructions=5_000, milliseconds=25),
    Budget(object="core", program="cgroup_connect4_subject", instructions=30_000, milliseconds=40),
    Budget(object="core", program="cgroup_connect6_subject", instructions=30_000, milliseconds=40),
    Budget(object="core", program="cgroup_sendmsg4_subject", instructions=30_000, milliseconds=40),
    Budget(object="core", program="cgroup_sendmsg6_subject", instructions=30_000, milliseconds=40),
    Budget(object="core", program="syscall_flow_sweep", instructions=5_000, milliseconds=6),
    Budget(object="core", program="tc_names", instructions=12_000, milliseconds=25),
    Budget(object="core", program="syscall_names", instructions=3_000, milliseconds=12),
    Budget(object="observe", program="tp_exec", instructions=8_000, milliseconds=60),
    Budget(object="observe", program="tp_fork", instructions=500, milliseconds=15),
    Budget(object="observe", program="tp_exit", instructions=500, milliseconds=15),
    Budget(object="observe", program="tp_cgroup_mkdir", instructions=1_000, milliseconds=8),
    Budget(object="observe", program="tp_sock_begin", instructions=2_500, milliseconds=30),
    Budget(object="observe", program="tp_sock_state_again", instructions=2_500, milliseconds=30),
    Budget(object="observe", program="tp_sock_state", instructions=2_500, milliseconds=30),
)


def measure(name: str, constants: Constants, *, data: bytes | None = None) -> tuple[Cost, ...]:
    """Load object NAME (or `data`) with statistics on; the cost of each of its programs."""
    ffi, lib = open_library()
    logs: dict[str, Any] = {}
    with BpfObject.open(name, constants=constants, data=data) as opened:
        for program, pointer in opened.program_pointers():
            logs[program] = ffi.new("char[]", LOG_BYTES)
            checked(lib.bpf_program__set_log_level(pointer, LOG_STATISTICS), "watch", program)
            checked(lib.bpf_program__set_log_buf(pointer, logs[program], LOG_BYTES), "watch", program)
        opened.load()
        messages.kept.clear()
        return tuple(
            Cost(
                object=name,
                program=program.name,
                instructions=program_info(program.fd, program.name).verified_instructions,
                milliseconds=_milliseconds(program.name, ffi.string(logs[program.name])),
            )
            for program in opened.programs()
        )


def _milliseconds(program: str, log: bytes) -> float:
    found = TIME.search(log)
    if found is None:
        raise KernelError("measure", program, detail="the kernel gave no verification time")
    return int(found[1]) / 1000
