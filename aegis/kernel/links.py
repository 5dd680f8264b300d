"""Links: a program held at its hook by a descriptor. Closing the last holder (descriptor or pin) detaches it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aegis.errors import AttachFailed
from aegis.kernel.library import checked, failure, open_library
from aegis.kernel.maps import Map
from aegis.kernel.object import Program

ITERATOR_READ = 65_536  # bytes a read; an iterator's own buffer is 32 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkInfo:
    """The kernel's description. `ifindex` (tcx) or `cgroup_id` is 0 when the interface or cgroup is gone."""

    id: int
    program_id: int
    ifindex: int
    attach_type: int
    cgroup_id: int


class Link:
    """A program at a hook. Owns its descriptor."""

    __slots__ = ("fd", "name")

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    @classmethod
    def from_pin(cls, path: Path | str) -> Link:
        _, lib = open_library()
        return cls(checked(lib.bpf_obj_get(os.fsencode(path)), "open pin", str(path)), os.path.basename(path))

    def info(self) -> LinkInfo:
        ffi, lib = open_library()
        info = ffi.new("struct aegis_link_info *")
        checked(lib.aegis_link_info(self.fd, info), "describe", self.name)
        return LinkInfo(
            id=info.id,
            program_id=info.prog_id,
            ifindex=info.ifindex,
            attach_type=info.tcx_attach_type,
            cgroup_id=info.cgroup_id,
        )

    def pin(self, path: Path | str) -> None:
        _, lib = open_library()
        checked(lib.bpf_obj_pin(self.fd, os.fsencode(path)), "pin", f"{self.name} at {path}")

    def update(self, program: Program) -> None:
        """Put another program in its place in one step. Raises AttachFailed (ENOLINK: the hook is gone)."""
        ffi, lib = open_library()
        result = lib.bpf_link_update(self.fd, program.fd, ffi.NULL)
        checked(result, f"swap in {program.name} at", self.name, AttachFailed)

    def detach(self) -> None:
        """Take the program off now, whoever else holds the link."""
        _, lib = open_library()
        checked(lib.bpf_link_detach(self.fd), "detach", self.name)

    def close(self) -> None:
        """Give the descriptor back; the program stays where a pin holds it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def attach_tracing(program: Program) -> Link:
    """A `tp_btf/NAME` or `raw_tp/NAME` program at its tracepoint."""
    ffi, lib = open_library()
    if program.type == lib.BPF_PROG_TYPE_RAW_TRACEPOINT:
        tracepoint = program.section.partition("/")[2].encode()
        fd = lib.bpf_raw_tracepoint_open(tracepoint, program.fd)
    elif program.type == lib.BPF_PROG_TYPE_TRACING and program.attach_type == lib.BPF_TRACE_RAW_TP:
        fd = lib.bpf_raw_tracepoint_open(ffi.NULL, program.fd)
    else:
        raise AttachFailed("attach", program.name, errno.EINVAL, detail=f"{program.section} is no tracepoint")
    return Link(checked(fd, "attach", program.name, AttachFailed), program.name)


def attach_cgroup(program: Program, cgroup_fd: int) -> Link:
    """A cgroup program at the cgroup behind `cgroup_fd`, beside whatever is there (a link is always MULTI)."""
    _, lib = open_library()
    fd = lib.aegis_link_create(program.fd, cgroup_fd, program.attach_type)
    return Link(checked(fd, "attach", program.name, AttachFailed), program.name)


def attach_iter(program: Program, walked: Map | None = None) -> Link:
    """An iterator program, over the entries of `walked` for `iter/bpf_map_elem`."""
    _, lib = open_library()
    fd = lib.aegis_link_create_iter(program.fd, -1 if walked is None else walked.fd)
    return Link(checked(fd, "attach", program.name, AttachFailed), program.name)


def read_iter(link: Link) -> Iterator[bytes]:
    """Run an attached iterator once; yields what it writes, in chunks of any size."""
    _, lib = open_library()
    fd = checked(lib.bpf_iter_create(link.fd), "run", link.name)
    try:
        while True:
            try:
                chunk = os.read(fd, ITERATOR_READ)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # the kernel asks to be called again
                    continue
                raise failure(error.errno or 0, "run", link.name) from error
            if not chunk:
                return
            yield chunk
    finally:
        os.close(fd)


def run_iter(program: Program, walked: Map | None = None) -> bytes:
    """Attach, run once and detach; everything the iterator wrote."""
    with attach_iter(program, walked) as link:
        return b"".join(read_iter(link))
