"""The process table. What native code that writes records asks it is in `known.pxd`."""

from libc.stdint cimport int64_t

from aegis._native cimport abi
from aegis._native.buffers cimport byte
from aegis._native.cbor cimport cbor_buffer
from aegis._native.described cimport process
from aegis._native.known cimport KnownProcesses
from aegis._native.order cimport told


cdef class ProcessTable(KnownProcesses):
    cdef cbor_buffer out
    cdef int64_t base_ns

    cdef process *exec_(self, const abi.aegis_exec *record) except NULL
    cdef int fork_(self, const abi.aegis_fork *record) except -1
    cdef process *ending(self, const abi.aegis_exit *record) except NULL
    cdef process *owning(self, const abi.aegis_socket *record, bint *ended) except NULL
    cdef int event(self, const char *record, int64_t time_ns) except -1
    cdef byte *begin(self, int members, int type_, int64_t time_ns, size_t size) except NULL
    cdef tuple take_ordered(self, told *items, size_t count, int64_t wall_offset_ns, list chunks)
    cdef int cut(self, list chunks, int held, size_t end) except -1
