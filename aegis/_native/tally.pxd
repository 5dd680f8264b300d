"""Aggregation of records by a 64-bit key, inside the drain and without a Python object."""

from libc.stdint cimport uint32_t, uint64_t

from aegis._native cimport abi


cdef struct tally_slot:
    uint64_t key
    uint64_t count  # 0: the slot is free
    uint64_t total


cdef struct tally_waiting:
    uint64_t key
    uint64_t value
    tally_slot *slot


cdef enum:
    WAITING = 16


cdef struct tally_table:
    tally_slot *slots
    uint64_t mask
    uint64_t multiplier  # odd and random: nobody outside can choose keys that collide
    uint64_t used
    uint64_t limit
    uint64_t overflow  # records whose key found no room
    uint32_t shift
    uint32_t key_offset
    uint32_t value_offset
    uint32_t arrived  # since the last tally_settle_all
    tally_waiting waiting[WAITING]


cdef extern from *:
    """
    #define aegis_prefetch(address) __builtin_prefetch((address), 1)
    """
    void aegis_prefetch(void *address) noexcept nogil


cdef inline void tally_settle(tally_table *table, tally_waiting *waiting) noexcept nogil:
    cdef tally_slot *slot = waiting.slot
    while slot.count and slot.key != waiting.key:
        slot = &table.slots[(slot - table.slots + 1) & table.mask]
    if not slot.count:
        if table.used == table.limit:
            table.overflow += 1
            return
        table.used += 1
        slot.key = waiting.key
    slot.count += 1
    slot.total += waiting.value


cdef inline void tally_add(tally_table *table, const char *record) noexcept nogil:
    """Take one record. Its slot is asked for now and used 16 records later, when it has come from memory."""
    cdef tally_waiting *waiting = &table.waiting[table.arrived % WAITING]
    if table.arrived >= WAITING:
        tally_settle(table, waiting)
    waiting.key = (<const abi.u64 *>(record + table.key_offset))[0]
    waiting.value = (<const abi.u64 *>(record + table.value_offset))[0]
    waiting.slot = &table.slots[(waiting.key * table.multiplier) >> table.shift]
    aegis_prefetch(waiting.slot)
    table.arrived += 1


cdef inline void tally_settle_all(tally_table *table) noexcept nogil:
    """Ends a drain: nothing waits afterwards."""
    cdef uint32_t index
    for index in range(table.arrived - WAITING if table.arrived > WAITING else 0, table.arrived):
        tally_settle(table, &table.waiting[index % WAITING])
    table.arrived = 0


cdef class Tally:
    cdef tally_table table
    cdef readonly int kind
