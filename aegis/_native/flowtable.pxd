"""The flow table, for native code that tells of what changed in it."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from aegis._native cimport abi
from aegis._native.flow_queues cimport chain_ends, entry, flow_queues


cdef class FlowTable:
    cdef entry *entries
    cdef int32_t *slots  # index of an entry, plus one; 0: free
    cdef uint32_t mask
    cdef int32_t capacity
    cdef int32_t fresh  # entries never used start here
    cdef int32_t free
    cdef int32_t used
    cdef uint64_t seed
    cdef uint64_t gained[4]
    cdef chain_ends chains[2]
    cdef flow_queues queues
    cdef readonly uint64_t harvest
    cdef readonly uint64_t evicted
    cdef readonly uint64_t evicted_live
    cdef readonly uint64_t untold

    cdef uint32_t home(self, const abi.aegis_flow_row *row) noexcept nogil
    cdef uint32_t place(self, const abi.aegis_flow_row *row) noexcept nogil
    cdef void unlink(self, int32_t index) noexcept nogil
    cdef void link(self, int32_t index, uint32_t chain) noexcept nogil
    cdef void drop(self, int32_t index) noexcept nogil
    cdef int32_t take(self) noexcept nogil
    cdef bint merge(self, const abi.aegis_flow_row *row, uint32_t chain) noexcept nogil
    cdef decode(self, int32_t index)
