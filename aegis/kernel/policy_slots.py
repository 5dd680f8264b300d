"""The slots of the kernel's policy: an image is put into a free one and becomes the policy by one 8-byte store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from dataclasses import dataclass
from typing import Any, Self

from aegis._native import _system
from aegis.errors import KernelError, MapAccessFailed
from aegis.kernel import abi
from aegis.kernel.library import checked, messages, open_library
from aegis.kernel.maps import Map, possible_cpus
from aegis.kernel.policy_image import CompiledImage

GENERATION_SHIFT = 8  # of the state word; bit 7 is reserved, the slot below it
SLOT_MASK = 0x7F
_ZERO_KEY = bytes(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What the state word says: generation 0 is no policy."""

    generation: int
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Packets and bytes that a rule denied, or would have."""

    packets: int
    bytes: int


class PolicySlots:
    """Owns its descriptors of the three tables. One writer at a time: the agent."""

    def __init__(self, *, images: Map, control: Map, hits: Map) -> None:
        """Takes over the maps `aegis_images`, `aegis_control` and `aegis_rule_hits`."""
        self._images, self._control, self._hits = images, control, hits
        self._memory = control.mmap(writable=True)
        self._word: Any = _system.ffi.from_buffer(self._memory)

    @classmethod
    def of(cls, tables: Any) -> Self:
        """The slots of anything with `map(name)`: a loaded object or the datapath. It keeps its own descriptors."""
        with contextlib.ExitStack() as undo:
            found = {}
            for role, name in _TABLES.items():
                found[role] = tables.map(name).duplicate()
                undo.callback(found[role].close)
            slots = cls(**found)
            undo.pop_all()
        return slots

    def position(self) -> Position:
        """Read the state word."""
        word = _system.lib.aegis_load64(self._word)
        return Position(generation=word >> GENERATION_SHIFT, slot=word & SLOT_MASK)

    def holds(self, image: CompiledImage) -> bool:
        """Whether the slot that the state word names holds this image.

        Where the process may not open another one's table (CAP_SYS_ADMIN), any image will do. Raises KernelError.
        """
        _, lib = open_library()
        number = self._images.lookup(_key(self.position().slot))
        if number is None:
            return False
        fd = lib.bpf_map_get_fd_by_id(int.from_bytes(number, "little"))
        if fd == -errno.EPERM:
            messages.kept.clear()
            return True
        inner = Map(checked(fd, "open", "policy image", MapAccessFailed), "aegis_image")
        with contextlib.closing(inner):
            return _digest(inner, len(image.data)) == image.digest

    def switch(self, image: CompiledImage, generation: int) -> Position:
        """Make `image` the policy. Until the store at the end nothing changes, so any error leaves the old one.

        Returns the new position. The slot left behind is freed once no packet can be using it.
        """
        old = self.position()
        slot = (old.slot + 1) % abi.POLICY_SLOTS if old.generation else 0
        with contextlib.closing(self._filled(image)) as inner:
            self._clear_hits(slot, len(image.rules))
            self._images.update(_key(slot), inner.fd.to_bytes(4, "little"))
        _system.lib.aegis_store64(self._word, generation << GENERATION_SHIFT | slot)
        if old.generation:
            self._free(old.slot)
        return Position(generation=generation, slot=slot)

    def hits(self, rules: tuple[int, ...], slot: int | None = None) -> dict[int, Hits]:
        """What the rules with these ranks have hit since their generation began; all CPUs together.

        `slot`: of a policy that was left by the last switch; its counts stay until the next one.
        """
        base = (self.position().slot if slot is None else slot) * abi.MAX_RULES
        found = {}
        for rank in rules:
            packets, size = self._hits.sum_u64(_key(base + rank))
            found[rank] = Hits(packets=packets, bytes=size)
        return found

    def close(self) -> None:
        """Leave; the policy stays with the programs."""
        _system.ffi.release(self._word)
        self._memory.close()
        for each in (self._images, self._control, self._hits):
            each.close()

    def _filled(self, image: CompiledImage) -> Map:
        """A new inner map that holds the image, read back and compared."""
        _, lib = open_library()
        inner = Map.create(
            "ARRAY",
            "aegis_image",
            key_size=4,
            value_size=abi.IMAGE_BYTES,
            max_entries=1,
            flags=lib.BPF_F_MMAPABLE,
        )
        try:
            with contextlib.closing(inner.mmap(writable=True)) as memory:
                memory[: len(image.data)] = image.data
            # By a system call, not through the mapping: what the kernel will read.
            if _digest(inner, len(image.data)) != image.digest:
                raise MapAccessFailed("verify", "policy image", errno.EIO, detail="digest differs")
        except BaseException:
            inner.close()
            raise
        return inner

    def _clear_hits(self, slot: int, rules: int) -> None:
        """No packet counts in a slot that is not the policy, so this loses nothing."""
        ffi, lib = open_library()
        zeros = bytes((self._hits.value_size + 7) // 8 * 8 * possible_cpus())
        for rank in range(rules):
            key = _key(slot * abi.MAX_RULES + rank)
            result = lib.bpf_map_update_elem(
                self._hits.fd, ffi.from_buffer(key), ffi.from_buffer(zeros), lib.BPF_ANY
            )
            checked(result, "clear", self._hits.name, MapAccessFailed)

    def _free(self, slot: int) -> None:
        """Give an image back after every packet that read the old state word is through (an RCU grace period).

        Where that cannot be waited for, it stays until its slot is filled again.
        """
        lib = _system.lib
        if lib.aegis_membarrier(lib.MEMBARRIER_CMD_GLOBAL, 0) == 0:
            with contextlib.suppress(KernelError):
                self._images.delete(_key(slot))


def generation_in(tables: Any) -> int:
    """The generation the state word names, of anything with `map(name)`; 0 is no policy. Raises KernelError."""
    word = tables.map(_TABLES["control"]).lookup(_ZERO_KEY) or b""
    return int.from_bytes(word[:8], "little") >> GENERATION_SHIFT


_TABLES = {"images": "aegis_images", "control": "aegis_control", "hits": "aegis_rule_hits"}


def _digest(inner: Map, size: int) -> str:
    """SHA-256 of the first `size` bytes of an image in the kernel, in hex."""
    stored = inner.lookup(_ZERO_KEY) or b""
    return hashlib.sha256(memoryview(stored)[:size]).hexdigest()


def _key(index: int) -> bytes:
    return index.to_bytes(4, "little")
