"""Keys of samples and findings, from the fields of their records."""

from cpython.mem cimport PyMem_Free
from libc.math cimport isfinite
from libc.stdint cimport uint64_t

from aegis._native.cbor_reader cimport (
    ITEM_ABSENT,
    ITEM_ARRAY,
    ITEM_FLOAT,
    ITEM_INT,
    ITEM_MAP,
    ITEM_NULL,
    ITEM_TEXT,
    item,
    read_item,
    read_of,
    reader_fail,
)
from aegis._native.json_values cimport read_value, string, value, work, written
from aegis._native.json_writer cimport json_raw


cdef extern from "Python.h":
    enum:
        Py_DTSF_ADD_DOT_0
    char *PyOS_double_to_string(double value, char code, int precision, int flags, int *kind) except NULL


cdef enum:
    DEEPEST = 32  # of what a finding may nest


cdef bint real(work *w, double number) noexcept with gil:
    """As Python prints it; JSON has no word for what is not finite."""
    cdef char *text
    if not isfinite(number):
        json_raw(&w.out, b"null")
        return True
    try:
        text = PyOS_double_to_string(number, c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
    except MemoryError:
        w.out.no_memory = True
        return True
    json_raw(&w.out, text)
    PyMem_Free(text)
    return True


cdef bint sample_keys(work *w) noexcept nogil:
    cdef item labels, key, text, found
    cdef uint64_t left
    if not (read_value(w, b',"name":', b"", ITEM_TEXT) and read_of(&w.r, &labels, ITEM_ARRAY)):
        return False
    json_raw(&w.out, b',"labels":{')
    left = labels.number
    while left:
        left -= 1
        if not (
            read_of(&w.r, &found, ITEM_ARRAY)
            and (found.number == 2 or reader_fail(&w.r, "a label that is no pair", found.at))
            and read_of(&w.r, &key, ITEM_TEXT)
            and read_of(&w.r, &text, ITEM_TEXT)
            and string(w, &key)
            and written(w, b":")
            and string(w, &text)
        ):
            return False
        if left:
            json_raw(&w.out, b",")
    json_raw(&w.out, b"}")
    if not read_of(&w.r, &found, ITEM_INT | ITEM_FLOAT | ITEM_ABSENT):
        return False
    if found.kind == ITEM_FLOAT:
        json_raw(&w.out, b',"value":')
        real(w, found.real)
    elif not value(w, b',"value":', b',"value_reason":', &found):
        return False
    return (
        read_value(w, b',"unit":', b"", ITEM_TEXT)
        and read_value(w, b',"kind":', b"", ITEM_TEXT)
        and read_value(w, b',"source":', b"", ITEM_TEXT)
    )


# Findings: any value of JSON

cdef bint anything(work *w, const item *found, int depth) noexcept nogil:
    cdef uint64_t left = found.number
    if found.kind == ITEM_ARRAY or found.kind == ITEM_MAP:
        if depth == DEEPEST:
            return reader_fail(&w.r, "a finding that is nested too deep", found.at)
        json_raw(&w.out, b"[" if found.kind == ITEM_ARRAY else b"{")
        if not members(w, left, found.kind == ITEM_MAP, depth + 1):
            return False
        json_raw(&w.out, b"]" if found.kind == ITEM_ARRAY else b"}")
        return True
    if found.kind == ITEM_FLOAT:
        return real(w, found.real)
    if found.kind == ITEM_NULL:
        return written(w, b"null")
    if found.kind == ITEM_ABSENT:
        return reader_fail(&w.r, "a finding has no place for a reason here", found.at)
    return value(w, b"", b"", found)


cdef bint members(work *w, uint64_t left, bint named, int depth) noexcept nogil:
    cdef item found
    while left:
        left -= 1
        if named:
            if not (read_of(&w.r, &found, ITEM_TEXT) and string(w, &found)):
                return False
            json_raw(&w.out, b":")
        if not (read_item(&w.r, &found) and anything(w, &found, depth)):
            return False
        if left:
            json_raw(&w.out, b",")
    return True


cdef bint finding_keys(work *w) noexcept nogil:
    cdef item found
    if not read_of(&w.r, &found, ITEM_MAP):
        return False
    if found.number:
        json_raw(&w.out, b",")
    return members(w, found.number, True, 1)
