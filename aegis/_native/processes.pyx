"""The process table: exec, exit, fork, socket and cgroup records in, encoded events out.

Records keep the table (`known.pyx`) and become events without a Python object for any of them; the layout of
an event is that of `aegis.model.records`.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memmove, strlen

from aegis._native cimport abi
from aegis._native.buffers cimport byte
from aegis._native.cbor cimport (
    CBOR_ARRAY,
    cbor_free,
    cbor_reserve,
    cbor_written,
    put_bytes,
    put_int,
    put_raw,
    put_uint,
)
from aegis._native.described cimport (
    NOT_TOLD,
    comm_size,
    described_size,
    drop,
    executed,
    forked,
    process,
    put_described,
    shared,
)
from aegis._native.index cimport index_find
from aegis._native.known cimport LABEL_COUNT, LABELS, owner_key
from aegis._native.order cimport order, told
from aegis._native.records cimport RecordBatch, record_stride

cdef enum:
    EXEC = 1  # types of records that go out
    EXIT = 2
    CONNECT = 3
    ACCEPT = 4
    LISTEN = 5
    MOST_RECORDS = 512  # of a chunk
    MOST_BYTES = 48 * 1024
    SPARE_BYTES = 256 * 1024  # a buffer that grew beyond this is let go
    BASE_NS = 1000000000  # no instant of a chunk is further from its base
    EVENT_NUMBERS = 128  # more than an event has besides its owner
    KINDS = (
        1 << abi.AEGIS_KIND_EXEC | 1 << abi.AEGIS_KIND_EXIT | 1 << abi.AEGIS_KIND_FORK
        | 1 << abi.AEGIS_KIND_CONNECT | 1 << abi.AEGIS_KIND_ACCEPT | 1 << abi.AEGIS_KIND_LISTEN
        | 1 << abi.AEGIS_KIND_CGROUP
    )


cdef class ProcessTable(KnownProcesses):
    """Processes by owner id.

    `cgroup_of(id)` names a cgroup, None where nothing has the id; `cgroup_made(id, path)` takes over what a
    record says of a new one and names it; `read(pid)` finds a running process in /proc. They give
    `aegis.model.process` values, are asked only for what is not known here, and must not come back to the
    table; what they raise ends the call that asked.
    """

    def __dealloc__(self):
        cbor_free(&self.out)

    cdef process *exec_(self, const abi.aegis_exec *r) except NULL:
        """Take an exec record; the process as it is from now on."""
        cdef shared *line = self.line(r)
        cdef shared *group = NULL
        cdef process *one
        try:
            group = self.group(r.cgroup_id)
            one = executed(r, &self.scratch)
            if one == NULL:
                self.failed()
        except BaseException:
            drop(line)
            drop(group)
            raise
        one.line = line
        one.group = group
        self.keep(owner_key(r.process.pid, r.process.start_ns), one)
        return one

    cdef int fork_(self, const abi.aegis_fork *r) except -1:
        """Take a fork record: the child is what its parent was."""
        cdef uint64_t key = owner_key(r.parent.pid, r.parent.start_ns)
        cdef process *parent = <process *>index_find(&self.known, key)
        cdef process *child
        if parent == NULL or parent.parent != NULL:
            parent = self.settle(key, r.parent.pid, r.parent.start_ns, True)
        if parent != NULL:
            child = forked(r, parent)
            if child == NULL:
                raise MemoryError
            self.keep(owner_key(r.process.pid, r.process.start_ns), child)
        return 0

    cdef process *ending(self, const abi.aegis_exit *r) except NULL:
        """The process an exit record names."""
        cdef uint64_t key = owner_key(r.process.pid, r.process.start_ns)
        cdef process *one = <process *>index_find(&self.known, key)
        if one == NULL or one.parent != NULL:
            one = self.settle(key, r.process.pid, r.process.start_ns, False)
            if one == NULL:
                one = self.invent(
                    &r.process, r.comm, comm_size(r.comm), r.parent_pid, self.group(r.cgroup_id)
                )
        return one

    cdef process *owning(self, const abi.aegis_socket *r, bint *ended) except NULL:
        """The process a socket's record names; made up where nothing else is known of it: then it has ended,
        as no exit may follow.
        """
        cdef uint64_t key = owner_key(r.process.pid, r.process.start_ns)
        cdef process *one = <process *>index_find(&self.known, key)
        cdef shared *group
        ended[0] = False
        if one == NULL or one.parent != NULL:
            one = self.settle(key, r.process.pid, r.process.start_ns, True)
            if one == NULL:
                one = self.invent(
                    &r.process, r.comm, comm_size(r.comm), NOT_TOLD, self.group(r.cgroup_id)
                )
                ended[0] = True
                return one
        if not one.group.known or one.group.id != r.cgroup_id:
            group = self.group(r.cgroup_id)
            if group.known or one.group.known:  # it moved, or is told for the first time
                drop(one.group)
                one.group = group
            else:
                drop(group)
        return one

    cdef int event(self, const char *record, int64_t time_ns) except -1:
        """Append the event of an exec, exit or socket record to `out`."""
        cdef const abi.aegis_header *header = <const abi.aegis_header *>record
        cdef const abi.aegis_exit *gone
        cdef const abi.aegis_socket *met
        cdef process *one
        cdef bint ended = False
        cdef byte *at
        if header.kind == abi.AEGIS_KIND_EXEC:
            one = self.exec_(<const abi.aegis_exec *>record)
            at = self.begin(3, EXEC, time_ns, described_size(one))
            cbor_written(&self.out, put_described(at, one, one.group))
        elif header.kind == abi.AEGIS_KIND_EXIT:
            gone = <const abi.aegis_exit *>record
            one = self.ending(gone)
            at = self.begin(6, EXIT, time_ns, described_size(one))
            at = put_described(at, one, one.group)
            at = put_uint(put_uint(at, gone.code), gone.signal)
            at = put_int(at, <int64_t>(header.ktime_ns - gone.process.start_ns))
            cbor_written(&self.out, at)
            self.end(owner_key(gone.process.pid, gone.process.start_ns))
        else:
            met = <const abi.aegis_socket *>record
            if met.process.pid:
                one = self.owning(met, &ended)
                at = self.begin(10, socket_type(header.kind), time_ns, described_size(one))
                at = put_described(at, one, one.group)
            else:
                at = self.begin(10, socket_type(header.kind), time_ns, 0)
                at = put_label(at, met.owner_label)
            at = put_uint(at, met.protocol)
            at = put_uint(put_bytes(at, met.source, 16), met.source_port)
            at = put_uint(put_bytes(at, met.destination, 16), met.destination_port)
            at = put_uint(put_uint(at, met.cookie), met.error)
            cbor_written(&self.out, at)
            if ended:
                self.end(owner_key(met.process.pid, met.process.start_ns))
        return 0

    cdef byte *begin(self, int members, int type_, int64_t time_ns, size_t size) except NULL:
        """Head, type and instant of an event, with room for its owner of `size` and the rest."""
        cdef byte *at = cbor_reserve(&self.out, EVENT_NUMBERS + size)
        if at == NULL:
            self.out.no_memory = False
            self.failed()
        at[0] = CBOR_ARRAY | <byte>members
        at[1] = <byte>type_
        return put_int(at + 2, time_ns - self.base_ns)

    def take(self, batches, int64_t wall_offset_ns):
        """Keep the table by the records of the batches and make events of them, in the order they happened.

        One drain of the ring is one batch, whichever topics it came by: given twice it counts once. Drains
        come in order; within one, records of two processors can stand the wrong way round by the time it took
        to write one. `wall_offset_ns` is the wall clock minus CLOCK_BOOTTIME.

        Answers (chunks, decoded, events, forks, cgroups): decoded is the sum of the three behind it. A chunk
        is (base_ns, count, records): at most 512 events and 48 KiB, one that is larger alone. The base stays
        until an event is a second from it, so chunks of one base can be joined.
        """
        cdef list chunks = []
        cdef set seen = set()
        cdef list single = []
        cdef RecordBatch batch
        cdef told *items
        cdef size_t count = 0
        self.enter()
        try:
            for batch in batches:
                if batch is None:
                    raise TypeError("a batch is a RecordBatch")
                if id(batch) not in seen:
                    seen.add(id(batch))
                    single.append(batch)
                    count += batch.records.count
            # The second half is the sort's.
            items = <told *>PyMem_RawMalloc((2 * count or 1) * sizeof(told))
            if items == NULL:
                raise MemoryError
            try:
                count = gather(single, items)
                order(items, items + count, count)
                return self.take_ordered(items, count, wall_offset_ns, chunks)
            finally:
                PyMem_RawFree(items)
                if self.out.capacity > SPARE_BYTES:
                    cbor_free(&self.out)
                if self.scratch.capacity > SPARE_BYTES:
                    cbor_free(&self.scratch)
        finally:
            self.busy = False

    cdef tuple take_ordered(self, told *items, size_t count, int64_t wall_offset_ns, list chunks):
        cdef const abi.aegis_cgroup *made
        cdef const char *record
        cdef uint64_t events = 0, forks = 0, cgroups = 0
        cdef size_t at, before
        cdef int64_t time_ns
        cdef int kind, held = 0
        self.out.used = 0
        for at in range(count):
            record = items[at].record
            kind = (<const abi.aegis_header *>record).kind
            if kind == abi.AEGIS_KIND_FORK:
                self.fork_(<const abi.aegis_fork *>record)
                forks += 1
            elif kind == abi.AEGIS_KIND_CGROUP:
                made = <const abi.aegis_cgroup *>record
                path = PyBytes_FromStringAndSize(record + sizeof(abi.aegis_cgroup), made.path_bytes)
                found = self.cgroup_made(made.cgroup_id, path)
                self.keep_group(found.id, found)
                cgroups += 1
            else:
                time_ns = <int64_t>(items[at].at_ns + <uint64_t>wall_offset_ns)
                if time_ns - self.base_ns >= BASE_NS or self.base_ns - time_ns >= BASE_NS:
                    held = self.cut(chunks, held, self.out.used)
                    self.base_ns = time_ns
                before = self.out.used
                self.event(record, time_ns)
                events += 1
                if held and self.out.used > MOST_BYTES:
                    held = self.cut(chunks, held, before)
                held += 1
                if held == MOST_RECORDS:
                    held = self.cut(chunks, held, self.out.used)
        self.cut(chunks, held, self.out.used)
        return chunks, events + forks + cgroups, events, forks, cgroups

    cdef int cut(self, list chunks, int held, size_t end) except -1:
        """A chunk of the `held` events that end there; the rest moves to the front. 0: none is held."""
        if held:
            chunks.append(
                (self.base_ns, held, PyBytes_FromStringAndSize(<const char *>self.out.data, end))
            )
            memmove(self.out.data, self.out.data + end, self.out.used - end)
            self.out.used -= end
        return 0


cdef inline byte *put_label(byte *at, int number) noexcept nogil:
    cdef const char *text = LABELS[number if number < LABEL_COUNT else 0]
    return put_raw(at, text, strlen(text))


cdef inline int socket_type(int kind) noexcept nogil:
    if kind == abi.AEGIS_KIND_CONNECT:
        return CONNECT
    return ACCEPT if kind == abi.AEGIS_KIND_ACCEPT else LISTEN


cdef size_t gather(list batches, told *items):
    """Where the records of our kinds stand and when they happened; how many."""
    cdef RecordBatch batch
    cdef const abi.aegis_header *header
    cdef size_t count = 0, at
    for batch in batches:
        at = 0
        while at < batch.records.used:
            header = <const abi.aegis_header *>(batch.records.data + at)
            at += record_stride(header.size)
            if (KINDS >> header.kind) & 1:
                items[count].at_ns = header.ktime_ns
                items[count].record = <const char *>header
                count += 1
    return count
