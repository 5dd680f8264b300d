"""Batches of records and their decoding into plain tuples."""

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

Record = tuple

EXEC = abi.AEGIS_KIND_EXEC
EXIT = abi.AEGIS_KIND_EXIT
FORK = abi.AEGIS_KIND_FORK
CONNECT = abi.AEGIS_KIND_CONNECT
ACCEPT = abi.AEGIS_KIND_ACCEPT
LISTEN = abi.AEGIS_KIND_LISTEN
VERDICT = abi.AEGIS_KIND_VERDICT
CGROUP = abi.AEGIS_KIND_CGROUP
SYNTHETIC = abi.AEGIS_KIND_SYNTHETIC
KINDS = abi.AEGIS_KINDS
PATH_TRUNCATED = abi.AEGIS_PATH_TRUNCATED
CWD_TRUNCATED = abi.AEGIS_CWD_TRUNCATED
EXE_DELETED = abi.AEGIS_EXE_DELETED

cdef enum:
    ARENA_BYTES = 16384  # first size of an arena: a usual batch fits


cdef bint arena_append(arena *into, const char *record, size_t size) noexcept nogil:
    """Copy one good record; False when there is no memory for it. Needs no GIL."""
    cdef size_t end = into.used + record_stride(size)
    cdef size_t capacity = into.capacity
    cdef char *data
    if end > capacity:
        while capacity < end:
            capacity = 2 * capacity if capacity else ARENA_BYTES
        data = <char *>PyMem_RawRealloc(into.data, capacity)
        if data == NULL:
            return False
        into.data = data
        into.capacity = capacity
    memcpy(into.data + into.used, record, size)
    memset(into.data + into.used + size, 0, end - into.used - size)  # never show old memory
    into.used = end
    into.count += 1
    into.kinds[(<const abi.aegis_header *>record).kind] += 1
    return True


cdef class RecordBatch:
    """What one drain read: good records copied out of the ring, each at a multiple of eight bytes.

    Immutable. Its buffer is those bytes, read-only.
    """

    def __init__(self):
        raise TypeError("a RecordBatch comes from RingReader.drain or RecordBatch.from_bytes")

    @staticmethod
    cdef RecordBatch adopt(arena *records):
        """Take the arena's memory over and leave it empty."""
        cdef RecordBatch batch = RecordBatch.__new__(RecordBatch)
        cdef char *smaller
        if records.capacity > 2 * records.used:
            smaller = <char *>PyMem_RawRealloc(records.data, records.used or 1)
            if smaller != NULL:
                records.data = smaller
                records.capacity = records.used
        batch.records = records[0]
        memset(records, 0, sizeof(arena))
        return batch

    @staticmethod
    def from_bytes(data):
        """Batch of the records in `data`, one after the other at multiples of eight bytes.

        An unknown or malformed record is counted and left out. Where a size in a header cannot be believed,
        all that follows counts as one malformed record.
        """
        cdef Py_buffer view
        cdef arena whole, good
        cdef size_t at = 0, size
        cdef uint64_t unknown = 0, malformed = 0
        cdef record_fault fault
        cdef const abi.aegis_header *header
        cdef RecordBatch batch
        memset(&whole, 0, sizeof(arena))
        memset(&good, 0, sizeof(arena))
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            # Copied first: the caller's buffer may start anywhere, and may change under the checks.
            whole.data = <char *>PyMem_RawRealloc(NULL, view.len or 1)
            if whole.data == NULL:
                raise MemoryError
            memcpy(whole.data, view.buf, view.len)
            whole.used = view.len
            while at < whole.used:
                header = <const abi.aegis_header *>(whole.data + at)
                if (
                    whole.used - at < sizeof(abi.aegis_header)
                    or header.size < sizeof(abi.aegis_header)
                    or header.size > whole.used - at
                ):
                    malformed += 1
                    break
                size = header.size
                fault = record_check(whole.data + at, size)
                if fault == RECORD_UNKNOWN:
                    unknown += 1
                elif fault == RECORD_MALFORMED:
                    malformed += 1
                elif not arena_append(&good, whole.data + at, size):
                    raise MemoryError
                at += record_stride(size)
            batch = RecordBatch.adopt(&good)
            batch.unknown = unknown
            batch.malformed = malformed
            return batch
        finally:
            PyBuffer_Release(&view)
            PyMem_RawFree(whole.data)
            PyMem_RawFree(good.data)

    def __dealloc__(self):
        PyMem_RawFree(self.records.data)

    def __len__(self):
        return self.records.count

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.records.data, self.records.used, 1, flags)

    def kinds(self):
        """Number of records by kind: sixteen counts, indexed by the kind's number."""
        return tuple([self.records.kinds[kind] for kind in range(abi.AEGIS_KINDS)])

    @property
    def size(self):
        """Bytes of the records."""
        return self.records.used

    def kind_bits(self):
        """The kinds that occur: a bit for each, at its number."""
        cdef unsigned int found = 0
        cdef int kind
        for kind in range(abi.AEGIS_KINDS):
            if self.records.kinds[kind]:
                found |= 1u << kind
        return found

    def __repr__(self):
        return f"<RecordBatch of {self.records.count} records, {self.records.used} bytes>"


cdef inline bytes comm_of(const abi.u8 *comm):
    cdef const char *end = <const char *>memchr(comm, 0, abi.AEGIS_COMM_BYTES)
    return PyBytes_FromStringAndSize(
        <const char *>comm, end - <const char *>comm if end != NULL else abi.AEGIS_COMM_BYTES
    )


