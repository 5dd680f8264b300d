"""Python buffers held in place for native code that works on many at once."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE


cdef class Pieces:
    """The bytes of a sequence of buffers, held where they are."""

    def __cinit__(self, items):
        cdef Py_ssize_t index
        cdef object item
        self.items = tuple(items)  # a list could lose its items to another thread
        self.count = PyTuple_GET_SIZE(self.items)
        self.at = <piece *>PyMem_Calloc(self.count or 1, sizeof(piece))
        if self.at == NULL:
            raise MemoryError
        for index in range(self.count):
            item = <object>PyTuple_GET_ITEM(self.items, index)
            if PyBytes_CheckExact(item):
                self.at[index].data = <const byte *>PyBytes_AS_STRING(item)
                self.at[index].size = PyBytes_GET_SIZE(item)
            else:
                self.hold(index, item)
            self.total += self.at[index].size

    cdef int hold(self, Py_ssize_t index, item) except -1:
        if self.views == NULL:
            self.views = <Py_buffer *>PyMem_Calloc(self.count, sizeof(Py_buffer))
            if self.views == NULL:
                raise MemoryError
        PyObject_GetBuffer(item, &self.views[index], PyBUF_SIMPLE)
        self.at[index].data = <const byte *>self.views[index].buf
        self.at[index].size = self.views[index].len
        return 0

    def __dealloc__(self):
        cdef Py_ssize_t index
        if self.views != NULL:
            for index in range(self.count):
                PyBuffer_Release(&self.views[index])
            PyMem_Free(self.views)
        PyMem_Free(self.at)


cdef Pieces companions(Pieces messages, ads):
    cdef Pieces found
    if ads is None:
        return None
    found = Pieces(ads)
    if found.count != messages.count:
        raise ValueError(f"{found.count} associated data for {messages.count} messages")
    return found


cdef class Room:
    """The first `size` bytes of a writable buffer that none of the messages lies in."""

    def __cinit__(self, out, uint64_t size, Pieces messages):
        cdef Py_ssize_t index
        cdef const byte *start
        cdef const byte *end
        PyObject_GetBuffer(out, &self.view, PyBUF_WRITABLE)
        self.data = <byte *>self.view.buf
        if <uint64_t>self.view.len < size:
            raise ValueError(f"out has {self.view.len} bytes, {size} are needed")
        end = self.data + size
        for index in range(messages.count):
            start = messages.at[index].data
            if start < end and self.data < start + messages.at[index].size:
                raise ValueError("out overlaps a message")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)
