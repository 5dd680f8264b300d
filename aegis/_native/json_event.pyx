"""Keys of events and flows, from the fields of their records."""

from libc.string cimport memcpy

from aegis._native.buffers cimport byte
from aegis._native.cbor cimport cbor_reserve, cbor_written
from aegis._native.cbor_reader cimport (
    ITEM_ABSENT,
    ITEM_BOOL,
    ITEM_BYTES,
    ITEM_INT,
    ITEM_NEGATIVE,
    ITEM_TEXT,
    ITEM_UINT,
    item,
    read_of,
    reader_fail,
)
from aegis._native.json_owner cimport event_owner, flow_owner
from aegis._native.json_values cimport ABSENT_OR_TEXT, read_value, value, work, written
from aegis._native.json_writer cimport json_address, json_int, json_raw

import errno

cdef enum:
    ERRORS = 256

cdef char errors[ERRORS][24]
cdef const char *NO_PEER = (
    b',"dst":null,"dst_reason":"a listening socket has no peer"'
    b',"dst_port":null,"dst_port_reason":"a listening socket has no peer"'
)
cdef const char *NO_NAME = b',"name":null,"name_reason":"no sensor of names is built yet"'


cdef void learn_errors():
    cdef bytes name
    for number, word in errno.errorcode.items():
        name = word.encode()
        if 0 < number < ERRORS and len(name) < <Py_ssize_t>sizeof(errors[0]):
            memcpy(errors[<int>number], <const char *>name, len(name))
    memcpy(errors[0], b"established", 11)


learn_errors()


cdef bint protocol(work *w, const char *key) noexcept nogil:
    cdef item found
    cdef const char *name = NULL
    if not read_of(&w.r, &found, ITEM_UINT):
        return False
    json_raw(&w.out, key)
    if found.number == 6:
        name = b'"tcp"'
    elif found.number == 17:
        name = b'"udp"'
    elif found.number == 1:
        name = b'"icmp"'
    elif found.number == 58:
        name = b'"icmpv6"'
    elif found.number == 2:
        name = b'"igmp"'
    elif found.number == 4:
        name = b'"ipip"'
    elif found.number == 41:
        name = b'"ipv6"'
    elif found.number == 47:
        name = b'"gre"'
    elif found.number == 50:
        name = b'"esp"'
    elif found.number == 51:
        name = b'"ah"'
    elif found.number == 89:
        name = b'"ospf"'
    elif found.number == 132:
        name = b'"sctp"'
    elif found.number == 136:
        name = b'"udplite"'
    if name != NULL:
        json_raw(&w.out, name)
        return True
    json_raw(&w.out, b'"')
    json_int(&w.out, False, found.number)
    json_raw(&w.out, b'"')
    return True


cdef bint end(work *w, const char *key, const char *port_key, bint shown) noexcept nogil:
    """An address and its port."""
    cdef item address, port
    if not (read_of(&w.r, &address, ITEM_BYTES) and read_of(&w.r, &port, ITEM_INT)):
        return False
    if address.size != 16:
        return reader_fail(&w.r, "an address that has not 16 bytes", address.at)
    if shown:
        json_raw(&w.out, key)
        json_address(&w.out, address.data)
        value(w, port_key, b"", &port)
    return True


cdef bint exit_keys(work *w) noexcept nogil:
    cdef item code, signal
    if not (event_owner(w) and read_of(&w.r, &code, ITEM_INT) and read_of(&w.r, &signal, ITEM_INT)):
        return False
    if signal.number or signal.kind == ITEM_NEGATIVE:
        json_raw(&w.out, b',"code":null,"code_reason":"killed by a signal"')
        value(w, b',"signal":', b"", &signal)
    else:
        value(w, b',"code":', b"", &code)
        json_raw(&w.out, b',"signal":null,"signal_reason":"ended by itself"')
    return read_value(w, b',"duration_ns":', b"", ITEM_INT)


