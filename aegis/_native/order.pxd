"""Records in the order they happened: a stable sort by time, one look where they stand right already."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy


cdef struct told:
    uint64_t at_ns
    const char *record


cdef inline void order(told *items, told *room, size_t count) noexcept nogil:
    """Sort in place, those of one instant as they stood; `room` is for as many again."""
    cdef size_t width = 1, first, middle, end, left, right, to
    while width < count:
        first = 0
        while first + width < count:
            middle = first + width
            end = min(middle + width, count)
            if items[middle - 1].at_ns > items[middle].at_ns:
                memcpy(room, items + first, width * sizeof(told))
                left, right, to = 0, middle, first
                while left < width:
                    if right < end and items[right].at_ns < room[left].at_ns:
                        items[to] = items[right]
                        right += 1
                    else:
                        items[to] = room[left]
                        left += 1
                    to += 1
            first = end
        width *= 2
