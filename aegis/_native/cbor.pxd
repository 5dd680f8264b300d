"""CBOR (RFC 8949) written in place: shortest heads, definite lengths. Only the last needs the GIL.

`cbor_buffer` grows as it is written; zero it before the first use and hand it to `cbor_free` at the end.
When memory runs out `no_memory` is set and stays: what is written afterwards is dropped whole. So a caller
writes a record, looks at the flag once, and on failure cuts `used` back to where the record began.

The `put_*` functions write at an address, for callers that have reserved room, and answer the one behind.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from aegis._native.buffers cimport byte


cdef extern from *:
    """
    #define aegis_swap16(value) __builtin_bswap16(value)
    #define aegis_swap32(value) __builtin_bswap32(value)
    #define aegis_swap64(value) __builtin_bswap64(value)
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "heads are written for little-endian hosts"
    #endif
    """
    unsigned short aegis_swap16(unsigned short value) noexcept nogil
    unsigned int aegis_swap32(unsigned int value) noexcept nogil
    unsigned long long aegis_swap64(unsigned long long value) noexcept nogil


cdef enum:
    CBOR_UINT = 0x00
    CBOR_NEGATIVE = 0x20
    CBOR_BYTES = 0x40
    CBOR_TEXT = 0x60
    CBOR_ARRAY = 0x80
    CBOR_MAP = 0xA0
    CBOR_TAG = 0xC0
    CBOR_FALSE = 0xF4
    CBOR_TRUE = 0xF5
    CBOR_NULL = 0xF6
    CBOR_HEAD = 9  # the most bytes of a head
    CBOR_ABSENT = 60000  # our tag: no value, and the reason as text
    CBOR_FIRST = 4096  # first capacity of a buffer


cdef struct cbor_buffer:
    byte *data
    size_t used
    size_t capacity
    bint no_memory


# At an address

cdef inline byte *put_head(byte *at, byte major, uint64_t value) noexcept nogil:
    """At most CBOR_HEAD bytes."""
    cdef unsigned short two
    cdef unsigned int four
    cdef unsigned long long eight
    if value < 24:
        at[0] = major | <byte>value
        return at + 1
    if value < 0x100:
        at[0] = major | 24
        at[1] = <byte>value
        return at + 2
    if value < 0x10000:
        at[0] = major | 25
        two = aegis_swap16(<unsigned short>value)
        memcpy(at + 1, &two, 2)
        return at + 3
    if value < <uint64_t>0x100000000:
        at[0] = major | 26
        four = aegis_swap32(<unsigned int>value)
        memcpy(at + 1, &four, 4)
        return at + 5
    at[0] = major | 27
    eight = aegis_swap64(value)
    memcpy(at + 1, &eight, 8)
    return at + 9


cdef inline byte *put_uint(byte *at, uint64_t value) noexcept nogil:
    return put_head(at, CBOR_UINT, value)


cdef inline byte *put_int(byte *at, int64_t value) noexcept nogil:
    if value < 0:
        return put_head(at, CBOR_NEGATIVE, ~<uint64_t>value)  # -1 - value, for the least number too
    return put_head(at, CBOR_UINT, <uint64_t>value)


cdef inline byte *put_raw(byte *at, const void *data, size_t size) noexcept nogil:
    """Bytes that are CBOR already."""
    memcpy(at, data, size)
    return at + size


cdef inline byte *put_bytes(byte *at, const void *data, size_t size) noexcept nogil:
    return put_raw(put_head(at, CBOR_BYTES, size), data, size)


cdef inline byte *put_text(byte *at, const void *data, size_t size) noexcept nogil:
    """`data` is UTF-8 already."""
    return put_raw(put_head(at, CBOR_TEXT, size), data, size)


cdef inline byte *put_bool(byte *at, bint value) noexcept nogil:
    at[0] = CBOR_TRUE if value else CBOR_FALSE
    return at + 1


cdef inline byte *put_null(byte *at) noexcept nogil:
    at[0] = CBOR_NULL
    return at + 1


cdef inline byte *put_absent(byte *at, const void *reason, size_t size) noexcept nogil:
    """At most 2 * CBOR_HEAD + size bytes."""
    return put_text(put_head(at, CBOR_TAG, CBOR_ABSENT), reason, size)


# Into a buffer

cdef inline bint cbor_grow(cbor_buffer *into, size_t more) noexcept nogil:
    cdef size_t capacity = into.capacity or <size_t>CBOR_FIRST
    cdef byte *data
    while capacity - into.used < more:
        capacity *= 2
    data = <byte *>PyMem_RawRealloc(into.data, capacity)
    if data == NULL:
        into.no_memory = True
        return False
    into.data = data
    into.capacity = capacity
    return True


cdef inline byte *cbor_reserve(cbor_buffer *into, size_t more) noexcept nogil:
    """Where `more` bytes may be written, or NULL. `cbor_written` says afterwards how far it went."""
    if into.no_memory or (into.capacity - into.used < more and not cbor_grow(into, more)):
        return NULL
    return into.data + into.used


cdef inline void cbor_written(cbor_buffer *into, const byte *end) noexcept nogil:
    into.used = end - into.data


cdef inline void cbor_head(cbor_buffer *into, byte major, uint64_t value) noexcept nogil:
    cdef byte *at = cbor_reserve(into, CBOR_HEAD)
    if at != NULL:
        cbor_written(into, put_head(at, major, value))


cdef inline void cbor_uint(cbor_buffer *into, uint64_t value) noexcept nogil:
    cbor_head(into, CBOR_UINT, value)


cdef inline void cbor_int(cbor_buffer *into, int64_t value) noexcept nogil:
    cdef byte *at = cbor_reserve(into, CBOR_HEAD)
    if at != NULL:
        cbor_written(into, put_int(at, value))


cdef inline void cbor_array(cbor_buffer *into, uint64_t members) noexcept nogil:
    cbor_head(into, CBOR_ARRAY, members)


cdef inline void cbor_raw(cbor_buffer *into, const void *data, size_t size) noexcept nogil:
    """Bytes that are CBOR already."""
    cdef byte *at = cbor_reserve(into, size)
    if at != NULL and size:
        cbor_written(into, put_raw(at, data, size))


cdef inline void cbor_bytes(cbor_buffer *into, const void *data, size_t size) noexcept nogil:
    cdef byte *at = cbor_reserve(into, CBOR_HEAD + size)
    if at != NULL:
        cbor_written(into, put_bytes(at, data, size))


cdef inline void cbor_text(cbor_buffer *into, const void *data, size_t size) noexcept nogil:
    """`data` is UTF-8 already."""
    cdef byte *at = cbor_reserve(into, CBOR_HEAD + size)
    if at != NULL:
        cbor_written(into, put_text(at, data, size))


cdef inline void cbor_bool(cbor_buffer *into, bint value) noexcept nogil:
    cdef byte *at = cbor_reserve(into, 1)
    if at != NULL:
        cbor_written(into, put_bool(at, value))


cdef inline void cbor_null(cbor_buffer *into) noexcept nogil:
    cdef byte *at = cbor_reserve(into, 1)
    if at != NULL:
        cbor_written(into, put_null(at))


cdef inline void cbor_absent(cbor_buffer *into, const void *reason, size_t size) noexcept nogil:
    cdef byte *at = cbor_reserve(into, 2 * CBOR_HEAD + size)
    if at != NULL:
        cbor_written(into, put_absent(at, reason, size))


cdef inline void cbor_free(cbor_buffer *buffer) noexcept nogil:
    """Empty and without memory, ready for use."""
    PyMem_RawFree(buffer.data)
    memset(buffer, 0, sizeof(cbor_buffer))


cdef inline bytes cbor_taken(cbor_buffer *buffer):
    """What is in a buffer, which is freed. MemoryError when something was dropped. Needs the GIL."""
    try:
        if buffer.no_memory:
            raise MemoryError
        return PyBytes_FromStringAndSize(<const char *>buffer.data, buffer.used)
    finally:
        cbor_free(buffer)
