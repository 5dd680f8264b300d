"""A queue of 64-bit numbers. Zero it before the first use, hand it to `numbers_free` at the end."""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint64_t


cdef struct numbers:
    uint64_t *items
    size_t room  # zero or a power of two
    size_t first
    size_t count


cdef inline uint64_t numbers_at(const numbers *queue, size_t at) noexcept nogil:
    return queue.items[(queue.first + at) & (queue.room - 1)]


cdef inline bint numbers_push(numbers *queue, uint64_t item) noexcept nogil:
    """Put it behind the last; False when there is no memory for it."""
    cdef size_t room = 2 * queue.room if queue.room else 64
    cdef uint64_t *items
    cdef size_t at
    if queue.count == queue.room:
        items = <uint64_t *>PyMem_RawMalloc(room * sizeof(uint64_t))
        if items == NULL:
            return False
        for at in range(queue.count):
            items[at] = numbers_at(queue, at)
        PyMem_RawFree(queue.items)
        queue.items = items
        queue.room = room
        queue.first = 0
    queue.items[(queue.first + queue.count) & (queue.room - 1)] = item
    queue.count += 1
    return True


cdef inline uint64_t numbers_pop(numbers *queue) noexcept nogil:
    """Take the first out; there must be one."""
    cdef uint64_t item = queue.items[queue.first]
    queue.first = (queue.first + 1) & (queue.room - 1)
    queue.count -= 1
    return item


cdef inline void numbers_free(numbers *queue) noexcept nogil:
    PyMem_RawFree(queue.items)
    queue.items = NULL
    queue.room = queue.first = queue.count = 0
