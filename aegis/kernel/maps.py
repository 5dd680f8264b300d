"""Kernel tables by descriptor: read, write, walk in batches, map into memory, pin."""

from __future__ import annotations

import errno
import functools
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis.errors import MapAccessFailed, MapFull
from aegis.kernel.library import checked, failure, open_library

PER_CPU_TYPES = ("BPF_MAP_TYPE_PERCPU_HASH", "BPF_MAP_TYPE_PERCPU_ARRAY", "BPF_MAP_TYPE_LRU_PERCPU_HASH")
BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MapShape:
    """What must agree for two objects to share a map. Sizes in bytes; `type` is enum bpf_map_type."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@functools.cache
def possible_cpus() -> int:
    """Number of CPUs a per-CPU map has values for."""
    _, lib = open_library()
    return checked(lib.libbpf_num_possible_cpus(), "count", "possible CPUs")


class Map:
    """One kernel table. Owns its descriptor; keys and values are bytes of the map's own sizes."""

    __slots__ = ("_stride", "fd", "id", "key_size", "max_entries", "name", "shape", "value_size")

    def __init__(self, fd: int, name: str | None = None) -> None:
        """Takes over `fd`. `name` is the full one where the caller knows it (the kernel keeps 15 characters)."""
        ffi, lib = open_library()
        info = ffi.new("struct bpf_map_info *")
        size = ffi.new("unsigned int *", ffi.sizeof("struct bpf_map_info"))
        self.fd = fd
        try:
            checked(lib.bpf_obj_get_info_by_fd(fd, info, size), "describe", name or "map", MapAccessFailed)
        except BaseException:
            self.close()
            raise
        self.name: str = name or ffi.string(info.name).decode()
        self.id: int = info.id
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.max_entries: int = info.max_entries
        self.shape = MapShape(
            type=info.type,
            key_size=info.key_size,
            value_size=info.value_size,
            max_entries=info.max_entries,
            flags=info.map_flags,
        )
        per_cpu = {getattr(lib, kind) for kind in PER_CPU_TYPES}
        self._stride = (info.value_size + 7) // 8 * 8 if info.type in per_cpu else 0

    @classmethod
    def create(
        cls,
        kind: str,
        name: str,
        *,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        inner: Map | None = None,
    ) -> Map:
        """A new map. `kind` is the end of its BPF_MAP_TYPE_ name, `flags` are BPF_F_ bits.

        A map of maps takes maps that are like `inner`.
        """
        ffi, lib = open_library()
        like = inner.fd if inner is not None else 0
        options = ffi.new("struct bpf_map_create_opts *", {"map_flags": flags, "inner_map_fd": like})
        options.sz = ffi.sizeof("struct bpf_map_create_opts")
        number = getattr(lib, f"BPF_MAP_TYPE_{kind}")
        fd = lib.bpf_map_create(number, name[:15].encode(), key_size, value_size, max_entries, options)
        return cls(checked(fd, "create map", name, MapAccessFailed), name)

    @classmethod
    def from_pin(cls, path: Path | str) -> Map:
        """The map pinned at `path`; its name is the file's."""
        _, lib = open_library()
        fd = lib.bpf_obj_get(os.fsencode(path))
        return cls(checked(fd, "open pin", str(path), MapAccessFailed), os.path.basename(path))

    @property
    def is_per_cpu(self) -> bool:
        return self._stride > 0

    @property
    def memory_bytes(self) -> int:
        """Kernel memory charged for it (`memlock` of its fdinfo; per-CPU maps: of all CPUs)."""
        with open(f"/proc/self/fdinfo/{self.fd}", "rb") as file:
            for line in file:
                if line.startswith(b"memlock:"):
                    return int(line.split()[1])
        return 0

    def pin(self, path: Path | str) -> None:
        _, lib = open_library()
        checked(lib.bpf_obj_pin(self.fd, os.fsencode(path)), "pin", f"{self.name} at {path}", MapAccessFailed)

    def duplicate(self) -> Map:
        """A second owner of the same table."""
        return Map(duplicated(self.fd, self.name), self.name)

    def close(self) -> None:
        """Give the descriptor back; the table lives on while a program or a pin holds it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def lookup(self, key: bytes) -> bytes | None:
        """The value of `key`, or None. Not for per-CPU maps."""
        if self._stride:
            raise MapAccessFailed("look up", self.name, detail="values are per CPU: use lookup_percpu")
        return self._read(key, self.value_size)

    def lookup_percpu(self, key: bytes) -> tuple[bytes, ...] | None:
        """The value of `key` on each possible CPU, or None."""
        if not self._stride:
            raise MapAccessFailed("look up", self.name, detail="values are not per CPU: use lookup")
        raw = self._read(key, self._stride * possible_cpus())
        if raw is None:
            return None
        return tuple(raw[at : at + self.value_size] for at in range(0, len(raw), self._stride))

    def sum_u64(self, key: bytes) -> tuple[int, ...]:
        """A per-CPU value made of 64-bit counters, added over the CPUs."""
        words = self.value_size // 8
        total = [0] * words
        for value in self.lookup_percpu(key) or ():
            for index, number in enumerate(memoryview(value)[: words * 8].cast("Q")):
                total[index] += number
        return tuple(total)

    def update(self, key: bytes, value: bytes, *, flags: int = 0) -> None:
        """Set `key` to `value`. Raises MapFull where there is no room. `flags`: BPF_ANY, BPF_NOEXIST, BPF_EXIST."""
        ffi, lib = open_library()
        self._expect(key, self.key_size, "key")
        self._expect(value, self.value_size, "value")
        result = lib.bpf_map_update_elem(self.fd, ffi.from_buffer(key), ffi.from_buffer(value), flags)
        if result == -errno.E2BIG:
            raise MapFull("update", self.name, errno.E2BIG, detail=f"{self.max_entries} entries")
        checked(result, "update", self.name, MapAccessFailed)

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False when it was not there."""
        ffi, lib = open_library()
        self._expect(key, self.key_size, "key")
        result = lib.bpf_map_delete_elem(self.fd, ffi.from_buffer(key))
        if result == -errno.ENOENT:
            return False
        checked(result, "delete", self.name, MapAccessFailed)
        return True

    def keys(self) -> Iterator[bytes]:
        """Every key, one system call each. Keys that come or go meanwhile may be missed or seen twice."""
        ffi, lib = open_library()
        key = ffi.new("char[]", self.key_size)
        previous: Any = ffi.NULL
        while True:
            result = lib.bpf_map_get_next_key(self.fd, previous, key)
            if result == -errno.ENOENT:
                return
            checked(result, "walk", self.name, MapAccessFailed)
            yield bytes(ffi.buffer(key))
            previous = key

    def batches(self, size: int = BATCH) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Keys and values of up to `size` entries at a time with their count, valid until the next step."""
        ffi, lib = open_library()
        width = self._stride * possible_cpus() if self._stride else self.value_size
        options = ffi.new("struct bpf_map_batch_opts *")
        options.sz = ffi.sizeof("struct bpf_map_batch_opts")
        # The cursor is a u32 for hash tables and a key for arrays.
        cursor = ffi.new("char[]", max(4, self.key_size))
        count = ffi.new("unsigned int *")
        keys, values = bytearray(size * self.key_size), bytearray(size * width)
        first: Any = ffi.NULL
        while True:
            count[0] = len(keys) // self.key_size
            result = lib.bpf_map_lookup_batch(
                self.fd, first, cursor, ffi.from_buffer(keys), ffi.from_buffer(values), count, options
            )
            if result == -errno.ENOSPC and count[0] == 0:
                # One bucket of the hash holds more than the batch.
                keys, values = bytearray(2 * len(keys)), bytearray(2 * len(values))
                continue
            if result not in (0, -errno.ENOENT, -errno.ENOSPC):
                raise failure(result, "read batch of", self.name, MapAccessFailed)
            if count[0]:
                yield (
                    memoryview(keys)[: count[0] * self.key_size],
                    memoryview(values)[: count[0] * width],
                    count[0],
                )
            if result == -errno.ENOENT:
                return
            first = cursor

    def items_batch(self, size: int = BATCH) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value (per-CPU values one after the other, each padded to 8 bytes), `size` a call."""
        for keys, values, count in self.batches(size):
            width = len(values) // count
            for index in range(count):
                yield (
                    bytes(keys[index * self.key_size : (index + 1) * self.key_size]),
                    bytes(values[index * width : (index + 1) * width]),
                )

    def mmap(self, *, writable: bool) -> mmap.mmap:
        """The values of an ARRAY with BPF_F_MMAPABLE as shared memory; whole pages, values 8-byte aligned."""
        length = (self.value_size + 7) // 8 * 8 * self.max_entries
        length = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            return mmap.mmap(self.fd, length, flags=mmap.MAP_SHARED, prot=protection)
        except OSError as error:
            raise failure(error.errno or 0, "map into memory", self.name, MapAccessFailed) from error

    def _read(self, key: bytes, size: int) -> bytes | None:
        ffi, lib = open_library()
        self._expect(key, self.key_size, "key")
        value = ffi.new("char[]", size)
        result = lib.bpf_map_lookup_elem(self.fd, ffi.from_buffer(key), value)
        if result == -errno.ENOENT:
            return None
        checked(result, "look up", self.name, MapAccessFailed)
        return bytes(ffi.buffer(value))

    def _expect(self, data: bytes, size: int, what: str) -> None:
        if len(data) != size:
            raise MapAccessFailed("use", self.name, detail=f"{what} of {len(data)} bytes, needs {size}")


def duplicated(fd: int, name: str) -> int:
    """A second descriptor of a table. Raises MapAccessFailed where the process has no more of them."""
    try:
        return os.dup(fd)
    except OSError as error:
        raise failure(error.errno or 0, "duplicate", name, MapAccessFailed) from error


def map_bytes(maps: Iterable[Map]) -> int:
    """Kernel memory of these maps together; one that appears twice (shared by two objects) counts once."""
    return sum({each.id: each.memory_bytes for each in maps}.values())
