"""Records of a block as the JSON people read, without a Python object for an item.

What an object holds is what `model.event.encode`, `model.flow.encode` and the verb `samples` print; tests
hold it to them. Nothing that is read is trusted: it may come from a disk.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from aegis._native.buffers cimport byte
from aegis._native.cbor cimport cbor_buffer, cbor_free
from aegis._native.cbor_reader cimport (
    ITEM_ARRAY,
    ITEM_UINT,
    item,
    read_of,
    read_signed,
    reader_fail,
    reader_skip,
)
from aegis._native.json_event cimport exit_keys, flow_keys, loss_keys, socket_keys, verdict_keys
from aegis._native.json_owner cimport event_owner
from aegis._native.json_sample cimport finding_keys, sample_keys
from aegis._native.json_shared cimport shared_anew, shared_undo, sharing
from aegis._native.json_values cimport BARE, WHOLE, head, too_long, value, work
from aegis._native.json_writer cimport json_int, json_raw


cdef extern from *:
    bint __builtin_add_overflow(int64_t one, int64_t other, int64_t *sum) noexcept nogil


cdef enum:  # types of records, as in model.records
    EXEC = 1
    EXIT
    CONNECT
    ACCEPT
    LISTEN
    VERDICT
    LOSS
    FLOW
    SAMPLE
    FINDING
    TYPES

cdef const char *openings[TYPES]
openings[0] = b'{"schema":"aegis.record","version":1,"time":'
openings[EXEC] = b'{"schema":"aegis.event","version":1,"time":'
openings[FLOW] = b'{"schema":"aegis.flow","version":1,"time":'
openings[SAMPLE] = b'{"schema":"aegis.sample","version":1,"time":'
openings[FINDING] = b'{"schema":"aegis.finding","version":1,"time":'
cdef const char *names[TYPES]
names[EXEC], names[EXIT], names[CONNECT], names[ACCEPT] = b"exec", b"exit", b"connect", b"accept"
names[LISTEN], names[VERDICT], names[LOSS] = b"listen", b"verdict", b"loss"
cdef int field_counts[TYPES]  # behind the type and the instant
field_counts[:] = [0, 1, 4, 8, 8, 8, 15, 4, 22, 6, 1]


class RecordsMalformed(ValueError):
    """These are no records. `offset` is the byte where that was seen."""

    def __init__(self, text, offset):
        super().__init__(f"{text} (byte {offset})")
        self.offset = offset


# Records

cdef bint keys_of(work *w, uint64_t kind) noexcept nogil:
    if kind == EXEC:
        return event_owner(w)
    if kind == EXIT:
        return exit_keys(w)
    if kind == VERDICT:
        return verdict_keys(w)
    if kind == LOSS:
        return loss_keys(w)
    if kind == FLOW:
        return flow_keys(w)
    if kind == SAMPLE:
        return sample_keys(w)
    if kind == FINDING:
        if w.share != NULL:
            w.share.off = True  # it has keys of any name
        return finding_keys(w)
    return socket_keys(w, kind == CONNECT, kind == LISTEN)


cdef bint object_of(work *w) noexcept nogil:
    """One record into one object. One of a type this build does not know is an object too, with its number:
    the place of an object says its sequence number.
    """
    cdef item opening, kind
    cdef int64_t dt_ns, time_ns
    cdef size_t began = w.r.at
    cdef uint64_t fields
    if not (
        read_of(&w.r, &opening, ITEM_ARRAY)
        and read_of(&w.r, &kind, ITEM_UINT)
        and read_signed(&w.r, &dt_ns)
    ):
        return False
    if __builtin_add_overflow(w.base_ns, dt_ns, &time_ns):
        return reader_fail(&w.r, "an instant beyond 64 bits", began)
    if kind.number == 0 or kind.number >= TYPES:
        head(w, openings[0], time_ns)
        value(w, b',"type":', b"", &kind)
        fields = 0
    else:
        fields = field_counts[kind.number]
        if opening.number < fields + 2:
            return reader_fail(&w.r, "a record without all its fields", began)
        if kind.number >= FLOW:
            head(w, openings[kind.number], time_ns)
        else:
            head(w, openings[EXEC], time_ns)
            json_raw(&w.out, b',"type":"')
            json_raw(&w.out, names[kind.number])
            json_raw(&w.out, b'"')
        if w.extent == BARE:
            too_long(w, b',"fields":', b',"fields_reason":')
            fields = 0
        elif not keys_of(w, kind.number):
            return False
    if w.share != NULL and w.share.named >= 0:
        json_raw(&w.out, b',"shared":')
        json_int(&w.out, False, w.share.named)
    json_raw(&w.out, b"}")
    if opening.number < fields + 2:
        return reader_fail(&w.r, "a record without all its fields", began)
    return reader_skip(&w.r, opening.number - fields - 2)  # what a later version has added


cdef bint shortened(work *w, size_t out_at, size_t in_at, size_t most_bytes) noexcept nogil:
    """The record at `in_at` again, with as much of it as fits, at `out_at`; at least what it is stays.

    It names no object: what it shares with others had made it longer.
    """
    cdef bint fine = True
    cdef sharing *share = w.share
    w.share = NULL
    w.extent = WHOLE
    if share != NULL:
        w.out.used = out_at
        w.r.at = in_at
        fine = object_of(w)
    while fine and w.out.used - out_at > most_bytes and w.extent < BARE:
        w.extent += 1
        w.out.used = out_at
        w.r.at = in_at
        fine = object_of(w)
    w.extent = WHOLE
    w.share = share
    return fine


cdef int raise_fault(work *w) except -1:
    if w.out.no_memory or w.r.fault == NULL:
        raise MemoryError
    raise RecordsMalformed(w.r.fault.decode(), w.r.fault_at)


cdef bytes closed(const cbor_buffer *what, size_t size):
    """The first bytes of what is written, and the end of the array; of nothing, nothing."""
    cdef bytes made
    cdef char *at
    if size == 0:
        return b""
    made = PyBytes_FromStringAndSize(NULL, size + 1)
    at = made
    memcpy(at, what.data, size)
    at[size] = c"]"
    return made


cdef bint next_object(work *w, size_t most_bytes) noexcept nogil:
    """The next record behind what is written, a comma or bracket before it; shorter where it is too long."""
    cdef sharing *s = w.share
    cdef size_t began = w.r.at, before = w.out.used, shared = 0, length
    cdef int count = 0
    if s != NULL:
        count = s.count
        shared = s.out.used
        s.named = -1
    json_raw(&w.out, b"," if before else b"[")
    if not object_of(w) or w.out.no_memory or (s != NULL and s.out.no_memory):
        return False
    length = w.out.used - before + 1
    if s != NULL and s.count > count:
        length += s.out.used - shared + 1
    if length > most_bytes:
        if s != NULL:
            shared_undo(s, count, shared)
        if not shortened(w, before + 1, began, max(most_bytes, <size_t>2) - 2) or w.out.no_memory:
            return False
    if s != NULL:
        s.expanded += w.out.used - before - 1
        if s.named >= 0:
            s.expanded += s.fragments[s.named].expanded
    return True


cdef list arrays(records, work *w, Py_ssize_t most_items, size_t most_bytes, size_t most_expanded):
    """(Index of the first, how many, the array) of each; with what its items share where that is wanted."""
    cdef Py_buffer view
    cdef sharing *s = w.share
    cdef list found = []
    cdef Py_ssize_t first = 0, count = 0
    cdef size_t before, began, size, shared = 0
    PyObject_GetBuffer(records, &view, PyBUF_SIMPLE)
    try:
        w.r.data = <const byte *>view.buf
        w.r.size = view.len
        while w.r.at < w.r.size:
            began = w.r.at
            before = w.out.used
            if s != NULL:
                shared = s.out.used
            if not next_object(w, most_bytes):
                raise_fault(w)
            size = w.out.used + 1
            if s != NULL and s.count:
                size += s.out.used + 1
            if count and (
                count == most_items
                or size > most_bytes
                or (s != NULL and (s.expanded > most_expanded or (s.off and s.count)))
            ):
                found.append(told(w, first, count, before, shared))
                w.r.at = began  # again: what it shared is of the array that is closed
                w.out.used = 0
                if s != NULL:
                    shared_anew(s)
                first += count
                count = 0
                continue
            count += 1
        if count:
            found.append(told(w, first, count, w.out.used, 0 if s == NULL else s.out.used))
        return found
    finally:
        PyBuffer_Release(&view)
        cbor_free(&w.out)
        if s != NULL:
            cbor_free(&s.out)


cdef tuple told(work *w, Py_ssize_t first, Py_ssize_t count, size_t size, size_t shared):
    if w.share == NULL:
        return first, count, closed(&w.out, size)
    return first, count, closed(&w.out, size), closed(&w.share.out, shared)


def to_json(records, int64_t base_ns, *, Py_ssize_t most_items=512, Py_ssize_t most_bytes=49152):
    """Records, one behind the other, as JSON arrays: (index of the first, how many, the array) of each.

    An array has at most `most_items` objects and `most_bytes` bytes, from some hundred on. An object that
    is longer alone has null in the place of its long members, with the reason. Raises RecordsMalformed,
    and OverflowError for a base beyond 64 bits.
    """
    cdef work w
    if most_items < 1 or most_bytes < 1:
        raise ValueError("an array holds one item at least")
    memset(&w, 0, sizeof(work))
    w.base_ns = base_ns
    return arrays(records, &w, most_items, most_bytes, 0)


def to_shared_json(
    records,
    int64_t base_ns,
    *,
    Py_ssize_t most_items=512,
    Py_ssize_t most_bytes=49152,
    Py_ssize_t most_expanded=1048576,
):
    """As `to_json`, and a fourth: the array of the objects that items name by their last member, `shared`.

    Such an item, or object, has the members of the object at that place too; an object names one before it.
    Empty bytes where nobody names any. Both arrays together have at most `most_bytes`, and more than one item
    at most `most_expanded`, each counted with all that it names.
    """
    cdef work w
    cdef sharing share
    if most_items < 1 or most_bytes < 1 or most_expanded < 1:
        raise ValueError("an array holds one item at least")
    memset(&w, 0, sizeof(work))
    memset(&share.out, 0, sizeof(cbor_buffer))
    shared_anew(&share)
    w.base_ns = base_ns
    w.share = &share
    return arrays(records, &w, most_items, most_bytes, most_expanded)


def records_of(data):
    """Where each record begins, then where the last one ends. Only that they are CBOR is looked at."""
    cdef Py_buffer view
    cdef work w
    cdef list found = [0]
    memset(&w, 0, sizeof(work))
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        w.r.data = <const byte *>view.buf
        w.r.size = view.len
        while w.r.at < w.r.size:
            if not reader_skip(&w.r, 1):
                raise_fault(&w)
            found.append(w.r.at)
        return found
    finally:
        PyBuffer_Release(&view)


def end_of(data, Py_ssize_t offset, uint64_t count):
    """Where `count` CBOR items from `offset` on end. Raises RecordsMalformed."""
    cdef Py_buffer view
    cdef work w
    memset(&w, 0, sizeof(work))
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if not 0 <= offset <= view.len:
            raise ValueError(f"{offset} is not within {view.len} bytes")
        w.r.data = <const byte *>view.buf
        w.r.size = view.len
        w.r.at = offset
        if count > <uint64_t>(view.len - offset):
            reader_fail(&w.r, "cut short", offset)
            raise_fault(&w)
        if not reader_skip(&w.r, count):
            raise_fault(&w)
        return w.r.at
    finally:
        PyBuffer_Release(&view)
