"""Aggregation of records by a 64-bit key."""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.string cimport memset

from aegis._native cimport abi

import secrets

cdef enum:
    LARGEST = 1 << 24


cdef class Tally:
    """Count and total of a value for each key of one kind of record, filled by RingReader.drain.

    At most `capacity` keys; a record whose key finds no room is counted in `overflow` and nowhere else.
    """

    def __cinit__(self, int kind, Py_ssize_t capacity):
        cdef uint64_t slots = 16
        cdef uint32_t bits = 4
        cdef abi.aegis_synthetic *shape = NULL
        if not 1 <= capacity <= LARGEST:
            raise ValueError(f"capacity {capacity} is not between 1 and {LARGEST}")
        if kind != abi.AEGIS_KIND_SYNTHETIC:
            raise ValueError(f"records of kind {kind} have no key to tally by")
        # At most half full, so that a search for a free slot ends soon.
        while slots < 2 * <uint64_t>capacity:
            slots *= 2
            bits += 1
        self.kind = kind
        self.table.key_offset = <uint32_t><size_t>&shape.key
        self.table.value_offset = <uint32_t><size_t>&shape.value
        self.table.limit = capacity
        self.table.mask = slots - 1
        self.table.shift = 64 - bits
        self.table.multiplier = secrets.randbits(64) | 1
        self.table.slots = <tally_slot *>PyMem_RawCalloc(slots, sizeof(tally_slot))
        if self.table.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_RawFree(self.table.slots)

    def __len__(self):
        return self.table.used

    @property
    def overflow(self):
        """Records whose key found no room."""
        return self.table.overflow

    def items(self):
        """(key, count, total) of each key, in no order. The total is modulo 2**64."""
        cdef uint64_t index
        cdef tally_slot *slot
        cdef list found = []
        for index in range(self.table.mask + 1):
            slot = &self.table.slots[index]
            if slot.count:
                found.append((slot.key, slot.count, slot.total))
        return found

    def clear(self):
        """Forget all keys and the overflow."""
        memset(self.table.slots, 0, (self.table.mask + 1) * sizeof(tally_slot))
        self.table.used = 0
        self.table.overflow = 0
