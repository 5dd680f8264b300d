# distutils: libraries = bpf
"""Reader of the record ring, on libbpf's own consumer."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_SetFromErrno
from cpython.mem cimport PyMem_RawFree
from libc.stdint cimport uint16_t, uint64_t

from aegis._native cimport abi
from aegis._native.libbpf cimport (
    aegis_fence,
    aegis_load_seq,
    aegis_store_seq,
    ring_buffer,
    ring_buffer__consume,
    ring_buffer__epoll_fd,
    ring_buffer__free,
    ring_buffer__new,
)
from aegis._native.records cimport (
    RECORD_GOOD,
    RECORD_UNKNOWN,
    RecordBatch,
    arena,
    arena_append,
    record_check,
    record_fault,
)
from aegis._native.tally cimport Tally, tally_add, tally_settle_all, tally_table

import os
import warnings

cdef enum:
    BUDGET_SPENT = -4096  # below every errno libbpf could return
    MOST = 1 << 30


cdef struct drain_state:
    tally_table *tallies[16]
    arena records
    abi.u64 *read
    Py_ssize_t budget
    uint64_t unknown
    uint64_t malformed
    uint64_t no_memory


cdef int take(void *context, void *data, size_t size) noexcept nogil:
    """libbpf's callback, once a record. A negative answer ends the drain after this record."""
    cdef drain_state *state = <drain_state *>context
    cdef const char *record = <const char *>data
    cdef uint16_t kind = 0
    cdef record_fault fault = record_check(record, size)
    if size >= sizeof(abi.aegis_header):
        kind = (<const abi.aegis_header *>record).kind
    # Read is read, whatever the record is worth: the identity read = submitted counts arrivals.
    state.read[kind if kind < abi.AEGIS_KINDS else <uint16_t>abi.AEGIS_KIND_NONE] += 1
    if fault != RECORD_GOOD:
        if fault == RECORD_UNKNOWN:
            state.unknown += 1
        else:
            state.malformed += 1
    elif state.tallies[kind] != NULL:
        tally_add(state.tallies[kind], record)
    elif not arena_append(&state.records, record, size):
        state.no_memory += 1
    state.budget -= 1
    return 0 if state.budget > 0 else BUDGET_SPENT


cdef class RingReader:
    """The one reader of a ring.

    `map_fd` is the ring's map; `reader` a writable buffer over struct aegis_reader, which is shared with the
    producers and must outlive this object. Records of a kind that has a Tally are counted there; all others
    are copied into a batch. Not for two threads at once. Close it: one that is dropped open warns.
    """

    cdef ring_buffer *ring
    cdef abi.aegis_reader *shared
    cdef Py_buffer view
    cdef drain_state state
    cdef tuple tallies
    cdef bint draining
    cdef readonly bint more
    cdef readonly int epoll_fd

    def __cinit__(self, int map_fd, reader, tallies=()):
        cdef Tally tally
        self.epoll_fd = -1
        self.tallies = tuple(tallies)
        for tally in self.tallies:
            if self.state.tallies[tally.kind] != NULL:
                raise ValueError(f"two tallies of kind {tally.kind}")
            self.state.tallies[tally.kind] = &tally.table
        PyObject_GetBuffer(reader, &self.view, PyBUF_WRITABLE)
        if self.view.len < <Py_ssize_t>sizeof(abi.aegis_reader) or <size_t>self.view.buf % sizeof(uint64_t):
            raise ValueError(f"reader is not an aligned buffer of {sizeof(abi.aegis_reader)} bytes")
        self.shared = <abi.aegis_reader *>self.view.buf
        self.state.read = self.shared.read
        # libbpf keeps the address of the state, so it lives in this object. One ring a manager: the budget's
        # negative answer would cut the drain of every other ring in it.
        self.ring = ring_buffer__new(map_fd, take, &self.state, NULL)
        if self.ring == NULL:
            PyErr_SetFromErrno(OSError)
        self.epoll_fd = ring_buffer__epoll_fd(self.ring)

    def __del__(self):
        if self.ring != NULL:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)

    def __dealloc__(self):
        self.release()
        PyMem_RawFree(self.state.records.data)

    cdef void release(self) noexcept:
        if self.ring != NULL:
            ring_buffer__free(self.ring)
            self.ring = NULL
        self.shared = NULL
        self.state.read = NULL
        self.epoll_fd = -1
        PyBuffer_Release(&self.view)  # does nothing when there is none

    cdef int require_open(self) except -1:
        if self.ring == NULL:
            raise ValueError("the ring reader is closed")
        if self.draining:
            raise RuntimeError("the ring reader is draining in another thread")
        return 0

    def close(self):
        """Free mapping and epoll descriptor; remove that from the loop before. Twice is harmless."""
        if self.draining:
            raise RuntimeError("the ring reader is draining in another thread")
        self.release()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"<RingReader epoll_fd={self.epoll_fd}>"

    def drain(self, Py_ssize_t budget):
        """Read at most `budget` records, without the GIL. Afterwards `more` says whether the budget ended it.

        Unknown and malformed records count as read and are left out; the batch says how many. OSError when
        libbpf fails, MemoryError when records were read that could not be kept.
        """
        cdef int result, kind
        cdef RecordBatch batch
        self.require_open()
        if not 1 <= budget <= MOST:
            raise ValueError(f"budget {budget} is not between 1 and {MOST}")
        self.state.budget = budget
        self.state.unknown = self.state.malformed = self.state.no_memory = 0
        self.draining = True
        with nogil:
            result = ring_buffer__consume(self.ring)
            for kind in range(abi.AEGIS_KINDS):
                if self.state.tallies[kind] != NULL:
                    tally_settle_all(self.state.tallies[kind])
        self.draining = False
        self.more = result == BUDGET_SPENT
        batch = RecordBatch.adopt(&self.state.records)
        batch.unknown = self.state.unknown
        batch.malformed = self.state.malformed
        if self.state.no_memory:
            raise MemoryError(f"{self.state.no_memory} records were read and lost")
        if result < 0 and not self.more:
            raise OSError(-result, os.strerror(-result))
        return batch

    def arm(self):
        """Ask the next producer for a wake-up. Then drain, and again while not armed(); only then sleep."""
        self.require_open()
        aegis_store_seq(&self.shared.armed, 1)
        # The drain that follows must not look at the ring before the producers can see the word.
        aegis_fence()

    def disarm(self):
        """Take the wish for a wake-up back."""
        self.require_open()
        aegis_store_seq(&self.shared.armed, 0)

    def armed(self):
        """False once a producer has taken the word, for a wake-up of what may be drained by now."""
        self.require_open()
        return aegis_load_seq(&self.shared.armed) != 0

    def read_counts(self):
        """Records read so far by kind, as the shared struct has them: sixteen counts."""
        self.require_open()
        return tuple([self.shared.read[kind] for kind in range(abi.AEGIS_KINDS)])