cdef inline bytes address_of(const abi.u8 *address):
    return PyBytes_FromStringAndSize(<const char *>address, 16)


cdef abi.aegis_process last_line[abi.AEGIS_ANCESTORS]
cdef int last_count = 0
cdef tuple last_ancestors = ()


cdef tuple ancestors_of(const abi.aegis_exec *record):
    """The same tuple for children of one parent in a row: a shell's, a build's, a service's."""
    global last_count, last_ancestors
    cdef int index
    cdef list ancestors
    cdef int count = record.ancestor_count
    cdef size_t size = count * sizeof(abi.aegis_process)
    if count == last_count and memcmp(last_line, record.ancestors, size) == 0:
        return last_ancestors
    ancestors = []
    for index in range(count):
        ancestors.append(
            (record.ancestors[index].pid, record.ancestors[index].start_ns, record.ancestors[index].uid)
        )
    memcpy(last_line, record.ancestors, size)
    last_count, last_ancestors = count, tuple(ancestors)
    return last_ancestors


cdef tuple decode_exec(const abi.aegis_exec *r):
    cdef const char *tail = <const char *>r + sizeof(abi.aegis_exec)
    return (
        r.header.kind, r.header.ktime_ns, r.header.cpu, r.process.pid, r.process.start_ns, r.process.uid,
        r.gid, r.parent_pid, r.cgroup_id, r.inode, r.device, comm_of(r.comm),
        PyBytes_FromStringAndSize(tail, r.path_bytes), r.flags,
        PyBytes_FromStringAndSize(tail + r.path_bytes, r.args_bytes), r.args_total, ancestors_of(r),
        PyBytes_FromStringAndSize(tail + r.path_bytes + r.args_bytes, r.cwd_bytes),
    )


cdef tuple decode_exit(const abi.aegis_exit *r):
    return (
        r.header.kind, r.header.ktime_ns, r.header.cpu, r.process.pid, r.process.start_ns, r.process.uid,
        r.cgroup_id, r.parent_pid, r.code, r.signal, comm_of(r.comm),
    )


cdef tuple decode_fork(const abi.aegis_fork *r):
    return (
        r.header.kind, r.header.ktime_ns, r.header.cpu, r.process.pid, r.process.start_ns, r.process.uid,
        r.parent.pid, r.parent.start_ns, r.cgroup_id, comm_of(r.comm),
    )


cdef tuple decode_socket(const abi.aegis_socket *r):
    return (
        r.header.kind, r.header.ktime_ns, r.header.cpu, r.process.pid, r.process.start_ns, r.process.uid,
        r.cgroup_id, r.cookie, address_of(r.source), address_of(r.destination), r.source_port,
        r.destination_port, r.protocol, r.owner_label, comm_of(r.comm), r.error,
    )


cdef tuple decode_verdict(const abi.aegis_verdict_record *r):
    return (
        r.header.kind, r.header.ktime_ns, r.header.cpu, address_of(r.key.local), address_of(r.key.remote),
        r.key.local_port, r.key.remote_port, r.key.ifindex, r.key.protocol, r.key.fragment, r.owner,
        r.generation, r.cookie, r.suppressed, r.rule, r.verdict, r.initiator,
    )


cdef tuple decode_cgroup(const abi.aegis_cgroup *r):
    return (
        r.header.kind, r.header.ktime_ns, r.header.cpu, r.cgroup_id,
        PyBytes_FromStringAndSize(<const char *>r + sizeof(abi.aegis_cgroup), r.path_bytes),
    )


cdef tuple decode_synthetic(const abi.aegis_synthetic *r):
    return (r.header.kind, r.header.ktime_ns, r.header.cpu, r.key, r.value)


def decode(RecordBatch batch not None, kinds=None):
    """One plain tuple a record in the ring's order, of all kinds or of `kinds`. Fields as in records.pyi."""
    cdef uint32_t wanted = 0xFFFFFFFF
    cdef uint16_t kind
    cdef size_t at = 0
    cdef const char *record
    cdef list decoded = []
    cdef tuple fields
    if kinds is not None:
        wanted = 0
        for number in kinds:
            if not 0 <= number < abi.AEGIS_KINDS:
                raise ValueError(f"no kind has the number {number}")
            wanted |= <uint32_t>1 << <int>number
    while at < batch.records.used:
        record = batch.records.data + at
        kind = (<const abi.aegis_header *>record).kind
        at += record_stride((<const abi.aegis_header *>record).size)
        if not (wanted >> kind) & 1:
            continue
        if kind == abi.AEGIS_KIND_EXEC:
            fields = decode_exec(<const abi.aegis_exec *>record)
        elif kind == abi.AEGIS_KIND_EXIT:
            fields = decode_exit(<const abi.aegis_exit *>record)
        elif kind == abi.AEGIS_KIND_FORK:
            fields = decode_fork(<const abi.aegis_fork *>record)
        elif kind == abi.AEGIS_KIND_VERDICT:
            fields = decode_verdict(<const abi.aegis_verdict_record *>record)
        elif kind == abi.AEGIS_KIND_CGROUP:
            fields = decode_cgroup(<const abi.aegis_cgroup *>record)
        elif kind == abi.AEGIS_KIND_SYNTHETIC:
            fields = decode_synthetic(<const abi.aegis_synthetic *>record)
        else:
            fields = decode_socket(<const abi.aegis_socket *>record)
        decoded.append(fields)
    return decoded
