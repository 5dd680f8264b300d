"""Members of a JSON object, each from one item of a record. Nothing here needs the GIL."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from aegis._native.buffers cimport byte
from aegis._native.cbor cimport cbor_buffer, cbor_reserve, cbor_written
from aegis._native.cbor_reader cimport (
    ITEM_ABSENT,
    ITEM_BOOL,
    ITEM_BYTES,
    ITEM_INT,
    ITEM_NEGATIVE,
    ITEM_TEXT,
    item,
    read_of,
    reader,
    reader_fail,
)
from aegis._native.json_shared cimport sharing
from aegis._native.json_writer cimport (
    INSTANT_ROOM,
    NUMBER_ROOM,
    instant_text,
    json_int,
    json_raw,
    json_string,
    place_instant,
    place_int,
)


cdef enum:
    ABSENT_OR_TEXT = ITEM_TEXT | ITEM_ABSENT
    # How much of an object is written: one that is longer than an array may be is written again with less.
    WHOLE = 0
    BRIEF = 1  # long strings and ancestors are null, with the reason
    BARE = 2  # what it is and when
    SHORT = 512  # bytes of a string that BRIEF keeps


# A False of these functions: `r.fault` says what is wrong. Whether memory ran out is `out.no_memory`, asked
# once at the end of an object.
cdef struct work:
    reader r
    cbor_buffer out
    int64_t base_ns
    instant_text last
    int extent
    sharing *share  # NULL: every object stands for itself


cdef inline bint string(work *w, const item *text) noexcept nogil:
    """Text has to be UTF-8; bytes of the kernel are shown whatever they are."""
    if not json_string(&w.out, text.data, text.size, text.kind != ITEM_BYTES):
        return reader_fail(&w.r, "text that is not UTF-8", text.at)
    return True


cdef inline void too_long(work *w, const char *key, const char *reason_key) noexcept nogil:
    json_raw(&w.out, key)
    json_raw(&w.out, b"null")
    json_raw(&w.out, reason_key)
    json_raw(&w.out, b'"longer than a batch may be"')


cdef inline bint value(work *w, const char *key, const char *reason_key, const item *found) noexcept nogil:
    """A member with its key; of what is absent, null and the reason."""
    if w.extent and found.kind & (ITEM_TEXT | ITEM_BYTES) and found.size > SHORT and reason_key[0]:
        too_long(w, key, reason_key)
        return True
    json_raw(&w.out, key)
    if found.kind == ITEM_ABSENT:
        json_raw(&w.out, b"null")
        json_raw(&w.out, reason_key)
        return string(w, found)
    if found.kind & ITEM_INT:
        json_int(&w.out, found.kind == ITEM_NEGATIVE, found.number)
        return True
    if found.kind == ITEM_BOOL:
        json_raw(&w.out, b"true" if found.number else b"false")
        return True
    return string(w, found)


cdef inline bint read_value(
    work *w, const char *key, const char *reason_key, unsigned int kinds
) noexcept nogil:
    cdef item found
    return read_of(&w.r, &found, kinds) and value(w, key, reason_key, &found)


cdef inline bint head(work *w, const char *opening, int64_t time_ns) noexcept nogil:
    """The opening, which ends behind the key `time`, and both instants."""
    cdef byte *at
    json_raw(&w.out, opening)
    at = cbor_reserve(&w.out, INSTANT_ROOM + NUMBER_ROOM + 16)
    if at == NULL:
        return False
    at = place_instant(at, time_ns, &w.last)
    memcpy(at, b',"time_ns":', 11)
    at = place_int(at + 11, time_ns < 0, <uint64_t>(-1 - time_ns if time_ns < 0 else time_ns))
    cbor_written(&w.out, at)
    return True


cdef inline bint written(work *w, const char *text) noexcept nogil:
    """JSON as it is; True, to stand in a chain."""
    json_raw(&w.out, text)
    return True
