"""A process as the CBOR fragments that stand for it in records, and how one is made of another.

    process = own fragment (array head to working directory), cgroup, ancestors

Cgroup and ancestors are shared: by all processes of the cgroup, by all children of one parent. A fragment
never changes, so that what holds a reference to it tells what was true then. What makes something answers
NULL when there is no memory.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset

from aegis._native cimport abi
from aegis._native.buffers cimport byte
from aegis._native.cbor cimport (
    CBOR_ARRAY,
    CBOR_HEAD,
    cbor_buffer,
    cbor_reserve,
    cbor_written,
    put_bytes,
    put_head,
    put_raw,
    put_uint,
)


cdef enum:
    PROCESS_FIELDS = 13
    ANCESTOR_FIELDS = 4
    EXE_DELETED = 1  # flags of a process in a record
    EXE_TRUNCATED = 2
    NOT_TOLD = -1  # a number that the record at hand does not have
    NUMBERS = 5 * CBOR_HEAD + 32  # at most: head, pid, start_ns, ppid, uid and a name of 16 bytes


cdef struct shared:
    uint64_t id  # of a cgroup; of other fragments 0
    uint32_t refs
    uint32_t size  # bytes of CBOR behind this
    uint32_t but_last  # of eight ancestors: where the eighth begins; else `size`
    byte members  # of a line of ancestors
    byte known  # of a cgroup: it is one, not the reason why there is none


cdef struct process:
    # A process that was forked and is not asked for yet is its numbers, its name and its parent as it was.
    process *parent  # not NULL: it is one of those
    shared *group  # NULL in one of those, as all that follows
    shared *line
    shared *offspring  # the line of its children, made with the first of them
    uint64_t start_ns
    uint64_t cgroup_id  # of one of those
    uint32_t refs
    uint32_t pid
    uint32_t uid
    uint32_t ppid
    uint32_t size  # bytes of the own fragment behind this; the name of one of those
    uint32_t ppid_at  # where in it
    uint32_t gid_at
    uint32_t comm_at
    uint32_t exe_at
    uint32_t flags_at
    byte named  # in a line of ancestors that may be kept for others
    byte missing  # did not run when that was looked at last
    byte ended  # for the time of one look


cdef inline byte *shared_data(shared *one) noexcept nogil:
    return <byte *>one + sizeof(shared)


cdef inline byte *own_data(process *one) noexcept nogil:
    return <byte *>one + sizeof(process)


cdef inline shared *hold(shared *one) noexcept nogil:
    one.refs += 1
    return one


cdef inline void drop(shared *one) noexcept nogil:
    if one != NULL:
        one.refs -= 1
        if one.refs == 0:
            PyMem_RawFree(one)


cdef inline void release(process *one) noexcept nogil:
    """Give up a reference. A parent is never one that was forked and not asked for."""
    cdef process *parent
    while one != NULL:
        one.refs -= 1
        if one.refs:
            return
        parent = one.parent
        drop(one.group)
        drop(one.line)
        drop(one.offspring)
        PyMem_RawFree(one)
        one = parent


cdef inline shared *new_shared(const byte *data, uint32_t size) noexcept nogil:
    cdef shared *one = <shared *>PyMem_RawMalloc(sizeof(shared) + size)
    if one != NULL:
        memset(one, 0, sizeof(shared))
        one.refs = 1
        one.size = one.but_last = size
        memcpy(shared_data(one), data, size)
    return one


cdef inline process *new_process(uint32_t pid, uint64_t start_ns, uint32_t size) noexcept nogil:
    cdef process *one = <process *>PyMem_RawMalloc(sizeof(process) + size)
    if one != NULL:
        memset(one, 0, sizeof(process))
        one.refs = 1
        one.pid = pid
        one.start_ns = start_ns
        one.size = size
    return one


cdef inline size_t comm_size(const abi.u8 *comm) noexcept nogil:
    cdef const void *end = memchr(comm, 0, abi.AEGIS_COMM_BYTES)
    return <const abi.u8 *>end - comm if end != NULL else <size_t>abi.AEGIS_COMM_BYTES


# An own fragment is written into a buffer part by part; `marks` notes where the parts begin.

cdef inline byte *put_start(byte *at, uint32_t pid, uint64_t start_ns) noexcept nogil:
    return put_uint(put_uint(put_head(at, CBOR_ARRAY, PROCESS_FIELDS), pid), start_ns)


cdef inline process *sealed(
    cbor_buffer *scratch, uint32_t pid, uint64_t start_ns, const uint32_t *marks
) noexcept nogil:
    """The process whose own fragment is in the buffer; `marks`: ppid, gid, comm, exe, flags."""
    cdef process *one
    if scratch.no_memory:
        return NULL
    one = new_process(pid, start_ns, <uint32_t>scratch.used)
    if one != NULL:
        one.ppid_at = marks[0]
        one.gid_at = marks[1]
        one.comm_at = marks[2]
        one.exe_at = marks[3]
        one.flags_at = marks[4]
        memcpy(own_data(one), scratch.data, scratch.used)
    return one


cdef inline process *restarted(process *one, uint64_t start_ns) noexcept nogil:
    """The same process with another start."""
    cdef byte head[NUMBERS]
    cdef uint32_t size = <uint32_t>(put_start(head, one.pid, start_ns) - head)
    cdef uint32_t rest = one.size - one.ppid_at
    cdef uint32_t shift = size - one.ppid_at  # may wrap, and then the sums below wrap back
    cdef process *fresh = new_process(one.pid, start_ns, size + rest)
    if fresh != NULL:
        memcpy(own_data(fresh), head, size)
        memcpy(own_data(fresh) + size, own_data(one) + one.ppid_at, rest)
        fresh.ppid_at = size
        fresh.gid_at = one.gid_at + shift
        fresh.comm_at = one.comm_at + shift
        fresh.exe_at = one.exe_at + shift
        fresh.flags_at = one.flags_at + shift
        fresh.group = hold(one.group)
        fresh.line = hold(one.line)
    return fresh


cdef inline process *forked(const abi.aegis_fork *record, process *parent) noexcept nogil:
    """A child as its record has it; takes no reference over."""
    cdef uint32_t size = <uint32_t>comm_size(record.comm)
    cdef process *one = new_process(record.process.pid, record.process.start_ns, size)
    if one != NULL:
        one.uid = record.process.uid
        one.ppid = record.parent.pid
        one.cgroup_id = record.cgroup_id
        one.parent = parent
        parent.refs += 1
        memcpy(own_data(one), record.comm, size)
    return one


cdef inline process *grown(process *one, shared *group) noexcept nogil:
    """A forked process in full: what its parent was, with its own numbers and name."""
    cdef process *parent = one.parent
    cdef byte numbers[NUMBERS]
    cdef byte *at
    cdef byte *to
    cdef uint32_t ppid_at, gid_at, comm_at, exe_at
    cdef uint32_t gid_size = parent.comm_at - parent.gid_at
    cdef process *fresh
    if parent.offspring == NULL:
        parent.offspring = line_below(parent)
        if parent.offspring == NULL:
            return NULL
    at = put_start(numbers, one.pid, one.start_ns)
    ppid_at = <uint32_t>(at - numbers)
    at = put_uint(put_uint(at, one.ppid), one.uid)
    gid_at = <uint32_t>(at - numbers)
    comm_at = gid_at + gid_size
    exe_at = comm_at + 1 + one.size  # a name has less than 24 bytes: one byte of head
    fresh = new_process(one.pid, one.start_ns, exe_at + parent.size - parent.exe_at)
    if fresh != NULL:
        to = put_raw(own_data(fresh), numbers, gid_at)
        to = put_raw(to, own_data(parent) + parent.gid_at, gid_size)
        to = put_bytes(to, own_data(one), one.size)
        put_raw(to, own_data(parent) + parent.exe_at, parent.size - parent.exe_at)
        fresh.ppid_at = ppid_at
        fresh.gid_at = gid_at
        fresh.comm_at = comm_at
        fresh.exe_at = exe_at
        fresh.flags_at = exe_at + parent.flags_at - parent.exe_at
        fresh.group = hold(group)
        fresh.line = hold(parent.offspring)
    return fresh


# Ancestors

cdef inline uint32_t ancestor_size(process *one) noexcept nogil:
    return one.ppid_at + one.flags_at - one.comm_at


cdef inline byte *put_ancestor(byte *at, process *one) noexcept nogil:
    """A full process as its children name it: [pid, start_ns, comm, exe]."""
    at[0] = CBOR_ARRAY | ANCESTOR_FIELDS
    at = put_raw(at + 1, own_data(one) + 1, one.ppid_at - 1)
    return put_raw(at, own_data(one) + one.comm_at, one.flags_at - one.comm_at)


cdef inline shared *line_below(process *parent) noexcept nogil:
    """The line of a full process's children: itself, and at most seven of its own."""
    cdef shared *above = parent.line
    cdef uint32_t members = min(above.members + 1, abi.AEGIS_ANCESTORS)
    cdef uint32_t kept = above.but_last if above.members == abi.AEGIS_ANCESTORS else above.size
    cdef uint32_t first = 1 + ancestor_size(parent)
    cdef uint32_t size = first + kept - 1
    cdef uint32_t last
    cdef shared *line = <shared *>PyMem_RawMalloc(sizeof(shared) + size)
    if line == NULL:
        return NULL
    memset(line, 0, sizeof(shared))
    line.refs = 1
    line.size = line.but_last = size
    line.members = <byte>members
    shared_data(line)[0] = CBOR_ARRAY | <byte>members
    put_raw(put_ancestor(shared_data(line) + 1, parent), shared_data(above) + 1, kept - 1)
    if members == abi.AEGIS_ANCESTORS:
        last = seventh_end(shared_data(line), size)
        line.but_last = last
    return line


