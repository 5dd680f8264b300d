"""The slots of the kernel's policy: an image is put into a free one and becomes the policy by one 8-byte store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from aegis._native import _system
from aegis.errors import KernelError, MapAccessFailed, MapFull
from aegis.kernel import abi
from aegis.kernel.constants import image_bytes_beside
from aegis.kernel.library import checked, messages, open_library
from aegis.kernel.maps import Map
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


def _nothing(_slot: int) -> None:
    """What an image needs beside it: nothing."""


class PolicySlots:
    """Owns its descriptors of the three tables. One writer at a time: the agent."""

    def __init__(self, *, images: Map, control: Map, hits: Map) -> None:
        """Takes over the maps `aegis_images`, `aegis_control` and `aegis_rule_hits`."""
        self._images, self._control, self._hits = images, control, hits
        self._capacity = hits.max_entries // 2  # ranks it has room for
        self._size = image_bytes_beside(hits.max_entries)
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

    @property
    def room(self) -> int:
        """The size of images that the programs were loaded with. What needs more is refused by `switch`."""
        return self._size

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

    def switch(
        self,
        image: CompiledImage,
        generation: int,
        *,
        put: Callable[[int], None] = _nothing,
        forget: Callable[[int], None] = _nothing,
    ) -> Position:
        """Make `image` the policy. Until the store at the end nothing changes, so any error leaves the old one.

        `put` fills what else a slot needs before it is used, `forget` empties it when no packet uses it any more.
        Returns the new position. The slot left behind is freed once no packet can be using it.
        """
        old = self.position()
        slot = (old.slot + 1) % abi.POLICY_SLOTS if old.generation else 0
        if image.room > self._size:
            raise MapFull(
                "fill", "policy image", errno.ENOSPC, detail=f"needs {image.room} bytes, has {self._size}"
            )
        put(slot)
        self.fill(slot, image)
        _system.lib.aegis_store64(self._word, generation << GENERATION_SHIFT | slot)
        if old.generation:
            self._free(old.slot, forget)
        return Position(generation=generation, slot=slot)

    def seed(self, tables: Any, image: CompiledImage) -> None:
        """Put the image in force into the same slot of other tables, for programs that share the state word.

        Raises KernelError.
        """
        position = self.position()
        if not position.generation:
            return
        with contextlib.closing(type(self).of(tables)) as others:
            others.fill(position.slot, image)

    def fill(self, slot: int, image: CompiledImage) -> None:
        """Put an image into a slot that no packet uses. Raises KernelError."""
        with contextlib.closing(self._filled(image)) as inner:
            self._images.update(_key(slot), inner.fd.to_bytes(4, "little"))

    def hits(self, rules: tuple[int, ...], generation: int | None = None) -> dict[int, Hits]:
        """What the rules with these ranks have hit since their generation began; all CPUs together.

        `generation`: of a policy that was left by the last switch; its counts stay until the next one.
        """
        wanted = self.position().generation if generation is None else generation
        base = (wanted & 1) * self._capacity
        found = {}
        for rank in rules:
            values = [
                struct.unpack("=3Q", each) for each in self._hits.lookup_percpu(_key(base + rank)) or ()
            ]
            own = [(packets, size) for number, packets, size in values if number == wanted]
            found[rank] = Hits(packets=sum(each[0] for each in own), bytes=sum(each[1] for each in own))
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
            value_size=self._size,
            max_entries=1,
            flags=lib.BPF_F_MMAPABLE,
        )
        try:
            with contextlib.closing(inner.mmap(writable=True)) as memory:
                memory[: len(image.data)] = image.data
            # By a mapping of its own, of the very pages that the kernel will read.
            if _digest(inner, len(image.data)) != image.digest:
                raise MapAccessFailed("verify", "policy image", errno.EIO, detail="digest differs")
        except BaseException:
            inner.close()
            raise
        return inner

    def _free(self, slot: int, forget: Callable[[int], None]) -> None:
        """Give an image back after every packet that read the old state word is through (an RCU grace period).

        Where that cannot be waited for, it stays until its slot is filled again.
        """
        lib = _system.lib
        if lib.aegis_membarrier(lib.MEMBARRIER_CMD_GLOBAL, 0) == 0:
            with contextlib.suppress(KernelError):
                self._images.delete(_key(slot))
                forget(slot)


def generation_in(tables: Any) -> int:
    """The generation the state word names, of anything with `map(name)`; 0 is no policy. Raises KernelError."""
    word = tables.map(_TABLES["control"]).lookup(_ZERO_KEY) or b""
    return int.from_bytes(word[:8], "little") >> GENERATION_SHIFT


_TABLES = {"images": "aegis_images", "control": "aegis_control", "hits": "aegis_rule_hits"}


def _digest(inner: Map, size: int) -> str:
    """SHA-256 of the first `size` bytes of an image in the kernel, in hex."""
    with contextlib.closing(inner.mmap(writable=False)) as memory, memoryview(memory) as view:
        return hashlib.sha256(view[:size]).hexdigest()


def _key(index: int) -> bytes:
    return index.to_bytes(4, "little")
