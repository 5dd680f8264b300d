"""A hash table from 64-bit keys to pointers: open addressing, no tombstones, as large as what is in it.

Zero it and give it an odd random `multiplier` before the first use, so that nobody outside can choose keys
that collide; hand it to `index_free` at the end. A pointer in it is never NULL. Nothing here needs the GIL.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    INDEX_LEAST = 64  # slots


cdef struct index_slot:
    uint64_t key
    void *value  # NULL: the slot is free


cdef struct index:
    index_slot *slots
    size_t count  # of slots: a power of two
    size_t used
    uint64_t multiplier
    uint32_t shift


cdef inline size_t index_home(const index *table, uint64_t key) noexcept nogil:
    return <size_t>((key * table.multiplier) >> table.shift)


cdef inline index_slot *index_place(const index *table, uint64_t key) noexcept nogil:
    """The slot that holds the key, or the free one where it belongs. There must be slots."""
    cdef size_t at = index_home(table, key)
    while table.slots[at].value != NULL and table.slots[at].key != key:
        at = (at + 1) & (table.count - 1)
    return &table.slots[at]


cdef inline void *index_find(const index *table, uint64_t key) noexcept nogil:
    """What was put under the key, or NULL."""
    return index_place(table, key).value if table.used else NULL


cdef inline bint index_resize(index *table, size_t count) noexcept nogil:
    cdef index old = table[0]
    cdef size_t at
    cdef index_slot *slots = <index_slot *>PyMem_RawCalloc(count, sizeof(index_slot))
    if slots == NULL:
        return False
    table.slots = slots
    table.count = count
    table.shift = 64
    while count > 1:
        table.shift -= 1
        count >>= 1
    for at in range(old.count):
        if old.slots[at].value != NULL:
            index_place(table, old.slots[at].key)[0] = old.slots[at]
    PyMem_RawFree(old.slots)
    return True


cdef inline bint index_reserve(index *table) noexcept nogil:
    """Room for one more; False when there is no memory for it."""
    if 2 * (table.used + 1) <= table.count:
        return True
    return index_resize(table, 2 * table.count if table.count else <size_t>INDEX_LEAST)


cdef inline void *index_put(index *table, uint64_t key, void *value) noexcept nogil:
    """Put it under the key; what was there before, or NULL. `index_reserve` comes first."""
    cdef index_slot *slot = index_place(table, key)
    cdef void *before = slot.value
    if before == NULL:
        slot.key = key
        table.used += 1
    slot.value = value
    return before


cdef inline void *index_remove(index *table, uint64_t key) noexcept nogil:
    """Take out what is under the key; NULL when nothing is."""
    cdef index_slot *slot
    cdef size_t hole, at
    cdef void *found
    cdef size_t mask = table.count - 1
    if not table.used:
        return NULL
    slot = index_place(table, key)
    found = slot.value
    if found == NULL:
        return NULL
    hole = at = slot - table.slots
    while True:  # what was pushed past the hole moves back into it
        at = (at + 1) & mask
        if table.slots[at].value == NULL:
            break
        if ((at - index_home(table, table.slots[at].key)) & mask) >= ((at - hole) & mask):
            table.slots[hole] = table.slots[at]
            hole = at
    table.slots[hole].value = NULL
    table.used -= 1
    if table.count > INDEX_LEAST and 8 * table.used < table.count:
        index_resize(table, table.count // 4)  # without memory for the small one the large one stays
    return found


cdef inline void index_free(index *table) noexcept nogil:
    """Without slots, ready for use. What was in it is the caller's."""
    PyMem_RawFree(table.slots)
    table.slots = NULL
    table.count = table.used = 0
