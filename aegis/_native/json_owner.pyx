"""Who an event or a flow belongs to, from the fragment of a record into JSON keys."""

from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, strlen

from aegis._native.buffers cimport byte
from aegis._native.cbor cimport cbor_buffer
from aegis._native.cbor_reader cimport (
    ITEM_ABSENT,
    ITEM_ARRAY,
    ITEM_BYTES,
    ITEM_INT,
    ITEM_NULL,
    ITEM_TEXT,
    ITEM_UINT,
    item,
    read_of,
    reader_fail,
    reader_skip,
)
from aegis._native.json_shared cimport (
    ANCESTORS,
    EVENT_OWNER,
    FLOW_OWNER,
    MOST_SHARED,
    shared_known,
    shared_learn,
)
from aegis._native.json_values cimport ABSENT_OR_TEXT, SHORT, string, too_long, value, work, written
from aegis._native.json_writer cimport json_int, json_raw, json_string

cdef enum:
    EXE_DELETED = 1
    EXE_TRUNCATED = 2
    LABELS = 4

cdef enum:  # members of a process
    PID
    START
    PPID
    UID
    GID
    COMM
    EXE
    FLAGS
    ARGS
    ARGS_TOTAL
    CWD
    CGROUP
    PROCESS_MEMBERS = 13

cdef struct process:
    item members[CGROUP]
    item path
    item unit
    size_t ancestors_at
    uint64_t ancestors  # so many follow
    uint64_t behind  # and behind them members of a later version

cdef const char *labels[LABELS]
cdef const char *label_reasons[LABELS]
cdef const char *label_keys[LABELS]  # the members of an event that has no process
labels[0], labels[1], labels[2], labels[3] = b"unknown", b"kernel", b"request", b"forwarded"
label_reasons[0] = b"the socket carries no owner"
label_reasons[1] = b"a socket of the kernel's own"
label_reasons[2] = b"a connection being opened; its next packet names the process"
label_reasons[3] = b"forwarded: no socket on this host"

cdef const char *NO_UNIT = b"no part of the cgroup's path is a systemd unit"

_KEYS = ("pid", "start_ns", "ppid", "uid", "comm", "exe", "args", "args_truncated", "cwd", "cgroup", "unit")
_kept = []  # the bytes `label_keys` points to


cdef void learn():
    cdef bytes made
    cdef int at
    for at in range(LABELS):
        reason = label_reasons[at].decode()
        keys = "".join([f',"{key}":null,"{key}_reason":"{reason}"' for key in _KEYS])
        made = f'{keys},"ancestors":[],"owner":"{labels[at].decode()}"'.encode()
        _kept.append(made)
        label_keys[at] = made


learn()


cdef bint read_process(work *w, process *p, const item *opening) noexcept nogil:
    """Everything before the ancestors, which follow."""
    cdef item found
    cdef uint64_t extra
    if opening.number < PROCESS_MEMBERS:
        return reader_fail(&w.r, "a process without all its members", opening.at)
    p.behind = opening.number - PROCESS_MEMBERS
    if not (
        read_of(&w.r, &p.members[PID], ITEM_INT)
        and read_of(&w.r, &p.members[START], ITEM_INT)
        and read_of(&w.r, &p.members[PPID], ITEM_INT | ITEM_ABSENT)
        and read_of(&w.r, &p.members[UID], ITEM_INT)
        and read_of(&w.r, &p.members[GID], ITEM_INT | ITEM_ABSENT)
        and read_of(&w.r, &p.members[COMM], ITEM_BYTES | ITEM_ABSENT)
        and read_of(&w.r, &p.members[EXE], ITEM_BYTES | ITEM_ABSENT)
        and read_of(&w.r, &p.members[FLAGS], ITEM_UINT)
        and read_of(&w.r, &p.members[ARGS], ITEM_BYTES | ITEM_ABSENT)
        and read_of(&w.r, &p.members[ARGS_TOTAL], ITEM_UINT)
        and read_of(&w.r, &p.members[CWD], ITEM_BYTES | ITEM_ABSENT)
        and read_of(&w.r, &p.path, ITEM_ARRAY | ITEM_ABSENT)
    ):
        return False
    if p.path.kind == ITEM_ARRAY:
        if p.path.number < 3:
            return reader_fail(&w.r, "a cgroup without all its members", p.path.at)
        extra = p.path.number - 3
        if not (
            read_of(&w.r, &found, ITEM_UINT)
            and read_of(&w.r, &p.path, ITEM_TEXT)
            and read_of(&w.r, &p.unit, ITEM_TEXT | ITEM_NULL)
            and reader_skip(&w.r, extra)
        ):
            return False
        if p.unit.kind == ITEM_NULL or p.unit.size == 0:
            p.unit.kind = ITEM_ABSENT
            p.unit.data = <const byte *>NO_UNIT
            p.unit.size = strlen(NO_UNIT)
    else:
        p.unit = p.path
    if not read_of(&w.r, &found, ITEM_ARRAY):
        return False
    p.ancestors_at = found.at
    p.ancestors = found.number
    return True


