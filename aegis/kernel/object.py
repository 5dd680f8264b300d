"""BPF objects: opened from package data, sized, given constants, loaded; and their programs."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import msgspec

import aegis
from aegis.errors import (
    AbiMismatch,
    CapabilityMissing,
    FeatureUnsupported,
    KernelError,
    LoadRejected,
    ShapeMismatch,
)
from aegis.kernel import type_information
from aegis.kernel.constants import SECTION, Constants
from aegis.kernel.library import CAPABILITIES_HINT, checked, failure, messages, open_library
from aegis.kernel.maps import Map, MapShape, duplicated

OBJECTS = Path(aegis.__file__).parent / "bpf"
MANIFEST = "objects.json"
NOT_PART_OF_SHAPE = 0x80  # BPF_F_RDONLY_PROG: libbpf sets it by itself on constants
REFUSED_PROGRAM = re.compile(r"prog '([^']+)': BPF program load failed")
LOG_LINES = 40
IMAGES, HITS = "aegis_images", "aegis_rule_hits"


@cache
def manifest() -> Mapping[str, str]:
    """SHA-256 of each object's file as the build wrote them, by file name."""
    try:
        return msgspec.json.decode((OBJECTS / MANIFEST).read_bytes(), type=dict[str, str])
    except OSError as error:
        raise FeatureUnsupported(
            "open", MANIFEST, error.errno or 0, hint="the BPF objects were not built: ./dev setup"
        ) from error


def read_object(name: str) -> bytes:
    """The bytes of object NAME, checked against the build's manifest."""
    file_name = f"{name}.bpf.o"
    expected = manifest().get(file_name)
    if expected is None:
        raise FeatureUnsupported("open", file_name, detail="not among the objects of this build")
    try:
        data = (OBJECTS / file_name).read_bytes()
    except OSError as error:
        raise FeatureUnsupported("open", file_name, error.errno or 0) from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise AbiMismatch(
            "open", file_name, detail="differs from the file that was built", hint="install again"
        )
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What BPF_PROG_TEST_RUN gave back: the program's value, mean duration and the packet afterwards."""

    retval: int
    duration_ns: int
    data_out: bytes
    ctx_out: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInfo:
    """The kernel's own description. `run_time_ns` and `run_count` stay 0 unless statistics are on.

    `recursion_misses`: events it did not see because it was running on that CPU already.
    """

    id: int
    name: str
    tag: str
    verified_instructions: int
    jited_bytes: int
    run_time_ns: int
    run_count: int
    recursion_misses: int


class Program:
    """A loaded program; its descriptor belongs to the object."""

    __slots__ = ("attach_type", "fd", "name", "section", "type")

    def __init__(self, pointer: Any) -> None:
        ffi, lib = open_library()
        self.name: str = ffi.string(lib.bpf_program__name(pointer)).decode()
        self.section: str = ffi.string(lib.bpf_program__section_name(pointer)).decode()
        self.type: int = lib.bpf_program__type(pointer)
        self.attach_type: int = lib.bpf_program__expected_attach_type(pointer)
        self.fd = checked(lib.bpf_program__fd(pointer), "find", self.name)

    def info(self) -> ProgramInfo:
        return program_info(self.fd, self.name)

    def run(self, data_in: bytes = b"", *, repeat: int = 1, ctx: bytes = b"", cpu: int = 0) -> RunResult:
        """Run it in place (BPF_PROG_TEST_RUN) on `data_in` with context struct `ctx`, `repeat` times.

        A SEC("syscall") program takes only `ctx` (writable: see `ctx_out`); the duration is 0 then.
        """
        ffi, lib = open_library()
        options = ffi.new("struct bpf_test_run_opts *")
        options.sz = ffi.sizeof("struct bpf_test_run_opts")
        context = ffi.new("char[]", ctx) if ctx else ffi.NULL
        options.ctx_in, options.ctx_size_in = context, len(ctx)
        if self.type == lib.BPF_PROG_TYPE_SYSCALL:
            checked(lib.bpf_prog_test_run_opts(self.fd, options), "run", self.name)
            after = bytes(ffi.buffer(context, len(ctx))) if ctx else b""
            return RunResult(retval=options.retval, duration_ns=0, data_out=b"", ctx_out=after)
        packet = ffi.from_buffer(data_in)
        room = ffi.new("char[]", len(data_in) + 256)
        options.repeat, options.cpu = repeat, cpu
        if data_in:
            options.data_in, options.data_size_in = packet, len(data_in)
            options.data_out, options.data_size_out = room, len(room)
        context_out = ffi.new("char[]", max(1, len(ctx)))
        if ctx:
            options.ctx_out, options.ctx_size_out = context_out, len(ctx)
        checked(lib.bpf_prog_test_run_opts(self.fd, options), "run", self.name)
        return RunResult(
            retval=options.retval,
            duration_ns=options.duration,
            data_out=bytes(ffi.buffer(room, options.data_size_out)) if data_in else b"",
            ctx_out=bytes(ffi.buffer(context_out, options.ctx_size_out)) if ctx else b"",
        )


