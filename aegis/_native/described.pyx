"""Fragments made of records; and of `aegis.model.process` values, which come from /proc and cgroups."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset, strlen

from aegis._native cimport abi
from aegis._native.buffers cimport byte
from aegis._native.cbor cimport (
    cbor_absent,
    cbor_array,
    cbor_buffer,
    cbor_bytes,
    cbor_free,
    cbor_null,
    cbor_raw,
    cbor_reserve,
    cbor_taken,
    cbor_text,
    cbor_uint,
    cbor_written,
    put_absent,
    put_bytes,
    put_raw,
    put_uint,
)

cdef enum:
    FIELDS_BYTES = 512  # more than the fields of a process take without its texts, reasons included

# Why something is absent.
cdef const char *NO_EXE = b"the kernel names no file for it"
cdef const char *NO_ARGS = b"the argument block could not be read"
cdef const char *NO_CWD = b"the kernel names no directory for it, or one longer than a record holds"


cdef process *executed(const abi.aegis_exec *r, cbor_buffer *scratch) noexcept nogil:
    """The process of an exec record, without cgroup and ancestors."""
    cdef const char *path = <const char *>r + sizeof(abi.aegis_exec)
    cdef const char *args = path + r.path_bytes
    cdef const char *cwd = args + r.args_bytes
    cdef uint32_t marks[5]
    cdef uint64_t flags = 0
    cdef byte *at
    scratch.used = 0
    at = cbor_reserve(scratch, FIELDS_BYTES + r.path_bytes + r.args_bytes + r.cwd_bytes)
    if at == NULL:
        return NULL
    at = put_start(at, r.process.pid, r.process.start_ns)
    marks[0] = <uint32_t>(at - scratch.data)
    at = put_uint(put_uint(at, r.parent_pid), r.process.uid)
    marks[1] = <uint32_t>(at - scratch.data)
    at = put_uint(at, r.gid)
    marks[2] = <uint32_t>(at - scratch.data)
    at = put_bytes(at, r.comm, comm_size(r.comm))
    marks[3] = <uint32_t>(at - scratch.data)
    at = put_bytes(at, path, r.path_bytes) if r.path_bytes else put_absent(at, NO_EXE, strlen(NO_EXE))
    marks[4] = <uint32_t>(at - scratch.data)
    if r.flags & abi.AEGIS_EXE_DELETED:
        flags |= EXE_DELETED
    if r.flags & abi.AEGIS_PATH_TRUNCATED:
        flags |= EXE_TRUNCATED
    at = put_uint(at, flags)
    if r.args_bytes or not r.args_total:
        at = put_bytes(at, args, r.args_bytes)
    else:
        at = put_absent(at, NO_ARGS, strlen(NO_ARGS))
    at = put_uint(at, r.args_total)
    if r.flags & abi.AEGIS_CWD_TRUNCATED or not r.cwd_bytes:
        at = put_absent(at, NO_CWD, strlen(NO_CWD))
    else:
        at = put_bytes(at, cwd, r.cwd_bytes)
    cbor_written(scratch, at)
    return sealed(scratch, r.process.pid, r.process.start_ns, marks)


cdef process *invented(
    const abi.aegis_process *said, const byte *comm, size_t size, int64_t ppid, shared *unknown,
    cbor_buffer *scratch
) noexcept nogil:
    """A process of which one record says this much, without cgroup and ancestors. `comm` NULL and `ppid`
    NOT_TOLD where it does not say, and `unknown` is why.
    """
    cdef const byte *why = shared_data(unknown)
    cdef uint32_t marks[5]
    cdef byte *at
    scratch.used = 0
    at = cbor_reserve(scratch, FIELDS_BYTES + size + 6 * unknown.size)
    if at == NULL:
        return NULL
    at = put_start(at, said.pid, said.start_ns)
    marks[0] = <uint32_t>(at - scratch.data)
    at = put_raw(at, why, unknown.size) if ppid == NOT_TOLD else put_uint(at, <uint64_t>ppid)
    at = put_uint(at, said.uid)
    marks[1] = <uint32_t>(at - scratch.data)
    at = put_raw(at, why, unknown.size)
    marks[2] = <uint32_t>(at - scratch.data)
    at = put_raw(at, why, unknown.size) if comm == NULL else put_bytes(at, comm, size)
    marks[3] = <uint32_t>(at - scratch.data)
    at = put_raw(at, why, unknown.size)
    marks[4] = <uint32_t>(at - scratch.data)
    at = put_uint(at, 0)
    at = put_raw(at, why, unknown.size)
    at = put_uint(at, 0)
    at = put_raw(at, why, unknown.size)
    cbor_written(scratch, at)
    return sealed(scratch, said.pid, said.start_ns, marks)


cdef bytes absent(str reason):
    cdef cbor_buffer buffer
    cdef bytes text = reason.encode()
    memset(&buffer, 0, sizeof(buffer))
    cbor_absent(&buffer, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return cbor_taken(&buffer)


cdef int write_text(cbor_buffer *into, str text) except -1:
    """Text; bytes of the host that are not UTF-8 came in by surrogates, and are shown as `\\xNN`."""
    cdef bytes encoded
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = text.encode(errors="surrogateescape").decode(errors="backslashreplace").encode()
    cbor_text(into, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
    return 0


cdef int write_value(cbor_buffer *into, value) except -1:
    """Bytes, a number, or the reason why there is neither."""
    cdef bytes text
    if isinstance(value, bytes):
        text = value
        cbor_bytes(into, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    elif isinstance(value, int):
        cbor_uint(into, value)
    else:
        text = absent(value.reason.encode(errors="backslashreplace").decode())
        cbor_raw(into, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return 0


cdef shared *encoded_group(found) except NULL:
    """A model Cgroup, or an Absent, as a fragment; the reference is the caller's."""
    cdef cbor_buffer buffer
    cdef shared *one
    cdef bint known = hasattr(found, "path")
    cdef uint64_t identity = found.id if known else 0
    memset(&buffer, 0, sizeof(buffer))
    try:
        if known:
            cbor_array(&buffer, 3)
            cbor_uint(&buffer, identity)
            write_text(&buffer, found.path)
            if found.unit is None:
                cbor_null(&buffer)
            else:
                write_text(&buffer, found.unit)
        else:
            write_value(&buffer, found)
        one = NULL if buffer.no_memory else new_shared(buffer.data, <uint32_t>buffer.used)
        if one == NULL:
            raise MemoryError
    finally:
        cbor_free(&buffer)
    one.id = identity
    one.known = known
    return one


