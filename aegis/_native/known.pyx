"""Who runs: every process by its owner id, from before the agent's start to some time after its end.

A process that has ended stays among the last `keep_ended`, so that what is told later about its sockets and
flows still finds it. Nothing here grows without end: those with long arguments are fewer, cgroups have a cap,
what is made up ends at once, and `reconcile` finds those whose exit was lost.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy, memset, strlen

from aegis._native.cbor cimport (
    cbor_array,
    cbor_free,
    cbor_raw,
    cbor_reserve,
    cbor_taken,
    cbor_written,
)
from aegis._native.described cimport (
    NOT_TOLD,
    absent,
    ancestor_size,
    count_members,
    drop,
    encoded_group,
    encoded_process,
    fragment,
    grown,
    hold,
    invented,
    new_shared,
    put_ancestor,
    release,
    restarted,
    write_described,
)
from aegis._native.index cimport (
    index_find,
    index_free,
    index_put,
    index_remove,
    index_reserve,
    index_slot,
)
from aegis._native.numbers cimport numbers_at, numbers_free, numbers_pop, numbers_push

import secrets

cdef enum:
    TICK_NS = 10000000  # /proc gives a start in USER_HZ, which is 100 on every architecture with BPF
    CGROUPS = 4096  # names kept here; those beyond are asked for again
    ENDED_BYTES = 1024  # of what a process that has ended may take, on average over all that are kept

# Why something is absent.
cdef str NO_CGROUP = "no directory below the cgroup root has its id: removed, or outside"
cdef str UNSEEN = "its exec was not seen and it ended before /proc could be read"
cdef str NOT_KEPT = "it has ended, and its exec was not seen or is not kept any more"


cdef inline bint near(uint64_t start_ns, uint64_t owner) noexcept nogil:
    """Whether a start known to the tick can be the start in an owner id."""
    cdef uint64_t later = (owner >> PID_BITS) - (start_ns >> 10)
    return (later & (<uint64_t>0xFFFFFFFFFFFFFFFF >> PID_BITS)) <= TICK_NS >> 10


cdef class KnownProcesses:
    """What ProcessTable knows; it adds how that is learnt from records."""

    def __cinit__(self, cgroup_of, cgroup_made, read, *, Py_ssize_t keep_ended):
        self.cgroup_of, self.cgroup_made, self.read = cgroup_of, cgroup_made, read
        self.keep_ended = keep_ended
        self.known.multiplier = secrets.randbits(64) | 1
        self.older.multiplier = secrets.randbits(64) | 1
        self.groups.multiplier = secrets.randbits(64) | 1
        self.unknown = fragment(absent(UNSEEN))
        self.no_group = fragment(absent(NO_CGROUP))
        self.no_line = fragment(b"\x80")

    def __dealloc__(self):
        cdef size_t at
        cdef int line
        for at in range(self.known.count):
            release(<process *>self.known.slots[at].value)
        for at in range(self.older.count):
            release(<process *>self.older.slots[at].value)
        for at in range(self.groups.count):
            drop(<shared *>self.groups.slots[at].value)
        for line in range(LINES):
            drop(self.lines[line].line)
        index_free(&self.known)
        index_free(&self.older)
        index_free(&self.groups)
        drop(self.unknown)
        drop(self.no_group)
        drop(self.no_line)
        numbers_free(&self.ended)
        numbers_free(&self.ended_sizes)
        numbers_free(&self.group_ids)
        cbor_free(&self.scratch)
        cbor_free(&self.ancestors)

    def __len__(self):
        return self.known.used + self.older.used

    @property
    def running(self):
        """Processes whose end is not known, about: those that a lost exit leaves behind are among them."""
        return self.known.used - self.ended.count if self.known.used > self.ended.count else 0

    @property
    def cgroups(self):
        """Names of cgroups kept."""
        return self.groups.used

    cdef int enter(self) except -1:
        if self.busy:
            raise RuntimeError("the process table is in use: by who called this callback, or another thread")
        self.busy = True
        return 0

    # Processes

    def snapshot(self, processes):
        """Take processes that /proc showed. Starts are known to the tick until a record names one exactly."""
        cdef process *one
        cdef process *before
        self.enter()
        try:
            for found in processes:
                one = encoded_process(found)
                if not index_reserve(&self.older):
                    release(one)
                    raise MemoryError
                before = <process *>index_put(&self.older, one.pid, one)
                if before != NULL:
                    one.missing = before.missing
                release(before)
        finally:
            self.busy = False

    cdef int push(self, numbers *queue, uint64_t item) except -1:
        if not numbers_push(queue, item):
            raise MemoryError
        return 0

    cdef int failed(self) except -1:
        """There was no memory; what is left of the buffers can be used again."""
        self.scratch.no_memory = self.ancestors.no_memory = False
        raise MemoryError

    cdef process *settle(self, uint64_t key, uint32_t pid, uint64_t start_ns, bint runs) except? NULL:
        """A known process in full: a fork becomes a process, one older than the agent gets its exact start.

        NULL where nobody knows it. The table's own: it may be gone after the next change.
        """
        cdef process *one = <process *>index_find(&self.known, key)
        cdef process *fresh
        cdef shared *group
        if one != NULL:
            if one.parent == NULL:
                return one
            group = self.group(one.cgroup_id)
            fresh = grown(one, group)
            drop(group)
        else:
            one = <process *>index_find(&self.older, pid)
            if one == NULL or one.start_ns // TICK_NS != start_ns // TICK_NS:
                found = self.read(pid) if runs else None
                if found is None:
                    return NULL
                one = encoded_process(found)
                fresh = restarted(one, start_ns) if one.start_ns // TICK_NS == start_ns // TICK_NS else NULL
                if fresh == NULL and one.start_ns // TICK_NS != start_ns // TICK_NS:
                    release(one)
                    return NULL
                release(one)
            else:
                fresh = restarted(one, start_ns)
            release(<process *>index_remove(&self.older, pid))
        if fresh == NULL:
            raise MemoryError
        self.keep(key, fresh)
        return fresh

    cdef process *made_up(
        self, const abi.aegis_process *said, const byte *comm, size_t comm_size, int64_t ppid, shared *group
    ) except NULL:
        """What one record says of a process, and why there is no more. Takes the reference of the group over;
        its own is the caller's. `comm` NULL and `ppid` NOT_TOLD where the record does not say.
        """
        cdef process *one = invented(said, comm, comm_size, ppid, self.unknown, &self.scratch)
        if one == NULL:
            drop(group)
            self.failed()
        one.group = group
        one.line = hold(self.no_line)
        return one

    cdef process *invent(
        self, const abi.aegis_process *said, const byte *comm, size_t comm_size, int64_t ppid, shared *group
    ) except NULL:
        """As `made_up`, and kept: the table's own."""
        cdef process *one = self.made_up(said, comm, comm_size, ppid, group)
        self.unseen += 1
        self.keep(owner_key(said.pid, said.start_ns), one)
        return one

    cdef int keep(self, uint64_t key, process *fresh) except -1:
        """Put a process into the table; takes its reference over."""
        cdef process *before
        if not index_reserve(&self.known):
            release(fresh)
            raise MemoryError
        before = <process *>index_put(&self.known, key, fresh)
        if before != NULL:
            fresh.missing = before.missing
            self.names += before.named
            release(before)
        return 0

    cdef void forget(self, uint64_t key) noexcept:
        cdef process *one = <process *>index_remove(&self.known, key)
        if one != NULL:
            self.names += one.named
            release(one)

    cdef int end(self, uint64_t key) except -1:
        """It has ended: those that did so longest ago are forgotten for it."""
        cdef process *one = <process *>index_find(&self.known, key)
        cdef uint64_t size = sizeof(process) + one.size if one != NULL else 0
        cdef uint64_t most_bytes = <uint64_t>self.keep_ended * ENDED_BYTES
        cdef shared *unknown
        self.push(&self.ended_sizes, size)
        try:
            self.push(&self.ended, key)
        except MemoryError:
            self.ended_sizes.count -= 1
            raise
        self.ended_bytes += size
        while <Py_ssize_t>self.ended.count > self.keep_ended or (
            self.ended_bytes > most_bytes and self.ended.count > 1
        ):
            self.ended_bytes -= numbers_pop(&self.ended_sizes)
            self.forget(numbers_pop(&self.ended))
            if not self.forgetful:
                unknown = fragment(absent(NOT_KEPT))
                drop(self.unknown)
                self.unknown = unknown
                self.forgetful = True
        return 0

    cdef shared *line(self, const abi.aegis_exec *record) except NULL:
        """The ancestors of an exec record, by what they run now; the reference is the caller's."""
        cdef cbor_buffer *into = &self.ancestors
        cdef int count = record.ancestor_count
        cdef size_t size = count * sizeof(abi.aegis_process)
        cdef kept_line *kept
        cdef const abi.aegis_process *each
        cdef process *one
        cdef shared *line
        cdef byte *at
        cdef uint64_t key
        cdef int member
        if count == 0:
            return hold(self.no_line)
        key = owner_key(record.ancestors[0].pid, record.ancestors[0].start_ns)
        kept = &self.lines[(key * self.known.multiplier) >> 58]
        if (
            kept.line != NULL
            and kept.line.members == count
            and kept.names == self.names
            and memcmp(kept.members, record.ancestors, size) == 0
        ):
            return hold(kept.line)
        into.used = 0
        cbor_array(into, count)
        for member in range(count):
            each = &record.ancestors[member]
            key = owner_key(each.pid, each.start_ns)
            one = <process *>index_find(&self.known, key)
            if one == NULL or one.parent != NULL:
                one = self.settle(key, each.pid, each.start_ns, True)
                if one == NULL:
                    one = self.invent(each, NULL, 0, NOT_TOLD, hold(self.unknown))
            one.named = True
            at = cbor_reserve(into, ancestor_size(one))
            if at != NULL:
                cbor_written(into, put_ancestor(at, one))
        line = NULL
        if not into.no_memory:
            line = new_shared(into.data, <uint32_t>into.used)
        if line == NULL:
            self.failed()
        count_members(line, <byte>count)
        drop(kept.line)
        kept.line = hold(line)
        kept.names = self.names
        memcpy(kept.members, record.ancestors, size)
        return line

    # Cgroups

    cdef shared *group(self, uint64_t identity) except NULL:
        """The cgroup of an id, asked for once; the reference is the caller's."""
        cdef shared *one = <shared *>index_find(&self.groups, identity)
        if one == NULL:
            found = self.cgroup_of(identity)
            if found is None:
                return hold(self.no_group)
            self.keep_group(identity, found)
            one = <shared *>index_find(&self.groups, identity)
        return hold(one)

    cdef int keep_group(self, uint64_t identity, found) except -1:
        cdef shared *one = encoded_group(found)
        if not index_reserve(&self.groups):
            drop(one)
            raise MemoryError
        cdef shared *before = <shared *>index_put(&self.groups, identity, one)
        if before != NULL:
            drop(before)
            return 0
        self.push(&self.group_ids, identity)
        if self.group_ids.count > CGROUPS:
            drop(<shared *>index_remove(&self.groups, numbers_pop(&self.group_ids)))
        return 0

    # Who is it

    cdef int write_owner(self, uint64_t owner, const socket_note *note, cbor_buffer *into) except -1:
        """Append what an owner id of the flow table stands for, a process or a label. 0, and nothing is
        appended: it is not known any more.

        The id has the start in units of 1,024 ns and without its upper bits: of a process older than the
        agent it can only tell that the start is near. `note` is what the kernel noted at the socket, NULL
        where it has nothing: a process may move between cgroups without a record of ours, so then the cgroup
        is that of the note; and what only the kernel remembers is told and not kept.
        """
        cdef uint32_t pid = <uint32_t>(owner & PID_MASK)
        cdef abi.aegis_process said
        cdef process *one
        cdef process *own = NULL  # made for this answer
        cdef shared *group = NULL
        cdef size_t start = into.used
        if not pid and owner >> PID_BITS < LABEL_COUNT:
            cbor_raw(into, LABELS[owner >> PID_BITS], strlen(LABELS[owner >> PID_BITS]))
            if into.no_memory:
                raise MemoryError
            return 1
        self.enter()
        try:
            one = self.look_up(owner, pid, &own) if pid else NULL
            if one == NULL and note != NULL:
                one = self.settle(owner_key(note.pid, note.start_ns), note.pid, note.start_ns, True)
                if one == NULL:
                    said.pid, said.start_ns, said.uid = note.pid, note.start_ns, note.uid
                    own = self.made_up(
                        &said, note.comm, note.comm_size, NOT_TOLD, self.group(note.cgroup_id)
                    )
                    one = own
            elif one != NULL and note != NULL and (not one.group.known or one.group.id != note.cgroup_id):
                group = self.group(note.cgroup_id)
            if one == NULL:
                return 0
            if not write_described(into, one, group if group != NULL else one.group):
                into.used = start
                raise MemoryError
            return 1
        finally:
            release(own)
            drop(group)
            self.busy = False

    cdef process *look_up(self, uint64_t owner, uint32_t pid, process **own) except? NULL:
        """A process by its owner id alone; `own` is set when the table does not keep it."""
        cdef process *one = <process *>index_find(&self.known, owner)
        if one != NULL:
            return one if one.parent == NULL else self.settle(owner, pid, 0, True)
        one = <process *>index_find(&self.older, pid)
        if one != NULL and near(one.start_ns, owner):
            return one
        found = self.read(pid)
        if found is None:
            return NULL
        own[0] = encoded_process(found)
        return own[0] if near(own[0].start_ns, owner) else NULL

    def owner(self, uint64_t owner, note=None):
        """The CBOR of what an owner id stands for: a process or a label. None: it is not known any more.

        `note`: what the kernel noted at the socket, as (pid, start_ns, uid, cgroup_id, comm).
        """
        cdef cbor_buffer buffer
        cdef socket_note noted
        cdef const socket_note *given = NULL
        cdef bytes comm
        memset(&buffer, 0, sizeof(buffer))
        if note is not None:
            noted.pid, noted.start_ns, noted.uid, noted.cgroup_id, comm = note
            noted.comm = <const byte *>PyBytes_AS_STRING(comm)
            noted.comm_size = PyBytes_GET_SIZE(comm)
            given = &noted
        try:
            return cbor_taken(&buffer) if self.write_owner(owner, given, &buffer) else None
        finally:
            cbor_free(&buffer)

    # What was lost

    def reconcile(self, running):
        """Forget processes whose exit never arrived: neither running nor ended, now and the last time. How
        many. An exit that is only late, in the ring or a queue, finds its process still.
        """
        cdef set alive = set(running)
        cdef index newest
        cdef numbers lost
        cdef index_slot *slot
        cdef process *one
        cdef size_t at
        cdef Py_ssize_t count = 0
        memset(&newest, 0, sizeof(newest))
        memset(&lost, 0, sizeof(lost))
        newest.multiplier = self.older.multiplier
        self.enter()
        try:
            for at in range(self.ended.count):
                one = <process *>index_find(&self.known, numbers_at(&self.ended, at))
                if one != NULL:
                    one.ended = True
            self.find_newest(alive, &newest)
            for at in range(self.known.count):
                slot = &self.known.slots[at]
                one = <process *>slot.value
                if one == NULL:
                    continue
                if one.ended or index_find(&newest, slot.key & PID_MASK) == one:
                    one.ended = one.missing = False
                elif one.missing:
                    self.push(&lost, slot.key)
                else:
                    one.missing = True
            count = lost.count
            while lost.count:
                self.forget(numbers_pop(&lost))
            for at in range(self.older.count):
                slot = &self.older.slots[at]
                one = <process *>slot.value
                if one == NULL:
                    continue
                if slot.key in alive:
                    one.missing = False
                elif one.missing:
                    self.push(&lost, slot.key)
                else:
                    one.missing = True
            while lost.count:
                release(<process *>index_remove(&self.older, numbers_pop(&lost)))
            return count
        finally:
            numbers_free(&lost)
            index_free(&newest)
            self.busy = False

    cdef int find_newest(self, set alive, index *newest) except -1:
        """Of the processes that have not ended, the newest of each number that runs."""
        cdef index_slot *slot
        cdef process *one
        cdef process *other
        cdef uint64_t pid
        cdef size_t at
        for at in range(self.known.count):
            slot = &self.known.slots[at]
            one = <process *>slot.value
            if one == NULL or one.ended:
                continue
            pid = slot.key & PID_MASK
            if pid not in alive:
                continue
            if not index_reserve(newest):
                raise MemoryError
            other = <process *>index_find(newest, pid)
            if other == NULL or one.start_ns > other.start_ns:
                index_put(newest, pid, one)
        return 0
