"""What there is to tell of the flows of a table: which ones at once, which ones when their interval is over.

A flow is told of when it is new, when it is over, and in between at most once in an interval when it changed.
Each step costs the same, however many flows there are. Nothing here needs the GIL.
"""

from libc.stdint cimport int32_t, uint64_t

from aegis._native cimport abi
from aegis._native.buffers cimport byte


cdef enum:
    NONE = -1
    LIVE = 0
    GONE = 1

cdef enum:  # queues
    UNQUEUED
    FRESH  # at once, oldest news first
    RECENT  # told of within the interval, the one told of longest ago first
    QUEUES


cdef struct entry:
    abi.aegis_flow_row row
    uint64_t added[4]  # packets egress, ingress, bytes egress, ingress: in the harvest it was last changed
    uint64_t harvest
    uint64_t told_ns
    int32_t older
    int32_t newer  # of the chain it is in; of a free entry: the next free one
    int32_t queue_older
    int32_t queue_newer
    byte chain  # LIVE, or GONE: the kernel has deleted it
    byte queue
    byte pending  # changed since it was told of
    byte told_over  # told of as over


cdef struct chain_ends:
    int32_t oldest
    int32_t newest


cdef struct flow_queues:
    chain_ends ends[QUEUES]


cdef inline bint is_over(const entry *one) noexcept nogil:
    """The kernel has deleted it, or both sides have ended their half."""
    return one.chain == GONE or one.row.value.state == abi.AEGIS_FLOW_CLOSED


cdef inline void queues_empty(flow_queues *queues) noexcept nogil:
    queues.ends[FRESH] = queues.ends[RECENT] = chain_ends(NONE, NONE)


cdef inline void queue_put(flow_queues *queues, entry *entries, int32_t index, byte queue) noexcept nogil:
    """Make it the newest of a queue; it is in none."""
    cdef entry *one = &entries[index]
    cdef chain_ends *ends = &queues.ends[queue]
    one.queue = queue
    one.queue_newer = NONE
    one.queue_older = ends.newest
    if ends.newest == NONE:
        ends.oldest = index
    else:
        entries[ends.newest].queue_newer = index
    ends.newest = index


cdef inline void queue_drop(flow_queues *queues, entry *entries, int32_t index) noexcept nogil:
    """Take it out of the queue it is in, if it is in one."""
    cdef entry *one = &entries[index]
    cdef chain_ends *ends = &queues.ends[one.queue]
    if one.queue == UNQUEUED:
        return
    if one.queue_older == NONE:
        ends.oldest = one.queue_newer
    else:
        entries[one.queue_older].queue_newer = one.queue_newer
    if one.queue_newer == NONE:
        ends.newest = one.queue_older
    else:
        entries[one.queue_newer].queue_older = one.queue_older
    one.queue = UNQUEUED


cdef inline void queue_news(flow_queues *queues, entry *entries, int32_t index) noexcept nogil:
    """It changed: to be told at once when it is new, over, or was last told of an interval ago."""
    cdef entry *one = &entries[index]
    one.pending = True
    if one.queue == RECENT and is_over(one) and (one.chain == GONE or not one.told_over):
        queue_drop(queues, entries, index)
    if one.queue == UNQUEUED:
        queue_put(queues, entries, index, FRESH)


cdef inline int32_t queue_due(
    flow_queues *queues, entry *entries, uint64_t now_ns, uint64_t interval_ns
) noexcept nogil:
    """A flow that is to be told of, or NONE. `queue_told` comes next, or `queue_news` when that failed."""
    cdef int32_t index = queues.ends[FRESH].oldest
    while index == NONE and queues.ends[RECENT].oldest != NONE:
        index = queues.ends[RECENT].oldest
        if entries[index].told_ns + interval_ns > now_ns:
            return NONE
        queue_drop(queues, entries, index)
        if not entries[index].pending:
            index = NONE
    return index


cdef inline void queue_told(
    flow_queues *queues, entry *entries, int32_t index, uint64_t now_ns
) noexcept nogil:
    cdef entry *one = &entries[index]
    queue_drop(queues, entries, index)
    one.pending = False
    one.told_ns = now_ns
    one.told_over = is_over(one)
    if one.chain == LIVE:
        queue_put(queues, entries, index, RECENT)
