"""What may be in a batch, and the batch itself."""

from libc.stdint cimport uint16_t, uint64_t

from aegis._native cimport abi


cdef enum record_fault:
    RECORD_GOOD
    RECORD_UNKNOWN  # a kind this build does not know
    RECORD_MALFORMED  # sizes inside the record do not fit each other


cdef inline record_fault record_check(const char *record, size_t size) noexcept nogil:
    """Judge `size` readable bytes. Readers of fields rely on this alone: all lengths in a good record fit."""
    cdef const abi.aegis_header *header = <const abi.aegis_header *>record
    cdef const abi.aegis_exec *executed
    cdef size_t wanted
    cdef uint16_t kind
    if size < sizeof(abi.aegis_header) or header.size != size:
        return RECORD_MALFORMED
    kind = header.kind
    if kind == abi.AEGIS_KIND_EXEC:
        if size < sizeof(abi.aegis_exec):
            return RECORD_MALFORMED
        executed = <const abi.aegis_exec *>record
        wanted = sizeof(abi.aegis_exec) + executed.path_bytes + executed.args_bytes + executed.cwd_bytes
        if wanted > size or executed.ancestor_count > abi.AEGIS_ANCESTORS:
            return RECORD_MALFORMED
        return RECORD_GOOD
    elif kind == abi.AEGIS_KIND_CGROUP:
        if size < sizeof(abi.aegis_cgroup):
            return RECORD_MALFORMED
        wanted = size - sizeof(abi.aegis_cgroup)
        return RECORD_GOOD if (<const abi.aegis_cgroup *>record).path_bytes <= wanted else RECORD_MALFORMED
    elif kind == abi.AEGIS_KIND_EXIT:
        wanted = sizeof(abi.aegis_exit)
    elif kind == abi.AEGIS_KIND_FORK:
        wanted = sizeof(abi.aegis_fork)
    elif kind == abi.AEGIS_KIND_CONNECT or kind == abi.AEGIS_KIND_ACCEPT or kind == abi.AEGIS_KIND_LISTEN:
        wanted = sizeof(abi.aegis_socket)
    elif kind == abi.AEGIS_KIND_VERDICT:
        wanted = sizeof(abi.aegis_verdict_record)
    elif kind == abi.AEGIS_KIND_SYNTHETIC:
        wanted = sizeof(abi.aegis_synthetic)
    else:
        return RECORD_UNKNOWN
    return RECORD_GOOD if size == wanted else RECORD_MALFORMED


cdef inline size_t record_stride(size_t size) noexcept nogil:
    """Records of a batch start at multiples of eight."""
    return (size + 7) & ~<size_t>7


cdef struct arena:
    char *data
    size_t used
    size_t capacity
    Py_ssize_t count
    uint64_t kinds[16]


cdef bint arena_append(arena *into, const char *record, size_t size) noexcept nogil


cdef class RecordBatch:
    cdef arena records
    cdef readonly uint64_t unknown
    cdef readonly uint64_t malformed

    @staticmethod
    cdef RecordBatch adopt(arena *records)
