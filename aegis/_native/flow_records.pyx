"""Flows as records of a block: those of a flow table that are due, without a Python object for any.

What a record says is what `modules.observability.flows.flow_of` makes of the row; a test holds it to that.
Names are asked for once for each distinct owner, rule and interface until `forget`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset, strlen

from aegis._native cimport abi
from aegis._native.buffers cimport byte
from aegis._native.cbor cimport (
    CBOR_ARRAY,
    CBOR_TEXT,
    cbor_absent,
    cbor_array,
    cbor_buffer,
    cbor_free,
    cbor_raw,
    cbor_reserve,
    cbor_taken,
    cbor_text,
    cbor_written,
    put_absent,
    put_bool,
    put_bytes,
    put_head,
    put_int,
    put_raw,
    put_uint,
)
from aegis._native.cbor_reader cimport (
    ITEM_ARRAY,
    ITEM_TEXT,
    item,
    read_of,
    reader,
    reader_skip,
)
from aegis._native.flow_queues cimport GONE, NONE, entry, queue_due, queue_news, queue_told
from aegis._native.flowtable cimport FlowTable

cdef enum:
    FLOW = 8  # as in model.records
    MEMBERS = 24
    TCP = 6
    PROCESS_MEMBERS = 13
    ARGS = 8  # places among the members of a process
    CWD = 10
    ANCESTORS = 12
    FIXED = 512  # room for all that is not a name

cdef const char *NO_FLAGS = b"only TCP has flags"
cdef const char *NO_RULE = b"no rule decided"
cdef const char *RULE_FORGOTTEN = b"the rule is of a policy set that is not kept any more"
cdef const char *FORGOTTEN = b"its process has ended and is not kept any more"
cdef const char *WITH_EXEC = b"its exec event tells it"
cdef const char *DIRECTIONS[2]
DIRECTIONS[0], DIRECTIONS[1] = b"egress", b"ingress"
cdef const char *VERDICTS[3]
VERDICTS[0], VERDICTS[1], VERDICTS[2] = b"allow", b"audit", b"deny"
cdef const char *STATES[8]  # by the bits of enum aegis_flow_state
STATES[0], STATES[1], STATES[2], STATES[3] = b"new", b"established", b"closing", b"closing"
STATES[4] = STATES[5] = STATES[6] = STATES[7] = b"closed"


cdef bytes absent(const char *reason):
    cdef cbor_buffer made
    memset(&made, 0, sizeof(made))
    cbor_absent(&made, reason, strlen(reason))
    return cbor_taken(&made)


cdef bytes text(words):
    """Text as CBOR; what a name may hold that is no UTF-8 is shown."""
    cdef bytes encoded = words.encode("utf-8", "backslashreplace")
    cdef cbor_buffer made
    memset(&made, 0, sizeof(made))
    cbor_text(&made, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
    return cbor_taken(&made)


cdef bytes NO_RULE_NAMES = absent(NO_RULE) * 2
cdef bytes RULE_FORGOTTEN_NAMES = absent(RULE_FORGOTTEN) * 2
cdef bytes OWNER_FORGOTTEN = absent(FORGOTTEN)


def shortened(bytes fragment not None):
    """An owner as a flow carries it: without arguments, directory and ancestors, which its exec event tells.

    ValueError when this is no owner.
    """
    cdef reader r
    cdef item opening
    cdef size_t began
    cdef cbor_buffer made
    cdef int place
    cdef const byte *data = <const byte *>PyBytes_AS_STRING(fragment)
    memset(&r, 0, sizeof(r))
    memset(&opening, 0, sizeof(opening))
    r.data = data
    r.size = PyBytes_GET_SIZE(fragment)
    memset(&made, 0, sizeof(made))
    try:
        if read_of(&r, &opening, ITEM_TEXT | ITEM_ARRAY) and opening.kind == ITEM_TEXT:
            return fragment
        if r.fault == NULL and opening.number >= PROCESS_MEMBERS:
            cbor_array(&made, PROCESS_MEMBERS)
            for place in range(PROCESS_MEMBERS):
                began = r.at
                if not reader_skip(&r, 1):
                    break
                if place == ARGS or place == CWD:
                    cbor_absent(&made, WITH_EXEC, strlen(WITH_EXEC))
                elif place == ANCESTORS:
                    cbor_array(&made, 0)
                else:
                    cbor_raw(&made, data + began, r.at - began)
        if r.fault != NULL or opening.number < PROCESS_MEMBERS:
            raise ValueError("no owner")
        return cbor_taken(&made)
    finally:
        cbor_free(&made)


cdef class FlowEncoder:
    """Tells of flows. `owner_of(id)` gives an owner's CBOR or None, `rule_of(generation, number)` something
    with `policy` and `rule` or None, `interface_of(index)` a name or None; each is asked once until `forget`.
    """

    cdef object owner_of
    cdef object rule_of
    cdef object interface_of
    cdef dict owners
    cdef dict rules
    cdef dict interfaces

    def __init__(self, owner_of, rule_of, interface_of):
        self.owner_of = owner_of
        self.rule_of = rule_of
        self.interface_of = interface_of
        self.forget()

    def forget(self):
        """Ask anew from here on."""
        self.owners = {}
        self.rules = {}
        self.interfaces = {}

    cdef bytes owner(self, uint64_t identity):
        found = self.owners.get(identity)
        if found is None:
            found = self.owner_of(identity)
            found = OWNER_FORGOTTEN if found is None else shortened(found)
            self.owners[identity] = found
        return found

    cdef bytes rule(self, uint64_t generation, uint64_t number):
        """Policy and rule."""
        cdef object key
        if not number:
            return NO_RULE_NAMES
        key = generation << 16 | number
        found = self.rules.get(key)
        if found is None:
            name = self.rule_of(generation, number)
            found = RULE_FORGOTTEN_NAMES if name is None else text(name.policy) + text(name.rule)
            self.rules[key] = found
        return found

    cdef bytes interface(self, uint64_t index):
        cdef bytes reason
        found = self.interfaces.get(index)
        if found is None:
            name = self.interface_of(index)
            if name:
                found = text(name)
            else:
                reason = b"no interface has the index %d any more" % index
                found = absent(reason)
            self.interfaces[index] = found
        return found

    def encode(
        self,
        FlowTable table not None,
        *,
        uint64_t now_ns,
        int64_t wall_offset_ns,
        int64_t base_ns,
        uint64_t interval_ns,
        Py_ssize_t most_items=512,
        size_t most_bytes=49152,
    ):
        """The next flows that are due: how many, and their records; (0, b"") when none is.

        `now_ns` is CLOCK_BOOTTIME of the harvest, `wall_offset_ns` the wall clock minus that. Flows told of
        within `interval_ns` wait unless they are over. What a look-up raises goes through; its flow stays.
        """
        cdef cbor_buffer out
        cdef int32_t index
        cdef Py_ssize_t count = 0
        cdef size_t before
        cdef int64_t dt_ns = <int64_t>now_ns + wall_offset_ns - base_ns
        memset(&out, 0, sizeof(out))
        try:
            while count < most_items:
                index = queue_due(&table.queues, table.entries, now_ns, interval_ns)
                if index == NONE:
                    break
                before = out.used
                try:
                    self.write(&out, &table.entries[index], dt_ns, wall_offset_ns)
                except BaseException:
                    queue_news(&table.queues, table.entries, index)
                    raise
                if count and out.used > most_bytes:
                    out.used = before
                    queue_news(&table.queues, table.entries, index)
                    break
                queue_told(&table.queues, table.entries, index, now_ns)
                count += 1
            return count, PyBytes_FromStringAndSize(<const char *>out.data, out.used)
        finally:
            cbor_free(&out)

    cdef int write(
        self, cbor_buffer *out, const entry *one, int64_t dt_ns, int64_t wall_offset_ns
    ) except -1:
        cdef const abi.aegis_flow_key *k = &one.row.key
        cdef const abi.aegis_flow_value *v = &one.row.value
        cdef bytes interface = self.interface(k.ifindex)
        cdef bytes rule = self.rule(v.generation, v.judged & abi.AEGIS_JUDGED_RULE_MASK)
        cdef bytes owner = self.owner(v.owner)
        cdef uint64_t last_ns = max(v.first_ns, <uint64_t>v.epoch * <uint64_t>1000000000)
        cdef bint outgoing = v.judged >> abi.AEGIS_JUDGED_INITIATOR_SHIFT & 1 == abi.AEGIS_EGRESS
        cdef byte *at = cbor_reserve(
            out, FIXED + PyBytes_GET_SIZE(interface) + PyBytes_GET_SIZE(rule) + PyBytes_GET_SIZE(owner)
        )
        if at == NULL:
            raise MemoryError
        at = put_int(put_uint(put_head(at, CBOR_ARRAY, MEMBERS), FLOW), dt_ns)
        at = put_uint(at, k.protocol)
        if outgoing:
            at = put_uint(put_bytes(at, k.local, 16), k.local_port)
            at = put_uint(put_bytes(at, k.remote, 16), k.remote_port)
        else:
            at = put_uint(put_bytes(at, k.remote, 16), k.remote_port)
            at = put_uint(put_bytes(at, k.local, 16), k.local_port)
        at = put_word(at, DIRECTIONS[0 if outgoing else 1])
        at = put_raw(at, PyBytes_AS_STRING(interface), PyBytes_GET_SIZE(interface))
        at = put_uint(put_uint(at, v.packets[abi.AEGIS_EGRESS]), v.bytes[abi.AEGIS_EGRESS])
        at = put_uint(put_uint(at, v.packets[abi.AEGIS_INGRESS]), v.bytes[abi.AEGIS_INGRESS])
        at = put_uint(at, v.dropped_packets)
        if k.protocol == TCP:
            at = put_uint(at, v.tcp_flags[abi.AEGIS_EGRESS] | v.tcp_flags[abi.AEGIS_INGRESS])
        else:
            at = put_absent(at, NO_FLAGS, strlen(NO_FLAGS))
        at = put_int(put_int(at, <int64_t>v.first_ns + wall_offset_ns), <int64_t>last_ns + wall_offset_ns)
        at = put_word(at, STATES[7 if one.chain == GONE else v.state & 7])
        at = put_bool(at, k.fragment)
        at = put_word(at, VERDICTS[min(v.judged >> abi.AEGIS_JUDGED_VERDICT_SHIFT & 3, 2)])
        at = put_raw(at, PyBytes_AS_STRING(rule), PyBytes_GET_SIZE(rule))
        at = put_uint(at, v.generation)
        cbor_written(out, put_raw(at, PyBytes_AS_STRING(owner), PyBytes_GET_SIZE(owner)))
        return 0


cdef inline byte *put_word(byte *at, const char *word) noexcept nogil:
    cdef size_t size = strlen(word)
    return put_raw(put_head(at, CBOR_TEXT, size), word, size)