cdef inline uint32_t item_size(const byte *at) noexcept nogil:
    """Bytes of a number, a string, or a tagged text that this file wrote."""
    cdef uint32_t low = at[0] & 0x1F
    cdef uint32_t head = 1
    cdef uint32_t value = low
    cdef uint32_t each
    if low >= 24:
        head = 1 + (<uint32_t>1 << (low - 24))
        value = 0
        for each in range(1, head):
            value = value << 8 | at[each]
    if at[0] >> 5 == 6:
        return head + item_size(at + head)
    return head + value if at[0] >> 5 in (2, 3) else head


cdef inline uint32_t seventh_end(const byte *line, uint32_t size) noexcept nogil:
    """Where the last of eight ancestors begins."""
    cdef uint32_t at = 1
    cdef int _, _field
    for _ in range(abi.AEGIS_ANCESTORS - 1):
        at += 1
        for _field in range(ANCESTOR_FIELDS):
            at += item_size(line + at)
    return at


cdef inline void count_members(shared *line, byte members) noexcept nogil:
    line.members = members
    if members == abi.AEGIS_ANCESTORS:
        line.but_last = seventh_end(shared_data(line), line.size)


# Into records

cdef inline size_t described_size(process *one) noexcept nogil:
    return one.size + one.group.size + one.line.size


cdef inline byte *put_described(byte *at, process *one, shared *group) noexcept nogil:
    """A full process, in that cgroup."""
    at = put_raw(at, own_data(one), one.size)
    at = put_raw(at, shared_data(group), group.size)
    return put_raw(at, shared_data(one.line), one.line.size)


cdef inline bint write_described(cbor_buffer *into, process *one, shared *group) noexcept nogil:
    cdef byte *at = cbor_reserve(into, one.size + group.size + one.line.size)
    if at == NULL:
        return False
    cbor_written(into, put_described(at, one, group))
    return True


# Of records

cdef process *executed(const abi.aegis_exec *record, cbor_buffer *scratch) noexcept nogil
cdef process *invented(
    const abi.aegis_process *said, const byte *comm, size_t size, int64_t ppid, shared *unknown,
    cbor_buffer *scratch
) noexcept nogil


# Of model values; these need the GIL

cdef bytes absent(str reason)
cdef shared *fragment(bytes encoded) except NULL
cdef shared *encoded_group(found) except NULL
cdef shared *encoded_line(ancestors) except NULL
cdef process *encoded_process(found) except NULL