cdef bint ancestors(work *w, uint64_t left) noexcept nogil:
    """The list, whose head is read."""
    cdef item pid, start, comm, exe, opening
    if w.extent and left:
        too_long(w, b',"ancestors":', b',"ancestors_reason":')
        return reader_skip(&w.r, left)
    json_raw(&w.out, b',"ancestors":[')
    while left:
        left -= 1
        if not (
            read_of(&w.r, &opening, ITEM_ARRAY)
            and (opening.number >= 4 or reader_fail(&w.r, "an ancestor without all its members", opening.at))
            and read_of(&w.r, &pid, ITEM_INT)
            and read_of(&w.r, &start, ITEM_INT)
            and read_of(&w.r, &comm, ITEM_BYTES | ITEM_ABSENT)
            and read_of(&w.r, &exe, ITEM_BYTES | ITEM_ABSENT)
            and reader_skip(&w.r, opening.number - 4)
            and value(w, b'{"pid":', b"", &pid)
            and value(w, b',"start_ns":', b"", &start)
            and value(w, b',"comm":', b',"comm_reason":', &comm)
            and value(w, b',"exe":', b',"exe_reason":', &exe)
        ):
            return False
        json_raw(&w.out, b"}," if left else b"}")
    return written(w, b"]")


cdef bint arguments(work *w, const process *p) noexcept nogil:
    """Four keys: the block is cut at each NUL, the last of which ends the last argument."""
    cdef const item *block = &p.members[ARGS]
    cdef const byte *at = block.data
    cdef const byte *end = at + block.size
    cdef const byte *nul
    if block.kind == ITEM_ABSENT:
        json_raw(&w.out, b',"args":null,"args_reason":')
        if not string(w, block):
            return False
        json_raw(&w.out, b',"args_truncated":null,"args_truncated_reason":')
        return string(w, block)
    if w.extent and block.size > SHORT:
        too_long(w, b',"args":', b',"args_reason":')
        json_raw(&w.out, b',"args_truncated":true,"args_bytes":')
        json_int(&w.out, False, p.members[ARGS_TOTAL].number)
        return True
    json_raw(&w.out, b',"args":[')
    if block.size:
        if end[-1] == 0:
            end -= 1
        while True:
            nul = <const byte *>memchr(at, 0, end - at)
            json_string(&w.out, at, (end if nul == NULL else nul) - at, False)
            if nul == NULL:
                break
            json_raw(&w.out, b",")
            at = nul + 1
    json_raw(
        &w.out,
        b'],"args_truncated":true,"args_bytes":' if block.size < p.members[ARGS_TOTAL].number
        else b'],"args_truncated":false,"args_bytes":',
    )
    json_int(&w.out, False, p.members[ARGS_TOTAL].number)
    return True


cdef int label_of(work *w, const item *found) noexcept nogil:
    """Which label a text is; -1: none."""
    cdef int at
    for at in range(LABELS):
        if found.size == strlen(labels[at]) and memcmp(found.data, labels[at], found.size) == 0:
            return at
    reader_fail(&w.r, "an owner nobody is", found.at)
    return -1