def program_info(fd: int, name: str = "program") -> ProgramInfo:
    """The kernel's description of the program behind `fd`."""
    ffi, lib = open_library()
    info = ffi.new("struct bpf_prog_info *")
    size = ffi.new("unsigned int *", ffi.sizeof("struct bpf_prog_info"))
    checked(lib.bpf_obj_get_info_by_fd(fd, info, size), "describe", name)
    return ProgramInfo(
        id=info.id,
        name=ffi.string(info.name).decode(),
        tag=bytes(info.tag).hex(),
        verified_instructions=info.verified_insns,
        jited_bytes=info.jited_prog_len,
        run_time_ns=info.run_time_ns,
        run_count=info.run_cnt,
        recursion_misses=info.recursion_misses,
    )


class BpfObject:
    """One object file in the kernel. Open, `load()`, use programs and maps, `close()`."""

    def __init__(self, name: str, pointer: Any, btf: Path | None = None) -> None:
        self.name = name
        self._pointer = pointer
        self._btf = btf
        self._programs: dict[str, Program] = {}
        self._maps: dict[str, Map] = {}
        # By the names of the file: sharing a table gives it the other one's.
        self._declared = dict(self._map_pointers())

    @classmethod
    def open(
        cls,
        name: str,
        *,
        constants: Constants | None = None,
        map_sizes: Mapping[str, int] | None = None,
        autoload: Collection[str] | None = None,
        reuse: Mapping[str, Map] | None = None,
        btf: Path | None = None,
        data: bytes | None = None,
    ) -> BpfObject:
        """Object NAME of this build (or `data`), not yet in the kernel.

        `map_sizes`: entries (bytes for a ring) by map name. `autoload`: only these programs (None: all that the file
        loads by default). `reuse`: tables to share instead of making them; those the object does not declare are left
        out, a table keeps its own number of entries, and ShapeMismatch says that one has another layout.
        `btf`: type information of the kernel from a file instead of /sys/kernel/btf/vmlinux (for field offsets only).
        """
        ffi, lib = open_library()
        content = read_object(name) if data is None else data
        label = ffi.new("char[]", name.encode())
        custom = ffi.new("char[]", os.fsencode(btf)) if btf else ffi.NULL
        options = ffi.new("struct bpf_object_open_opts *", {"object_name": label, "btf_custom_path": custom})
        options.sz = ffi.sizeof("struct bpf_object_open_opts")
        pointer = lib.bpf_object__open_mem(ffi.from_buffer(content), len(content), options)
        if not pointer:
            raise failure(ffi.errno, "open", name, LoadRejected)
        opened = cls(name, pointer, btf)
        try:
            opened._prepare(constants, map_sizes or {}, autoload, reuse or {})
        except BaseException:
            opened.close()
            raise
        return opened

    def _prepare(
        self,
        constants: Constants | None,
        map_sizes: Mapping[str, int],
        autoload: Collection[str] | None,
        reuse: Mapping[str, Map],
    ) -> None:
        _, lib = open_library()
        if constants is not None:
            packed = constants.pack()
            pointer = self._map_pointer(SECTION)
            checked(lib.bpf_map__set_initial_value(pointer, packed, len(packed)), "set", SECTION, AbiMismatch)
            self._size_images(constants)
        for name, entries in map_sizes.items():
            checked(lib.bpf_map__set_max_entries(self._map_pointer(name), entries), "size", name)
        if autoload is not None:
            unknown = set(autoload)
            for program, pointer in self.program_pointers():
                unknown.discard(program)
                checked(lib.bpf_program__set_autoload(pointer, program in autoload), "select", program)
            if unknown:
                raise FeatureUnsupported("find", f"{self.name}: {', '.join(sorted(unknown))}", errno.ENOENT)
        for name in reuse.keys() & self._declared.keys():
            pointer, shared = self._declared[name], reuse[name]
            expect_same_shape(name, declared_shape(pointer), shared.shape)
            checked(lib.bpf_map__reuse_fd(pointer, shared.fd), "reuse", name)

    def _size_images(self, constants: Constants) -> None:
        """Give the policy's tables, where the object has them, the size that its programs are told."""
        _, lib = open_library()
        if IMAGES in self._declared:
            inner = lib.bpf_map__inner_map(self._declared[IMAGES])
            checked(lib.bpf_map__set_value_size(inner, constants.image_bytes), "size", IMAGES)
        if HITS in self._declared:
            entries = 2 * constants.rules
            checked(lib.bpf_map__set_max_entries(self._declared[HITS], entries), "size", HITS)

    def load(self) -> None:
        """Make the maps and put the programs through the verifier. Raises LoadRejected with the end of its log."""
        _, lib = open_library()
        messages.kept.clear()
        result = lib.bpf_object__load(self._pointer)
        log = messages.take()
        if result < 0:
            raise self._load_failure(-result, log)
        for name, pointer in self.program_pointers():
            if lib.bpf_program__autoload(pointer):
                self._programs[name] = Program(pointer)
        for name, pointer in self._declared.items():
            fd = lib.bpf_map__fd(pointer)
            if fd >= 0:
                self._maps[name] = Map(duplicated(fd, name), name)

    def _load_failure(self, number: int, log: str) -> KernelError:
        lines = log.strip().splitlines()
        refused = REFUSED_PROGRAM.search(log)
        subject = f"{self.name}: {refused[1]}" if refused else self.name
        if number == errno.EPERM:
            return CapabilityMissing("load", subject, number, hint=CAPABILITIES_HINT)
        lacking = None if refused else type_information.lacking(self._btf)
        if lacking is not None:
            detail = f"no type information (BTF) of this kernel: {lacking}"
            return FeatureUnsupported("load", subject, detail=detail, hint=type_information.HINT)
        said = [
            at for at, line in enumerate(lines) if line.startswith("processed ")
        ]  # the verifier's last line
        reason = lines[said[-1] - 1] if said and said[-1] > 0 else (lines[-1] if lines else "")
        fitted = ""
        if self._btf is not None:
            own = None if refused else type_information.own_problem()
            fitted = f" (fitted by the type information in {self._btf}{f'; {own}' if own else ''})"
        error = LoadRejected("load", subject, number, detail=reason + fitted)
        error.log = "\n".join(lines[-LOG_LINES:])
        return error

    def program(self, name: str) -> Program:
        try:
            return self._programs[name]
        except KeyError:
            raise FeatureUnsupported("find", f"program {name} in {self.name}", errno.ENOENT) from None

    def programs(self) -> tuple[Program, ...]:
        return tuple(self._programs.values())

    def map(self, name: str) -> Map:
        try:
            return self._maps[name]
        except KeyError:
            raise FeatureUnsupported("find", f"map {name} in {self.name}", errno.ENOENT) from None

    def maps(self) -> tuple[Map, ...]:
        return tuple(self._maps.values())

    def program_names(self) -> tuple[str, ...]:
        """Every program of the file, loaded or not."""
        return tuple(name for name, _ in self.program_pointers())

    def close(self) -> None:
        """Leave; programs and maps live on where a link or a pin holds them."""
        if self._pointer is not None:
            for each in self._maps.values():
                each.close()
            open_library()[1].bpf_object__close(self._pointer)
            self._pointer = None
            self._programs.clear()
            self._maps.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def program_pointers(self) -> Iterator[tuple[str, Any]]:
        """Name and libbpf's own struct of every program of the file."""
        ffi, lib = open_library()
        pointer = lib.bpf_object__next_program(self._pointer, ffi.NULL)
        while pointer:
            yield ffi.string(lib.bpf_program__name(pointer)).decode(), pointer
            pointer = lib.bpf_object__next_program(self._pointer, pointer)

    def _map_pointers(self) -> Iterator[tuple[str, Any]]:
        ffi, lib = open_library()
        pointer = lib.bpf_object__next_map(self._pointer, ffi.NULL)
        while pointer:
            yield ffi.string(lib.bpf_map__name(pointer)).decode(), pointer
            pointer = lib.bpf_object__next_map(self._pointer, pointer)

    def _map_pointer(self, name: str) -> Any:
        try:
            return self._declared[name]
        except KeyError:
            raise FeatureUnsupported("find", f"map {name} in {self.name}", errno.ENOENT) from None


def declared_shape(pointer: Any) -> MapShape:
    """The shape an opened object declares for a map."""
    _, lib = open_library()
    return MapShape(
        type=lib.bpf_map__type(pointer),
        key_size=lib.bpf_map__key_size(pointer),
        value_size=lib.bpf_map__value_size(pointer),
        max_entries=lib.bpf_map__max_entries(pointer),
        flags=lib.bpf_map__map_flags(pointer),
    )


def expect_same_shape(name: str, declared: MapShape, found: MapShape) -> None:
    """Raise ShapeMismatch that names every difference; the number of entries may differ."""
    ignored = {"max_entries": ~0, "flags": NOT_PART_OF_SHAPE}
    differences = [
        f"{field} {getattr(found, field)} instead of {getattr(declared, field)}"
        for field in MapShape.__dataclass_fields__
        if (getattr(found, field) ^ getattr(declared, field)) & ~ignored.get(field, 0)
    ]
    if differences:
        raise ShapeMismatch("reuse", name, detail=", ".join(differences))
