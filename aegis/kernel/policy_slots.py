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

_STATE = abi.enum("aegis_state")
GENERATION_SHIFT = _STATE[
    "AEGIS_STATE_GENERATION_SHIFT"
]  # of the state word; the trial bit and the slot below it
TRIAL = _STATE["AEGIS_STATE_TRIAL"]
SLOT_MASK = TRIAL - 1
_ZERO_KEY = bytes(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What the state word says: generation 0 is no policy."""

    generation: int
    slot: int
    trial: bool = False

    @classmethod
    def of(cls, word: int) -> Self:
        return cls(generation=word >> GENERATION_SHIFT, slot=word & SLOT_MASK, trial=bool(word & TRIAL))

    @property
    def word(self) -> int:
        return self.generation << GENERATION_SHIFT | self.trial * TRIAL | self.slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Nanoseconds of CLOCK_BOOTTIME from which on the kernel itself uses `previous` again."""

    deadline_ns: int
    previous: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Packets and bytes that a rule denied, or would have."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """The table of a slot that was filled here, and how many of its bytes were written."""

    inner: Map
    written: int


def _nothing(_slot: int) -> None:
    """What an image needs beside it: nothing."""


class PolicySlots:
    """Owns its descriptors of the four tables. One writer at a time: the agent.

    The table of one slot that no packet uses any more stays where it is, for the next image: to put a new one there, and to
    take it away, the kernel waits for an RCU grace period each time.
    """

    def __init__(self, *, images: Map, control: Map, hits: Map, config: Map) -> None:
        """Takes over the maps `aegis_images`, `aegis_control`, `aegis_rule_hits` and `aegis_policy_slots`."""
        self._images, self._control, self._hits, self._config = images, control, hits, config
        self._capacity = hits.max_entries // 2  # ranks it has room for
        self._size = image_bytes_beside(hits.max_entries)
        self._held: dict[int, _Held] = {}
        self._spare: int | None = None  # the slot whose table may be written: a grace period ago it was left
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
        return Position.of(_system.lib.aegis_load64(self._word))

    def trial(self) -> Trial | None:
        """The trial of the state word's policy, also where its deadline has passed."""
        position = self.position()
        if not position.trial:
            return None
        slot = abi.unpack("aegis_policy_slot", self._config.lookup(_key(position.slot)) or b"")
        return Trial(deadline_ns=slot.deadline_ns, previous=Position.of(slot.previous))

    def last_generation(self) -> int:
        """The highest that a slot ever had: those of trials that were undone, too, are in cached verdicts."""
        rows = (self._config.lookup(_key(slot)) for slot in range(abi.POLICY_SLOTS))
        found = [abi.unpack("aegis_policy_slot", row).generation for row in rows if row]
        return max(self.position().generation, *map(int, found), 0)

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
        deadline_ns: int = 0,
    ) -> Position:
        """Make `image` the policy. Until the store at the end nothing changes, so any error leaves the old one.

        `put` fills what else a slot needs before it is used, `forget` empties it when no packet uses it any more.
        With a deadline it is on trial, and the slot of the policy before stays. Returns the new position. The slot left
        behind is freed once no packet can be using it. Raises KernelError, also where a policy is on trial already.
        """
        old = self.position()
        if old.trial:
            raise MapAccessFailed("fill", "policy image", errno.EBUSY, detail="a policy is on trial")
        if image.room > self._size:
            raise MapFull(
                "fill", "policy image", errno.ENOSPC, detail=f"needs {image.room} bytes, has {self._size}"
            )
        slot = self._free_slot({old.slot} if old.generation else set())
        position = Position(generation=generation, slot=slot, trial=deadline_ns > 0)
        put(slot)
        self.fill(slot, image)
        self._configure(position, deadline_ns, old if deadline_ns else None)
        _system.lib.aegis_store64(self._word, position.word)
        if old.generation and not deadline_ns:
            self._free((old.slot,), forget)
        return position

    def confirm(
        self,
        image: CompiledImage,
        over: Callable[[], bool],
        *,
        put: Callable[[int], None] = _nothing,
        forget: Callable[[int], None] = _nothing,
    ) -> Position | None:
        """End the trial of the policy in force, whose `image` it is, by putting it into a slot without a deadline.

        `over`: whether the deadline has passed, asked right before the store; then nothing changes, and None is returned.
        Raises KernelError; the trial goes on then.
        """
        old, trial = self.position(), self.trial()
        if trial is None:
            raise MapAccessFailed("confirm", "policy image", errno.ENOENT, detail="nothing is on trial")
        taken = {old.slot, trial.previous.slot} if trial.previous.generation else {old.slot}
        slot = self._free_slot(taken)
        position = Position(generation=old.generation, slot=slot)
        put(slot)
        self.fill(slot, image)
        self._configure(position, 0, None)
        if over():
            self._free((slot,), forget)
            return None
        _system.lib.aegis_store64(self._word, position.word)
        self._free(tuple(taken), forget)
        return position

    def revert(self, forget: Callable[[int], None] = _nothing) -> Position:
        """End the trial by going back to the policy before it, as the kernel does at the deadline. Raises KernelError."""
        old, trial = self.position(), self.trial()
        if trial is None:
            raise MapAccessFailed("undo", "policy image", errno.ENOENT, detail="nothing is on trial")
        _system.lib.aegis_store64(self._word, trial.previous.word)
        self._free((old.slot,), forget)
        return trial.previous

    def _configure(self, position: Position, deadline_ns: int, previous: Position | None) -> None:
        """Write what a slot is beside its image, before a state word names it."""
        row = abi.pack(
            "aegis_policy_slot",
            generation=position.generation,
            deadline_ns=deadline_ns,
            previous=previous.word if previous is not None and previous.generation else 0,
        )
        self._config.update(_key(position.slot), row)

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
        """Put an image into a slot that no packet uses. Raises KernelError; nothing is in force by it."""
        held = self._held.pop(slot, None)
        spare, self._spare = self._spare, None if self._spare == slot else self._spare
        inner = held.inner if held is not None and spare == slot and self._is_in(slot, held.inner) else None
        if held is not None and inner is None:
            held.inner.close()
        try:
            if inner is not None and held is not None:
                self._write(inner, image, held.written)
            else:
                inner = self._table()
                self._write(inner, image, 0)
                self._images.update(_key(slot), inner.fd.to_bytes(4, "little"))
        except BaseException:
            if inner is not None:
                inner.close()
            raise
        self._held[slot] = _Held(inner=inner, written=len(image.data))

    def _is_in(self, slot: int, inner: Map) -> bool:
        """Whether nobody put another table into the slot meanwhile."""
        return self._images.lookup(_key(slot)) == inner.id.to_bytes(4, "little")

    def _free_slot(self, taken: set[int]) -> int:
        """A slot beside these: the one whose table waits, else one with an image that nobody took away, else any."""
        if self._spare is not None and self._spare not in taken:
            return self._spare
        free = [each for each in range(abi.POLICY_SLOTS) if each not in taken]
        return next((each for each in free if self._images.lookup(_key(each)) is not None), free[0])

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
        for held in self._held.values():
            held.inner.close()
        self._held.clear()
        _system.ffi.release(self._word)
        self._memory.close()
        for each in (self._images, self._control, self._hits, self._config):
            each.close()

    def _table(self) -> Map:
        """A new inner map, of zeros."""
        _, lib = open_library()
        return Map.create(
            "ARRAY",
            "aegis_image",
            key_size=4,
            value_size=self._size,
            max_entries=1,
            flags=lib.BPF_F_MMAPABLE,
        )

    @staticmethod
    def _write(inner: Map, image: CompiledImage, written: int) -> None:
        """Put the image where `written` bytes of another may be, read it back and compare. Raises KernelError."""
        size = len(image.data)
        with contextlib.closing(inner.mmap(writable=True)) as memory:
            memory[:size] = image.data
            if written > size:
                memory[size:written] = bytes(written - size)
        # By a mapping of its own, of the very pages that the kernel will read.
        if _digest(inner, size) != image.digest:
            raise MapAccessFailed("verify", "policy image", errno.EIO, detail="digest differs")

    def _free(self, slots: tuple[int, ...], forget: Callable[[int], None]) -> None:
        """Give images back after every packet that read the old state word is through (an RCU grace period).

        The table of one is kept for the next image. Where the wait fails, all stay until their slots are filled again.
        """
        lib = _system.lib
        if lib.aegis_membarrier(lib.MEMBARRIER_CMD_GLOBAL, 0) == 0:
            for slot in slots:
                with contextlib.suppress(KernelError):
                    if self._spare is None and slot in self._held:
                        self._spare = slot
                    elif slot != self._spare:
                        self._images.delete(_key(slot))
                        if slot in self._held:
                            self._held.pop(slot).inner.close()
                    forget(slot)


def generation_in(tables: Any) -> int:
    """The generation the state word names, of anything with `map(name)`; 0 is no policy. Raises KernelError."""
    word = tables.map(_TABLES["control"]).lookup(_ZERO_KEY) or b""
    return int.from_bytes(word[:8], "little") >> GENERATION_SHIFT


_TABLES = {
    "images": "aegis_images",
    "control": "aegis_control",
    "hits": "aegis_rule_hits",
    "config": "aegis_policy_slots",
}


def _digest(inner: Map, size: int) -> str:
    """SHA-256 of the first `size` bytes of an image in the kernel, in hex."""
    with contextlib.closing(inner.mmap(writable=False)) as memory, memoryview(memory) as view:
        return hashlib.sha256(view[:size]).hexdigest()


def _key(index: int) -> bytes:
    return index.to_bytes(4, "little")
