"""What user space knows of the kernel's flows: last values, what each harvest added, which are gone."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memcpy

from aegis._native cimport abi
from aegis._native.buffers cimport byte
from aegis._native.flow_queues cimport (
    GONE,
    LIVE,
    NONE,
    chain_ends,
    entry,
    queue_drop,
    queue_news,
    queues_empty,
)

import secrets
from collections import namedtuple

cdef enum:
    LARGEST = 1 << 24

# The order of struct aegis_flow_row, pairs as egress then ingress, without the harvest's own mark; then what
# the table adds.
FlowRow = namedtuple(
    "FlowRow",
    "local remote local_port remote_port ifindex vlan_outer vlan_inner protocol fragment "
    "packets_egress packets_ingress bytes_egress bytes_ingress generation rule verdict initiator epoch "
    "tcp_flags_egress tcp_flags_ingress state marks owner cookie first_ns dropped_packets extra_segments "
    "added_packets_egress added_packets_ingress added_bytes_egress added_bytes_ingress reaped",
    module="aegis._native.flowtable",
)


cdef struct sighting:
    uint64_t last_ns
    int32_t index
    int32_t position  # in the order of `rows`, so that of equal ones always the same comes first


cdef class FlowTable:
    """Flows by key and first instant: a five-tuple used again is another flow.

    At most `capacity` rows, memory taken as they come. When full, the row of a reaped flow that changed
    longest ago makes room (`evicted`), and where no flow is reaped the live one that changed longest ago
    (`evicted_live`): should that one change again, all it ever counted is told again. With room for the
    kernel's table and one row more that never happens.

    `aegis._native.flow_records` tells of flows: each when it is new and when it is over, and in between when
    it changed and was not told of for an interval. `untold` counts rows dropped with something to tell.
    """

    def __cinit__(self, Py_ssize_t capacity):
        cdef uint32_t slots = 16
        if not 1 <= capacity <= LARGEST:
            raise ValueError(f"capacity {capacity} is not between 1 and {LARGEST}")
        while slots < 2 * capacity:
            slots *= 2
        self.capacity = capacity
        self.mask = slots - 1
        self.free = NONE
        self.seed = secrets.randbits(64)  # keys come from the network: nobody may choose where they land
        self.chains[LIVE] = self.chains[GONE] = chain_ends(NONE, NONE)
        queues_empty(&self.queues)
        self.entries = <entry *>PyMem_RawCalloc(capacity, sizeof(entry))
        self.slots = <int32_t *>PyMem_RawCalloc(slots, sizeof(int32_t))
        if self.entries == NULL or self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_RawFree(self.entries)
        PyMem_RawFree(self.slots)

    def __len__(self):
        return self.used

    cdef uint32_t home(self, const abi.aegis_flow_row *row) noexcept nogil:
        cdef uint64_t value = self.seed ^ row.value.first_ns
        cdef uint64_t word
        cdef size_t at
        for at in range(sizeof(abi.aegis_flow_key) // sizeof(word)):  # the size is a multiple of eight
            memcpy(&word, <const char *>&row.key + at * sizeof(word), sizeof(word))
            value = (value ^ word) * <uint64_t>0x9E3779B97F4A7C15
            value ^= value >> 29
        return <uint32_t>(value >> 16) & self.mask

    cdef uint32_t place(self, const abi.aegis_flow_row *row) noexcept nogil:
        """Slot that holds the flow, or the free one where it belongs."""
        cdef uint32_t at = self.home(row)
        cdef const abi.aegis_flow_row *held
        while self.slots[at]:
            held = &self.entries[self.slots[at] - 1].row
            if (
                held.value.first_ns == row.value.first_ns
                and memcmp(&held.key, &row.key, sizeof(abi.aegis_flow_key)) == 0
            ):
                break
            at = (at + 1) & self.mask
        return at

    cdef void unlink(self, int32_t index) noexcept nogil:
        cdef entry *one = &self.entries[index]
        cdef chain_ends *ends = &self.chains[one.chain]
        if one.older == NONE:
            ends.oldest = one.newer
        else:
            self.entries[one.older].newer = one.newer
        if one.newer == NONE:
            ends.newest = one.older
        else:
            self.entries[one.newer].older = one.older

    cdef void link(self, int32_t index, uint32_t chain) noexcept nogil:
        """Make it the newest of its chain."""
        cdef entry *one = &self.entries[index]
        cdef chain_ends *ends = &self.chains[chain]
        one.chain = <byte>chain
        one.newer = NONE
        one.older = ends.newest
        if ends.newest == NONE:
            ends.oldest = index
        else:
            self.entries[ends.newest].newer = index
        ends.newest = index

    cdef void drop(self, int32_t index) noexcept nogil:
        cdef uint32_t hole = self.place(&self.entries[index].row)
        cdef uint32_t at = hole, wanted
        # No tombstones: what was pushed past the hole moves back into it.
        while True:
            at = (at + 1) & self.mask
            if not self.slots[at]:
                break
            wanted = self.home(&self.entries[self.slots[at] - 1].row)
            if ((at - wanted) & self.mask) >= ((at - hole) & self.mask):
                self.slots[hole] = self.slots[at]
                hole = at
        self.slots[hole] = 0
        self.unlink(index)
        queue_drop(&self.queues, self.entries, index)
        self.untold += self.entries[index].pending
        self.entries[index].newer = self.free
        self.free = index
        self.used -= 1

    cdef int32_t take(self) noexcept nogil:
        """An unused entry; evicts one when there is none."""
        cdef int32_t index
        if self.free == NONE and self.fresh == self.capacity:
            if self.chains[GONE].oldest != NONE:
                self.evicted += 1
                self.drop(self.chains[GONE].oldest)
            else:
                self.evicted_live += 1
                self.drop(self.chains[LIVE].oldest)
        if self.free != NONE:
            index = self.free
            self.free = self.entries[index].newer
        else:
            index = self.fresh
            self.fresh += 1
        self.used += 1
        return index

    cdef bint merge(self, const abi.aegis_flow_row *row, uint32_t chain) noexcept nogil:
        """Take one row; False when it says nothing new."""
        cdef uint32_t at = self.place(row)
        cdef int32_t index
        cdef entry *one
        cdef uint64_t before[4]
        cdef uint64_t now[4]
        cdef uint64_t gain
        cdef int each
        cdef bint changed = True
        if self.slots[at]:
            index = self.slots[at] - 1
            one = &self.entries[index]
            if one.chain == GONE:
                chain = GONE  # a harvest that overlaps the reaping does not bring it back
            changed = memcmp(&one.row.value, &row.value, sizeof(row.value)) != 0
            if one.chain == chain and not changed:
                return False
            counters(before, &one.row)
            self.unlink(index)
        else:
            index = self.take()
            at = self.place(row)  # an eviction may have moved the free slot
            self.slots[at] = index + 1
            one = &self.entries[index]
            one.row.key = row.key
            one.harvest = 0
            one.pending = one.told_over = False
            before[0] = before[1] = before[2] = before[3] = 0
        if one.harvest != self.harvest:
            one.harvest = self.harvest
            one.added[0] = one.added[1] = one.added[2] = one.added[3] = 0
        counters(now, row)
        for each in range(4):
            # Counters only grow, but rows of two sweeps may arrive in the wrong order.
            gain = now[each] - before[each] if now[each] > before[each] else 0
            one.added[each] += gain
            self.gained[each] += gain
        one.row.value = row.value
        for each in range(2):
            one.row.value.packets[each] = max(now[each], before[each])
            one.row.value.bytes[each] = max(now[2 + each], before[2 + each])
        self.link(index, chain)
        if changed or one.pending or not one.told_over:
            queue_news(&self.queues, self.entries, index)
        return True

    def next_harvest(self):
        """Begin a harvest; its number. What rows added is counted anew from here."""
        self.harvest += 1
        return self.harvest

    def ingest(self, rows, *, bint reaped=False):
        """Take struct aegis_flow_row's, whole ones, one after the other; how many said something new.

        `reaped`: these are the last words of flows the kernel has deleted. ValueError when a row is cut
        short.
        """
        cdef Py_buffer view
        cdef abi.aegis_flow_row row
        cdef Py_ssize_t at = 0, changed = 0
        if self.harvest == 0:
            raise ValueError("next_harvest comes first")
        PyObject_GetBuffer(rows, &view, PyBUF_SIMPLE)
        try:
            if view.len % <Py_ssize_t>sizeof(row):
                raise ValueError(f"{view.len} bytes are no whole number of rows of {sizeof(row)}")
            while at < view.len:
                # Copied: the buffer may be anywhere, and shared with the kernel.
                memcpy(&row, <const char *>view.buf + at, sizeof(row))
                row.value.harvested = 0  # the sweep's own mark is no news
                changed += self.merge(&row, GONE if reaped else LIVE)
                at += sizeof(row)
        finally:
            PyBuffer_Release(&view)
        return changed

    def rows(self, *, bint changed=False):
        """All rows, or those this harvest changed; live ones first, of both the newest change first."""
        cdef list found = []
        cdef int32_t index
        cdef int chain
        for chain in range(2):
            index = self.chains[chain].newest
            while index != NONE and not (changed and self.entries[index].harvest != self.harvest):
                found.append(self.decode(index))
                index = self.entries[index].older
        return found

    def snapshot(self, last=None):
        """All rows as they are now, in the order of `rows`; with `last`, so many, those seen latest first."""
        cdef FlowSnapshot copied = FlowSnapshot.__new__(FlowSnapshot)
        cdef Py_ssize_t wanted = self.used if last is None else max(min(last, self.used), 0)
        cdef Py_ssize_t at = 0
        cdef int32_t index
        cdef int chain
        cdef sighting *seen = <sighting *>PyMem_RawCalloc(max(self.used, 1), sizeof(sighting))
        if seen == NULL:
            raise MemoryError
        try:
            for chain in range(2):
                index = self.chains[chain].newest
                while index != NONE:
                    seen[at] = sighting(last_seen(&self.entries[index].row), index, <int32_t>at)
                    at += 1
                    index = self.entries[index].older
            if last is not None:
                qsort(seen, at, sizeof(sighting), latest_first)
            copied.entries = <entry *>PyMem_RawCalloc(max(wanted, 1), sizeof(entry))
            if copied.entries == NULL:
                raise MemoryError
            for at in range(wanted):
                copied.entries[at] = self.entries[seen[at].index]
        finally:
            PyMem_RawFree(seen)
        copied.count = wanted
        copied.harvest = self.harvest
        return copied

    def owners(self):
        """The owner id of every row, each once."""
        cdef set found = set()
        cdef int32_t index
        cdef int chain
        for chain in range(2):
            index = self.chains[chain].newest
            while index != NONE:
                found.add(self.entries[index].row.value.owner)
                index = self.entries[index].older
        return found

    def top(self, Py_ssize_t n, *, by="bytes"):
        """The `n` rows to which this harvest added most `bytes` or `packets`, greatest first."""
        cdef list ranked = []
        cdef entry *one
        cdef int32_t index
        cdef int chain, first
        if by not in ("bytes", "packets"):
            raise ValueError(f"flows cannot be ranked by {by!r}")
        first = 2 if by == "bytes" else 0
        for chain in range(2):
            index = self.chains[chain].newest
            while index != NONE and self.entries[index].harvest == self.harvest:
                one = &self.entries[index]
                ranked.append((one.added[first] + one.added[first + 1], index))
                index = one.older
        ranked.sort(reverse=True)
        return [self.decode(index) for _, index in ranked[: max(n, 0)]]

    def forget(self, uint64_t harvests):
        """Drop reaped flows whose last change is at least `harvests` harvests ago; how many."""
        cdef Py_ssize_t dropped = 0
        cdef int32_t index = self.chains[GONE].oldest
        while index != NONE and self.harvest - self.entries[index].harvest >= harvests:
            self.drop(index)
            dropped += 1
            index = self.chains[GONE].oldest
        return dropped

    def totals(self):
        """All that rows ever added: packets egress, ingress, bytes egress, ingress. Never shrinks."""
        return self.gained[0], self.gained[1], self.gained[2], self.gained[3]

    cdef decode(self, int32_t index):
        return decoded(&self.entries[index], self.harvest)


cdef class FlowSnapshot:
    """Rows of one instant, at a quarter of the memory of their tuples: those are made as they are read."""

    cdef entry *entries
    cdef Py_ssize_t count
    cdef uint64_t harvest

    def __dealloc__(self):
        PyMem_RawFree(self.entries)

    def __len__(self):
        return self.count

    def part(self, Py_ssize_t start, Py_ssize_t length):
        """Up to `length` rows from `start` on."""
        cdef Py_ssize_t at
        cdef Py_ssize_t first = min(max(start, 0), self.count)
        cdef list found = []
        for at in range(first, first + max(min(length, self.count - first), 0)):
            found.append(decoded(&self.entries[at], self.harvest))
        return found


cdef decoded(entry *one, uint64_t harvest):
    cdef abi.aegis_flow_key *k = &one.row.key
    cdef abi.aegis_flow_value *v = &one.row.value
    cdef bint now = one.harvest == harvest
    return tuple.__new__(FlowRow, (
        PyBytes_FromStringAndSize(<const char *>k.local, 16),
        PyBytes_FromStringAndSize(<const char *>k.remote, 16),
        k.local_port, k.remote_port, k.ifindex, k.vlan_outer, k.vlan_inner, k.protocol, k.fragment,
        v.packets[0], v.packets[1], v.bytes[0], v.bytes[1], v.generation,
        v.judged & abi.AEGIS_JUDGED_RULE_MASK, v.judged >> abi.AEGIS_JUDGED_VERDICT_SHIFT & 3,
        v.judged >> abi.AEGIS_JUDGED_INITIATOR_SHIFT & 1,
        v.epoch, v.tcp_flags[0], v.tcp_flags[1], v.state, v.marks, v.owner, v.cookie, v.first_ns,
        v.dropped_packets, v.extra_segments,
        one.added[0] if now else 0, one.added[1] if now else 0, one.added[2] if now else 0,
        one.added[3] if now else 0, one.chain == GONE,
    ))


cdef inline uint64_t last_seen(const abi.aegis_flow_row *row) noexcept nogil:
    """When its last packet came: the epoch is in seconds and may lie before the first packet."""
    return max(row.value.first_ns, <uint64_t>row.value.epoch * <uint64_t>1000000000)


cdef int latest_first(const void *one, const void *other) noexcept nogil:
    cdef const sighting *a = <const sighting *>one
    cdef const sighting *b = <const sighting *>other
    if a.last_ns != b.last_ns:
        return -1 if a.last_ns > b.last_ns else 1
    return -1 if a.position < b.position else 1


cdef inline void counters(uint64_t *into, const abi.aegis_flow_row *row) noexcept nogil:
    into[0] = row.value.packets[abi.AEGIS_EGRESS]
    into[1] = row.value.packets[abi.AEGIS_INGRESS]
    into[2] = row.value.bytes[abi.AEGIS_EGRESS]
    into[3] = row.value.bytes[abi.AEGIS_INGRESS]