cdef bint event_members(work *w, const process *p) noexcept nogil:
    """What an event tells of its process, but the ancestors."""
    cdef uint64_t flags = p.members[FLAGS].number
    if not (
        value(w, b',"pid":', b"", &p.members[PID])
        and value(w, b',"start_ns":', b"", &p.members[START])
        and value(w, b',"ppid":', b',"ppid_reason":', &p.members[PPID])
        and value(w, b',"uid":', b"", &p.members[UID])
        and value(w, b',"comm":', b',"comm_reason":', &p.members[COMM])
        and value(w, b',"exe":', b',"exe_reason":', &p.members[EXE])
    ):
        return False
    if flags & EXE_DELETED:
        json_raw(&w.out, b',"exe_deleted":true')
    if flags & EXE_TRUNCATED:
        json_raw(&w.out, b',"exe_truncated":true')
    return (
        arguments(w, p)
        and value(w, b',"cwd":', b',"cwd_reason":', &p.members[CWD])
        and value(w, b',"cgroup":', b',"cgroup_reason":', &p.path)
        and value(w, b',"unit":', b',"unit_reason":', &p.unit)
    )


cdef bint event_owner(work *w) noexcept nogil:
    cdef item opening
    cdef process p
    cdef int label
    if w.share != NULL and not w.share.off and w.share.count + 2 <= MOST_SHARED:
        return shared_owner(w, EVENT_OWNER)
    if not read_of(&w.r, &opening, ITEM_ARRAY | ITEM_TEXT):
        return False
    if opening.kind == ITEM_TEXT:
        label = label_of(w, &opening)
        if label >= 0:
            json_raw(&w.out, label_keys[label])
        return label >= 0
    return (
        read_process(w, &p, &opening)
        and event_members(w, &p)
        and ancestors(w, p.ancestors)
        and written(w, b',"owner":"process"')
        and reader_skip(&w.r, p.behind)
    )


cdef bint nobody(work *w, const char *label, const item *reason) noexcept nogil:
    json_raw(&w.out, b',"owner":"')
    json_raw(&w.out, label)
    json_raw(&w.out, b'"')
    return (
        value(w, b',"pid":', b',"pid_reason":', reason)
        and value(w, b',"start_ns":', b',"start_ns_reason":', reason)
        and value(w, b',"comm":', b',"comm_reason":', reason)
        and value(w, b',"exe":', b',"exe_reason":', reason)
        and value(w, b',"unit":', b',"unit_reason":', reason)
        and value(w, b',"cgroup":', b',"cgroup_reason":', reason)
        and value(w, b',"uid":', b',"uid_reason":', reason)
    )


cdef bint nobody_of(work *w, int label) noexcept nogil:
    cdef item reason
    reason.kind = ITEM_ABSENT
    reason.data = <const byte *>label_reasons[label]
    reason.size = strlen(label_reasons[label])
    return nobody(w, labels[label], &reason)


cdef bint flow_members(work *w, const process *p) noexcept nogil:
    return (
        value(w, b',"owner":"process","pid":', b"", &p.members[PID])
        and value(w, b',"start_ns":', b"", &p.members[START])
        and value(w, b',"comm":', b',"comm_reason":', &p.members[COMM])
        and value(w, b',"exe":', b',"exe_reason":', &p.members[EXE])
        and value(w, b',"unit":', b',"unit_reason":', &p.unit)
        and value(w, b',"cgroup":', b',"cgroup_reason":', &p.path)
        and value(w, b',"uid":', b"", &p.members[UID])
    )


cdef bint flow_owner(work *w) noexcept nogil:
    cdef item opening
    cdef process p
    cdef int label
    if w.share != NULL and not w.share.off and w.share.count + 2 <= MOST_SHARED:
        return shared_owner(w, FLOW_OWNER)
    if not read_of(&w.r, &opening, ITEM_ARRAY | ABSENT_OR_TEXT):
        return False
    if opening.kind == ITEM_ABSENT:
        return nobody(w, labels[0], &opening)
    if opening.kind == ITEM_TEXT:
        label = label_of(w, &opening)
        return label >= 0 and nobody_of(w, label)
    return (
        read_process(w, &p, &opening)
        and reader_skip(&w.r, p.ancestors + p.behind)
        and flow_members(w, &p)
    )


