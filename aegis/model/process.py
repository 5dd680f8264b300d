"""A process: who it is, what it runs, where it comes from.

A process is `(pid, start_ns)`: the thread group id, and the start of its leader on CLOCK_BOOTTIME. What runs in it
changes at exec, so a `Process` describes it from one exec (or fork) to the next.
"""

from __future__ import annotations

import enum

import msgspec

from aegis.model.absent import Absent

OWNER_PID_BITS = 22  # /proc/sys/kernel/pid_max is at most 2^22
OWNER_MASK = (1 << 64) - 1


def owner_key(pid: int, start_ns: int) -> int:
    """The owner id of `struct aegis_flow_value`: the start in units of 1,024 ns above 22 bits of pid.

    The upper bits of the start fall out of 64 bits, in the kernel as here: two processes of the same pid have the
    same id when they start exactly 52 days apart.
    """
    return ((start_ns >> 10) << OWNER_PID_BITS | pid) & OWNER_MASK


def readable(text: bytes) -> str:
    r"""Bytes the kernel took from a process, as text: each byte that is not UTF-8 is shown as `\xNN`.

    Control characters are kept: JSON escapes them, and what prints for a terminal must.
    """
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode(errors="backslashreplace")


def legible(text: str) -> str:
    r"""Text whose surrogates stand for bytes that were no UTF-8, each as `\xNN`: what is encoded holds no surrogate."""
    if text.isascii():
        return text
    try:
        return readable(text.encode(errors="surrogateescape"))
    except UnicodeEncodeError:  # half of a pair, which stands for no byte
        return text.encode(errors="backslashreplace").decode()


class Cgroup(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A control group of the version 2 hierarchy: id, path from its root, and the systemd unit it belongs to."""

    id: int
    path: str
    unit: str | None


class Ancestor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A process seen from below: enough to recognise it, without its own ancestors (which would be kept for ever)."""

    pid: int
    start_ns: int
    comm: bytes | Absent
    exe: bytes | Absent


class Process(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a process between one exec and the next.

    `args` is the argument block as it lay in memory, each argument ended by NUL; `args_total` is the length it had
    there in bytes, more than `len(args)` when it was cut. `ancestors` has at most eight, the parent first.
    """

    pid: int
    start_ns: int
    ppid: int | Absent
    uid: int
    gid: int | Absent
    comm: bytes | Absent
    exe: bytes | Absent
    exe_deleted: bool = False
    exe_truncated: bool = False
    args: bytes | Absent
    args_total: int
    cwd: bytes | Absent
    cgroup: Cgroup | Absent
    ancestors: tuple[Ancestor, ...]

    @property
    def key(self) -> int:
        """Its owner id in the flow table."""
        return owner_key(self.pid, self.start_ns)

    @property
    def args_truncated(self) -> bool:
        return not isinstance(self.args, Absent) and len(self.args) < self.args_total

    def argv(self) -> list[str] | None:
        """The arguments, empty ones included; the last one is incomplete when they were cut. None: absent."""
        if isinstance(self.args, Absent):
            return None
        if not self.args:
            return []
        block = self.args[:-1] if self.args.endswith(b"\0") else self.args
        return [readable(argument) for argument in block.split(b"\0")]

    def as_ancestor(self) -> Ancestor:
        """This process as its children name it."""
        return Ancestor(pid=self.pid, start_ns=self.start_ns, comm=self.comm, exe=self.exe)


class OwnerLabel(enum.StrEnum):
    """Who owns a socket or flow when it is no process."""

    UNKNOWN = "unknown"
    KERNEL = "kernel"
    REQUEST = "request"
    FORWARDED = "forwarded"

    @property
    def reason(self) -> str:
        """Why no process is named, in words."""
        return _LABEL_REASONS[self]


_LABEL_REASONS = {
    OwnerLabel.UNKNOWN: "the socket carries no owner",
    OwnerLabel.KERNEL: "a socket of the kernel's own",
    OwnerLabel.REQUEST: "a connection being opened; its next packet names the process",
    OwnerLabel.FORWARDED: "forwarded: no socket on this host",
}

Owner = Process | OwnerLabel
