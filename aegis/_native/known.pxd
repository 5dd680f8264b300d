"""What is known of processes, for native code that writes records: `write_owner` appends an owner."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from aegis._native cimport abi
from aegis._native.buffers cimport byte
from aegis._native.cbor cimport cbor_buffer
from aegis._native.described cimport process, shared
from aegis._native.index cimport index
from aegis._native.numbers cimport numbers


cdef extern from *:
    """
    /* By the numbers of enum aegis_owner_label; a head stands before each text. */
    static const char *const aegis_labels[] = {"gunknown", "fkernel", "grequest", "iforwarded"};
    """
    const char *const LABELS "aegis_labels"[4]


cdef enum:
    LABEL_COUNT = 4
    PID_BITS = 22  # of an owner id
    PID_MASK = 0x3FFFFF
    LINES = 64  # lines of ancestors kept for the next process of the same parent


cdef inline uint64_t owner_key(uint32_t pid, uint64_t start_ns) noexcept nogil:
    """As `aegis.model.process.owner_key`."""
    return (start_ns >> 10) << PID_BITS | pid


cdef struct socket_note:
    # What the kernel noted at the socket.
    uint64_t start_ns
    uint64_t cgroup_id
    uint32_t pid
    uint32_t uid
    const byte *comm
    size_t comm_size


cdef struct kept_line:
    abi.aegis_process members[8]
    shared *line
    uint64_t names  # the line holds as long as the table's `names` is this


cdef class KnownProcesses:
    cdef object cgroup_of
    cdef object cgroup_made
    cdef object read
    cdef Py_ssize_t keep_ended
    cdef index known  # by owner id
    cdef index older  # by pid
    cdef index groups  # by cgroup id
    cdef numbers group_ids  # oldest first
    cdef numbers ended  # owner ids, oldest first
    cdef numbers ended_sizes  # bytes of each of them
    cdef uint64_t ended_bytes
    cdef shared *unknown  # why nothing is known of a process: from the first one forgotten on, another reason
    cdef bint forgetful
    cdef shared *no_group
    cdef shared *no_line
    cdef kept_line lines[LINES]
    cdef uint64_t names  # grows whenever a named process may be called otherwise
    cdef cbor_buffer scratch
    cdef cbor_buffer ancestors
    cdef bint busy
    cdef readonly uint64_t unseen

    cdef int write_owner(self, uint64_t owner, const socket_note *note, cbor_buffer *into) except -1

    # For ProcessTable
    cdef int enter(self) except -1
    cdef int failed(self) except -1
    cdef int push(self, numbers *queue, uint64_t item) except -1
    cdef process *settle(self, uint64_t key, uint32_t pid, uint64_t start_ns, bint runs) except? NULL
    cdef process *made_up(
        self, const abi.aegis_process *said, const byte *comm, size_t comm_size, int64_t ppid, shared *group
    ) except NULL
    cdef process *invent(
        self, const abi.aegis_process *said, const byte *comm, size_t comm_size, int64_t ppid, shared *group
    ) except NULL
    cdef int keep(self, uint64_t key, process *fresh) except -1
    cdef void forget(self, uint64_t key) noexcept
    cdef int end(self, uint64_t key) except -1
    cdef shared *line(self, const abi.aegis_exec *record) except NULL
    cdef shared *group(self, uint64_t identity) except NULL
    cdef int keep_group(self, uint64_t identity, found) except -1
    cdef process *look_up(self, uint64_t owner, uint32_t pid, process **own) except? NULL
    cdef int find_newest(self, set alive, index *newest) except -1
