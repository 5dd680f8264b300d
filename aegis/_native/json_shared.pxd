"""Members that many objects of an array have in common, written once: objects of their own that others name.

What an item of a record looks like tells which object it became: CBOR items end by themselves, so where the
same bytes stand again, the same item does. Nothing here needs the GIL.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from aegis._native.buffers cimport byte
from aegis._native.cbor cimport cbor_buffer
from aegis._native.cbor_reader cimport reader


cdef enum:
    MOST_SHARED = 1024  # objects of an array
    BUCKET_BITS = 10
    BUCKETS = 1 << BUCKET_BITS
    PREFIX = 16  # bytes that choose the bucket: they hold the pid and the start of a process
    LOOKS = 4  # items of a bucket that are compared: a process that execs again and again has the same prefix
    SHARED_LABELS = 4
    # What an item became; the same bytes become different objects in different places.
    EVENT_OWNER = 0
    FLOW_OWNER = 1
    ANCESTORS = 2


cdef struct fragment:
    # The item of an object; of one that is not looked up (a label) `size` is 0.
    const byte *data
    size_t size
    size_t expanded  # bytes of the object and those it names
    unsigned short next  # the one before it in the bucket, plus one
    unsigned short bucket
    int kind


cdef struct sharing:
    # Zero all but `fragments` before use; `out` is freed by who made it.
    cbor_buffer out
    int count
    int named  # the object that stands for the owner of the present record; -1: none does
    size_t expanded  # bytes of all items of the array, as they are without sharing; never less
    bint off  # a member of this array could be taken for the name of an object: it has none
    unsigned short labels[2][SHARED_LABELS]  # the object of each, plus one
    unsigned short buckets[BUCKETS]
    fragment fragments[MOST_SHARED]


cdef inline void shared_anew(sharing *s) noexcept nogil:
    """For an array that begins."""
    s.out.used = 0
    s.count = 0
    s.named = -1
    s.expanded = 0
    s.off = False
    memset(s.labels, 0, sizeof(s.labels))
    memset(s.buckets, 0, sizeof(s.buckets))


cdef inline unsigned int shared_bucket(const byte *at, int kind) noexcept nogil:
    cdef uint64_t one, other
    memcpy(&one, at, 8)
    memcpy(&other, at + 8, 8)
    return <unsigned int>(
        ((one + kind) * <uint64_t>0x9E3779B97F4A7C15 ^ other) * <uint64_t>0xD6E8FEB86659FD93
        >> (64 - BUCKET_BITS)
    )


cdef inline int shared_known(sharing *s, reader *r, int kind) noexcept nogil:
    """The object of the item that stands here, which is passed; -1: there is none."""
    cdef const byte *at = r.data + r.at
    cdef size_t left = r.size - r.at
    cdef unsigned int each
    cdef int looks = LOOKS
    cdef fragment *one
    if r.fault != NULL or left < PREFIX:
        return -1
    each = s.buckets[shared_bucket(at, kind)]
    while each and looks:
        one = &s.fragments[each - 1]
        if one.kind == kind and one.size <= left and memcmp(one.data, at, one.size) == 0:
            r.at += one.size
            return each - 1
        each = one.next
        looks -= 1
    return -1


cdef inline void shared_learn(sharing *s, int number, const reader *r, size_t began, int kind) noexcept nogil:
    """That the item from `began` to here became this object."""
    cdef fragment *one = &s.fragments[number]
    if r.size - began < PREFIX:
        return
    one.data = r.data + began
    one.size = r.at - began
    one.kind = kind
    one.bucket = shared_bucket(one.data, kind)
    one.next = s.buckets[one.bucket]
    s.buckets[one.bucket] = number + 1


cdef inline void shared_undo(sharing *s, int count, size_t used) noexcept nogil:
    """Back to so many objects, which had so many bytes."""
    cdef int kind, label
    while s.count > count:
        s.count -= 1
        if s.fragments[s.count].size:
            s.buckets[s.fragments[s.count].bucket] = s.fragments[s.count].next
    for kind in range(2):
        for label in range(SHARED_LABELS):
            if s.labels[kind][label] > count:
                s.labels[kind][label] = 0
    s.out.used = used
    s.named = -1
