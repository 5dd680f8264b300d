"""CBOR read in place: one item at a time, definite lengths, nothing trusted. Nothing here needs the GIL.

A `reader` stands on `data[at]`. The first thing that is wrong sets `fault` (words) and `fault_at`, and stays:
each function then returns False at once. What a text holds is not judged here.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from libc.string cimport memcpy

from aegis._native.buffers cimport byte
from aegis._native.cbor cimport (
    CBOR_ABSENT,
    CBOR_ARRAY,
    CBOR_BYTES,
    CBOR_MAP,
    CBOR_NEGATIVE,
    CBOR_TAG,
    CBOR_TEXT,
    CBOR_UINT,
    aegis_swap16,
    aegis_swap32,
    aegis_swap64,
)


cdef enum:  # what an item is, a bit each
    ITEM_UINT = 1
    ITEM_NEGATIVE = 2  # `number` n stands for -1 - n
    ITEM_BYTES = 4
    ITEM_TEXT = 8
    ITEM_ARRAY = 16  # `number` members follow
    ITEM_MAP = 32  # `number` pairs follow
    ITEM_ABSENT = 64  # our tag: the bytes are the reason
    ITEM_BOOL = 128
    ITEM_NULL = 256
    ITEM_FLOAT = 512
    ITEM_INT = ITEM_UINT | ITEM_NEGATIVE


cdef struct item:
    unsigned int kind
    uint64_t number
    double real
    const byte *data
    size_t size
    size_t at  # where it began


cdef struct reader:
    const byte *data
    size_t size
    size_t at
    const char *fault
    size_t fault_at


cdef inline bint reader_fail(reader *r, const char *words, size_t at) noexcept nogil:
    if r.fault == NULL:
        r.fault = words
        r.fault_at = at
    return False


cdef inline bint read_head(reader *r, byte *major, byte *low, uint64_t *value) noexcept nogil:
    """The three parts of the next head; floats come as their bits."""
    cdef size_t left = r.size - r.at
    cdef const byte *at = r.data + r.at
    cdef unsigned short two
    cdef unsigned int four
    cdef unsigned long long eight
    if r.fault != NULL:
        return False
    if left == 0:
        return reader_fail(r, "cut short", r.at)
    major[0] = at[0] & 0xE0
    low[0] = at[0] & 0x1F
    if low[0] < 24:
        value[0] = low[0]
        r.at += 1
    elif low[0] > 27:
        return reader_fail(r, "a length that is not definite", r.at)
    elif left <= <size_t>1 << (low[0] - 24):
        return reader_fail(r, "cut short", r.at)
    elif low[0] == 24:
        value[0] = at[1]
        r.at += 2
    elif low[0] == 25:
        memcpy(&two, at + 1, 2)
        value[0] = aegis_swap16(two)
        r.at += 3
    elif low[0] == 26:
        memcpy(&four, at + 1, 4)
        value[0] = aegis_swap32(four)
        r.at += 5
    else:
        memcpy(&eight, at + 1, 8)
        value[0] = aegis_swap64(eight)
        r.at += 9
    return True


cdef inline bint reader_span(reader *r, item *found, size_t began) noexcept nogil:
    """The bytes of a string whose head is read."""
    if found.number > r.size - r.at:
        return reader_fail(r, "cut short", began)
    found.data = r.data + r.at
    found.size = found.number
    r.at += found.size
    return True


cdef inline double half_of(uint64_t bits) noexcept nogil:
    """A float of two bytes, RFC 8949 appendix D."""
    cdef int exponent = (bits >> 10) & 0x1F
    cdef double value = bits & 0x3FF
    cdef int step = exponent - 25 if exponent else -24
    if exponent:
        value += 1024
    if exponent == 31:
        value = (1e308 * 10) * (1 if value == 1024 else 0)  # infinite, or infinity times zero: not a number
    while step > 0:
        value *= 2
        step -= 1
    while step < 0:
        value /= 2
        step += 1
    return -value if bits & 0x8000 else value


cdef inline bint read_simple(reader *r, item *found, byte low) noexcept nogil:
    """What the head of major type 7 means."""
    cdef float single
    cdef unsigned int four
    if low == 20 or low == 21:
        found.kind = ITEM_BOOL
        found.number = low - 20
    elif low == 22:
        found.kind = ITEM_NULL
    elif low == 25:
        found.kind = ITEM_FLOAT
        found.real = half_of(found.number)
    elif low == 26:
        found.kind = ITEM_FLOAT
        four = <unsigned int>found.number
        memcpy(&single, &four, 4)
        found.real = single
    elif low == 27:
        found.kind = ITEM_FLOAT
        memcpy(&found.real, &found.number, 8)
    else:
        return reader_fail(r, "a simple value nobody writes", found.at)
    return True


cdef inline bint read_item(reader *r, item *found) noexcept nogil:
    """The next item; of an array or map only the head."""
    cdef byte major, low
    found.at = r.at
    if not read_head(r, &major, &low, &found.number):
        return False
    if major == CBOR_UINT:
        found.kind = ITEM_UINT
    elif major == CBOR_NEGATIVE:
        found.kind = ITEM_NEGATIVE
        if found.number > <uint64_t>INT64_MAX:
            return reader_fail(r, "a number of more than 64 bits", found.at)
    elif major == CBOR_BYTES or major == CBOR_TEXT:
        found.kind = ITEM_BYTES if major == CBOR_BYTES else ITEM_TEXT
        return reader_span(r, found, found.at)
    elif major == CBOR_ARRAY or major == CBOR_MAP:
        found.kind = ITEM_ARRAY if major == CBOR_ARRAY else ITEM_MAP
        if found.number > r.size - r.at:  # a member has a byte at least
            return reader_fail(r, "cut short", found.at)
    elif major == CBOR_TAG:
        if found.number != CBOR_ABSENT:
            return reader_fail(r, "a tag nobody writes", found.at)
        if not read_head(r, &major, &low, &found.number):
            return False
        if major != CBOR_TEXT:
            return reader_fail(r, "a reason that is no text", found.at)
        found.kind = ITEM_ABSENT
        return reader_span(r, found, found.at)
    else:
        return read_simple(r, found, low)
    return True


cdef inline bint read_of(reader *r, item *found, unsigned int kinds) noexcept nogil:
    """The next item, which is one of `kinds`."""
    if not read_item(r, found):
        return False
    if not found.kind & kinds:
        return reader_fail(r, "an item of another type than its place has", found.at)
    return True


cdef inline bint read_signed(reader *r, int64_t *value) noexcept nogil:
    cdef item found
    if not read_of(r, &found, ITEM_INT):
        return False
    if found.number > <uint64_t>INT64_MAX:
        return reader_fail(r, "a number of more than 63 bits", found.at)
    value[0] = <int64_t>found.number if found.kind == ITEM_UINT else -1 - <int64_t>found.number
    return True


cdef inline bint reader_skip(reader *r, uint64_t count) noexcept nogil:
    """Pass `count` items of any depth and any tag."""
    cdef byte major, low
    cdef uint64_t value
    while count:
        count -= 1
        if not read_head(r, &major, &low, &value):
            return False
        if major == CBOR_BYTES or major == CBOR_TEXT:
            if value > r.size - r.at:
                return reader_fail(r, "cut short", r.at)
            r.at += value
        elif major == CBOR_ARRAY or major == CBOR_MAP:
            if value > r.size - r.at:
                return reader_fail(r, "cut short", r.at)
            count += value * 2 if major == CBOR_MAP else value
        elif major == CBOR_TAG:
            count += 1
        if count > r.size - r.at:  # bounds the sum too: it can never wrap
            return reader_fail(r, "cut short", r.at)
    return True