cdef shared *encoded_line(ancestors) except NULL:
    """Model Ancestors as a fragment; the reference is the caller's."""
    cdef cbor_buffer buffer
    cdef shared *one
    cdef tuple line = tuple(ancestors)[: abi.AEGIS_ANCESTORS]
    memset(&buffer, 0, sizeof(buffer))
    try:
        cbor_array(&buffer, len(line))
        for ancestor in line:
            cbor_array(&buffer, ANCESTOR_FIELDS)
            cbor_uint(&buffer, ancestor.pid)
            cbor_uint(&buffer, ancestor.start_ns)
            write_value(&buffer, ancestor.comm)
            write_value(&buffer, ancestor.exe)
        one = NULL if buffer.no_memory else new_shared(buffer.data, <uint32_t>buffer.used)
        if one == NULL:
            raise MemoryError
    finally:
        cbor_free(&buffer)
    count_members(one, <byte>len(line))
    return one


cdef shared *fragment(bytes encoded) except NULL:
    cdef shared *one = new_shared(
        <const byte *>PyBytes_AS_STRING(encoded), <uint32_t>PyBytes_GET_SIZE(encoded)
    )
    if one == NULL:
        raise MemoryError
    return one


cdef process *encoded_process(found) except NULL:
    """A model Process as fragments; the reference is the caller's."""
    cdef cbor_buffer buffer
    cdef uint32_t pid = found.pid
    cdef uint64_t start_ns = found.start_ns
    cdef uint32_t marks[5]
    cdef shared *group = NULL
    cdef shared *line = NULL
    cdef process *one
    memset(&buffer, 0, sizeof(buffer))
    try:
        cbor_array(&buffer, PROCESS_FIELDS)
        cbor_uint(&buffer, pid)
        cbor_uint(&buffer, start_ns)
        marks[0] = <uint32_t>buffer.used
        write_value(&buffer, found.ppid)
        cbor_uint(&buffer, found.uid)
        marks[1] = <uint32_t>buffer.used
        write_value(&buffer, found.gid)
        marks[2] = <uint32_t>buffer.used
        write_value(&buffer, found.comm)
        marks[3] = <uint32_t>buffer.used
        write_value(&buffer, found.exe)
        marks[4] = <uint32_t>buffer.used
        cbor_uint(
            &buffer,
            (EXE_DELETED if found.exe_deleted else 0) | (EXE_TRUNCATED if found.exe_truncated else 0),
        )
        write_value(&buffer, found.args)
        cbor_uint(&buffer, found.args_total)
        write_value(&buffer, found.cwd)
        line = encoded_line(found.ancestors)
        group = encoded_group(found.cgroup)
        one = sealed(&buffer, pid, start_ns, marks)
        if one == NULL:
            raise MemoryError
        one.line, one.group = line, group
        line = group = NULL
    finally:
        cbor_free(&buffer)
        drop(line)
        drop(group)
    return one