# Written once for all items of an array

cdef inline void turn(work *w) noexcept nogil:
    """From the items to the objects they name, or back."""
    cdef cbor_buffer other = w.share.out
    w.share.out = w.out
    w.out = other


cdef inline size_t begin(work *w) noexcept nogil:
    """An object, whose first key brings a comma; where that will stand."""
    turn(w)
    json_raw(&w.out, b"," if w.share.count else b"[")
    return w.out.used


cdef inline int ended(work *w, size_t began, int named) noexcept nogil:
    """The number of the object; `named` is the one it stands on, or -1."""
    cdef int number = w.share.count
    if named >= 0:
        json_raw(&w.out, b',"shared":')
        json_int(&w.out, False, named)
    json_raw(&w.out, b"}")
    if not w.out.no_memory:
        w.out.data[began] = c"{"
    w.share.fragments[number].size = 0
    w.share.fragments[number].expanded = w.out.used - began
    if named >= 0:
        w.share.fragments[number].expanded += w.share.fragments[named].expanded
    w.share.count += 1
    turn(w)
    return number


cdef bint shared_ancestors(work *w, const process *p, int *number) noexcept nogil:
    """Pass the list; `number` is its object, or -1 of an empty list."""
    cdef size_t began, behind_head = w.r.at
    number[0] = -1
    if p.ancestors == 0:
        return True
    w.r.at = p.ancestors_at
    number[0] = shared_known(w.share, &w.r, ANCESTORS)
    if number[0] >= 0:
        return True
    w.r.at = behind_head
    began = begin(w)
    if not ancestors(w, p.ancestors):
        return False
    number[0] = ended(w, began, -1)
    shared_learn(w.share, number[0], &w.r, p.ancestors_at, ANCESTORS)
    return True


cdef bint shared_label(work *w, const item *found, int kind) noexcept nogil:
    cdef int label = label_of(w, found)
    cdef size_t began
    if label < 0:
        return False
    if not w.share.labels[kind][label]:
        began = begin(w)
        if kind == EVENT_OWNER:
            json_raw(&w.out, label_keys[label])
        else:
            nobody_of(w, label)
        w.share.labels[kind][label] = ended(w, began, -1) + 1
    w.share.named = w.share.labels[kind][label] - 1
    return True


cdef bint shared_owner(work *w, int kind) noexcept nogil:
    """Pass the owner, of whose keys the object that `share.named` says has all."""
    cdef item opening
    cdef process p
    cdef size_t began, owner_at = w.r.at
    cdef int named = -1
    w.share.named = shared_known(w.share, &w.r, kind)
    if w.share.named >= 0:
        return True
    if not read_of(&w.r, &opening, ITEM_ARRAY | (ITEM_TEXT if kind == EVENT_OWNER else ABSENT_OR_TEXT)):
        return False
    if opening.kind == ITEM_TEXT:
        return shared_label(w, &opening, kind)
    if opening.kind == ITEM_ABSENT:
        began = begin(w)
        if not nobody(w, labels[0], &opening):
            return False
    elif not read_process(w, &p, &opening):
        return False
    elif kind == FLOW_OWNER:
        began = begin(w)
        if not (reader_skip(&w.r, p.ancestors + p.behind) and flow_members(w, &p)):
            return False
    else:
        if not shared_ancestors(w, &p, &named):
            return False
        began = begin(w)
        if not (event_members(w, &p) and reader_skip(&w.r, p.behind)):
            return False
        json_raw(
            &w.out, b',"owner":"process"' if p.ancestors else b',"ancestors":[],"owner":"process"'
        )
    w.share.named = ended(w, began, named)
    shared_learn(w.share, w.share.named, &w.r, owner_at, kind)
    return True