cdef bint socket_keys(work *w, bint connects, bint listens) noexcept nogil:
    cdef item cookie, error
    if not (
        event_owner(w)
        and protocol(w, b',"protocol":')
        and end(w, b',"src":', b',"src_port":', True)
        and end(w, b',"dst":', b',"dst_port":', not listens)
        and read_of(&w.r, &cookie, ITEM_INT)
        and read_of(&w.r, &error, ITEM_UINT)
    ):
        return False
    if listens:
        json_raw(&w.out, NO_PEER)
    if connects:
        json_raw(&w.out, b',"result":"')
        if error.number < ERRORS and errors[error.number][0]:
            json_raw(&w.out, errors[error.number])
        else:
            json_int(&w.out, False, error.number)
        json_raw(&w.out, b'"')
    json_raw(&w.out, NO_NAME)
    return True


cdef bint verdict_keys(work *w) noexcept nogil:
    cdef item cookie
    return (
        event_owner(w)
        and read_value(w, b',"verdict":', b"", ITEM_TEXT)
        and read_value(w, b',"policy":', b',"policy_reason":', ABSENT_OR_TEXT)
        and read_value(w, b',"rule":', b',"rule_reason":', ABSENT_OR_TEXT)
        and read_value(w, b',"generation":', b"", ITEM_INT)
        and read_value(w, b',"suppressed":', b"", ITEM_INT)
        and protocol(w, b',"protocol":')
        and end(w, b',"src":', b',"src_port":', True)
        and end(w, b',"dst":', b',"dst_port":', True)
        and read_value(w, b',"direction":', b"", ITEM_TEXT)
        and read_value(w, b',"interface":', b',"interface_reason":', ABSENT_OR_TEXT)
        and read_value(w, b',"fragment":', b"", ITEM_BOOL)
        and read_of(&w.r, &cookie, ITEM_INT)
    )


cdef bint loss_keys(work *w) noexcept nogil:
    return (
        read_value(w, b',"stage":', b"", ITEM_TEXT)
        and read_value(w, b',"kind":', b"", ITEM_TEXT)
        and read_value(w, b',"reason":', b"", ITEM_TEXT)
        and read_value(w, b',"count":', b"", ITEM_INT)
    )


cdef bint flags(work *w) noexcept nogil:
    """A letter each, from the lowest bit: FIN SYN RST PSH ACK URG ECE CWR."""
    cdef item found
    cdef byte *at
    cdef int bit
    if not read_of(&w.r, &found, ITEM_UINT | ITEM_ABSENT):
        return False
    if found.kind == ITEM_ABSENT:
        return value(w, b',"tcp_flags":', b',"tcp_flags_reason":', &found)
    json_raw(&w.out, b',"tcp_flags":"')
    at = cbor_reserve(&w.out, 9)
    if at != NULL:
        for bit in range(8):
            if found.number >> bit & 1:
                at[0] = b"FSRPAUEC"[bit]
                at += 1
        at[0] = c'"'
        cbor_written(&w.out, at + 1)
    return True


cdef bint flow_keys(work *w) noexcept nogil:
    return (
        protocol(w, b',"protocol":')
        and end(w, b',"src":', b',"src_port":', True)
        and end(w, b',"dst":', b',"dst_port":', True)
        and read_value(w, b',"direction":', b"", ITEM_TEXT)
        and read_value(w, b',"interface":', b',"interface_reason":', ABSENT_OR_TEXT)
        and read_value(w, b',"packets_sent":', b"", ITEM_INT)
        and read_value(w, b',"bytes_sent":', b"", ITEM_INT)
        and read_value(w, b',"packets_received":', b"", ITEM_INT)
        and read_value(w, b',"bytes_received":', b"", ITEM_INT)
        and read_value(w, b',"packets_dropped":', b"", ITEM_INT)
        and flags(w)
        and read_value(w, b',"first_ns":', b"", ITEM_INT)
        and read_value(w, b',"last_ns":', b"", ITEM_INT)
        and read_value(w, b',"state":', b"", ITEM_TEXT)
        and read_value(w, b',"fragment":', b"", ITEM_BOOL)
        and read_value(w, b',"verdict":', b"", ITEM_TEXT)
        and read_value(w, b',"policy":', b',"policy_reason":', ABSENT_OR_TEXT)
        and read_value(w, b',"rule":', b',"rule_reason":', ABSENT_OR_TEXT)
        and read_value(w, b',"generation":', b"", ITEM_INT)
        and flow_owner(w)
        and written(w, NO_NAME)
    )
