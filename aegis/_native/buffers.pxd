"""Python buffers held in place for native code that works on many at once."""

from libc.stdint cimport uint64_t

ctypedef unsigned char byte


cdef struct piece:
    const byte *data
    uint64_t size


cdef class Pieces:
    cdef tuple items
    cdef Py_ssize_t count
    cdef piece *at
    cdef Py_buffer *views
    cdef uint64_t total

    cdef int hold(self, Py_ssize_t index, item) except -1


cdef class Room:
    cdef byte *data
    cdef Py_buffer view


cdef Pieces companions(Pieces messages, ads)
