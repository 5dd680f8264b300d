"""JSON written in place, into a `cbor_buffer`: strings, numbers, instants, addresses. No GIL is needed.

The `json_*` functions append; the `place_*` functions write at an address with room and return the one
behind.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, strlen

from aegis._native.buffers cimport byte
from aegis._native.cbor cimport cbor_buffer, cbor_raw, cbor_reserve, cbor_written


cdef extern from *:
    """
    static const char aegis_digits[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354"
        "55565758596061626364656667686970717273747576777879808182838485868788899091929394959697989900";
    static const char aegis_hex[] = "0123456789abcdef";
    /* What stands behind the backslash; 'u' for a control character without a letter of its own. */
    static inline char aegis_escape(unsigned char one) {
        switch (one) {
        case '"': case '\\\\': return one;
        case '\\b': return 'b';
        case '\\f': return 'f';
        case '\\n': return 'n';
        case '\\r': return 'r';
        case '\\t': return 't';
        default: return one < 0x20 ? 'u' : 0;
        }
    }
    /* Whether none of eight bytes is a control, a quote, a backslash or beyond ASCII. */
    static inline int aegis_plain(unsigned long long word) {
        const unsigned long long ones = 0x0101010101010101ULL, tops = 0x8080808080808080ULL;
        unsigned long long quote = word ^ (ones * '"'), slash = word ^ (ones * '\\\\');
        return !((word | (word - ones * 0x20) | (quote - ones) | (slash - ones)) & tops);
    }
    """
    const char aegis_digits[]
    const char aegis_hex[]
    char aegis_escape(byte one) noexcept nogil
    bint aegis_plain(unsigned long long word) noexcept nogil


cdef enum:
    NUMBER_ROOM = 20  # the most digits of a number, or a sign and nineteen
    INSTANT_ROOM = 40
    ADDRESS_ROOM = 40


cdef struct instant_text:
    # The second told last, as text: instants of one block mostly share it.
    int64_t second
    bint known
    byte text[19]


cdef inline void json_raw(cbor_buffer *into, const char *text) noexcept nogil:
    """Text that is JSON already; the compiler knows its length."""
    cbor_raw(into, text, strlen(text))


# Strings

cdef inline size_t utf8_length(const byte *at, size_t left) noexcept nogil:
    """Bytes of the character there, which is beyond ASCII; 0: none. As in Python: shortest, no surrogate."""
    cdef byte lead = at[0]
    if lead < 0xC2 or lead > 0xF4 or left < 2 or at[1] & 0xC0 != 0x80:
        return 0
    if lead < 0xE0:
        return 2
    if left < 3 or at[2] & 0xC0 != 0x80:
        return 0
    if lead < 0xF0:
        return 0 if (lead == 0xE0 and at[1] < 0xA0) or (lead == 0xED and at[1] > 0x9F) else 3
    if left < 4 or at[3] & 0xC0 != 0x80:
        return 0
    return 0 if (lead == 0xF0 and at[1] < 0x90) or (lead == 0xF4 and at[1] > 0x8F) else 4


cdef inline bint json_string(cbor_buffer *into, const byte *text, size_t size, bint strict) noexcept nogil:
    """A quoted string. A byte that is not UTF-8 is shown as a backslash and xNN; with `strict`: False."""
    cdef byte *at = cbor_reserve(into, 6 * size + 2)  # six for each, at the most
    cdef size_t done = 0, length
    cdef unsigned long long word
    cdef char letter
    if at == NULL:
        return True  # the caller looks at no_memory
    at[0] = c'"'
    at += 1
    while done < size:
        while size - done >= 8:
            memcpy(&word, text + done, 8)
            if not aegis_plain(word):
                break
            memcpy(at, &word, 8)
            at += 8
            done += 8
        if done == size:
            break
        if text[done] >= 0x80:
            length = utf8_length(text + done, size - done)
            if length:
                memcpy(at, text + done, length)
                at += length
                done += length
                continue
            if strict:
                return False
            memcpy(at, b"\\\\x", 3)
            at[3] = aegis_hex[text[done] >> 4]
            at[4] = aegis_hex[text[done] & 15]
            at += 5
            done += 1
            continue
        letter = aegis_escape(text[done])
        if not letter:
            at[0] = text[done]
            at += 1
        elif letter != c'u':
            at[0] = c'\\'
            at[1] = letter
            at += 2
        else:
            memcpy(at, b"\\u00", 4)
            at[4] = aegis_hex[text[done] >> 4]
            at[5] = aegis_hex[text[done] & 15]
            at += 6
        done += 1
    at[0] = c'"'
    cbor_written(into, at + 1)
    return True


# Numbers

cdef inline byte *place_uint(byte *at, uint64_t value) noexcept nogil:
    """At most NUMBER_ROOM bytes."""
    cdef byte digits[20]
    cdef int first = 20
    while value >= 100:
        first -= 2
        memcpy(digits + first, aegis_digits + 2 * (value % 100), 2)
        value //= 100
    if value >= 10:
        first -= 2
        memcpy(digits + first, aegis_digits + 2 * value, 2)
    else:
        first -= 1
        digits[first] = c'0' + <byte>value
    memcpy(at, digits + first, 20 - first)
    return at + 20 - first


cdef inline byte *place_int(byte *at, bint negative, uint64_t value) noexcept nogil:
    """`value`, or -1 - `value`, which fits 64 bits with its sign."""
    if negative:
        at[0] = c'-'
        return place_uint(at + 1, value + 1)
    return place_uint(at, value)


cdef inline byte *place_padded(byte *at, uint64_t value, int pairs) noexcept nogil:
    """So many pairs of digits."""
    cdef int each
    for each in range(pairs - 1, -1, -1):
        memcpy(at + 2 * each, aegis_digits + 2 * (value % 100), 2)
        value //= 100
    return at + 2 * pairs


cdef inline void json_int(cbor_buffer *into, bint negative, uint64_t value) noexcept nogil:
    cdef byte *at = cbor_reserve(into, NUMBER_ROOM)
    if at != NULL:
        cbor_written(into, place_int(at, negative, value))


# Instants

cdef inline void second_text(byte *at, int64_t second) noexcept nogil:
    """`2026-11-23T08:02:58` of a second since 1970, years 0 to 9999; the date as H. Hinnant computes it."""
    cdef int64_t day = second // 86400  # down, as in Python, before 1970 too
    cdef int64_t left = second - day * 86400
    cdef int64_t shifted = day + 719468
    cdef int64_t era = shifted // 146097
    cdef int64_t of_era = shifted - era * 146097
    cdef int64_t year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    cdef int64_t of_year = of_era - (365 * year + year // 4 - year // 100)
    cdef int64_t month = (5 * of_year + 2) // 153
    cdef int64_t of_month = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year += era * 400 + (1 if month <= 2 else 0)
    place_padded(at, year, 2)
    at[4] = at[7] = c'-'
    place_padded(at + 5, month, 1)
    place_padded(at + 8, of_month, 1)
    at[10] = c'T'
    at[13] = at[16] = c':'
    place_padded(at + 11, left // 3600, 1)
    place_padded(at + 14, left // 60 % 60, 1)
    place_padded(at + 17, left % 60, 1)


cdef inline byte *place_instant(byte *at, int64_t time_ns, instant_text *last) noexcept nogil:
    """RFC 3339 in UTC to the nanosecond, in quotes: at most INSTANT_ROOM bytes."""
    cdef int64_t second = time_ns // 1000000000
    cdef int64_t fraction = time_ns % 1000000000
    if not last.known or last.second != second:
        second_text(last.text, second)
        last.second = second
        last.known = True
    at[0] = c'"'
    memcpy(at + 1, last.text, 19)
    at[20] = c'.'
    at[21] = c'0' + <byte>(fraction // 100000000)
    place_padded(at + 22, fraction % 100000000, 4)
    at[30] = c'Z'
    at[31] = c'"'
    return at + 32


# Addresses

cdef inline byte *place_group(byte *at, unsigned int group) noexcept nogil:
    """Sixteen bits in hexadecimal without leading zeros."""
    cdef int shift
    for shift in range(12, -4, -4):
        if group >> shift or shift == 0:
            at[0] = aegis_hex[(group >> shift) & 15]
            at += 1
    return at


cdef inline byte *place_address(byte *at, const byte *address) noexcept nogil:
    """Sixteen bytes in RFC 5952's text, IPv4 mapped as IPv4; at most ADDRESS_ROOM bytes."""
    cdef unsigned int groups[8]
    cdef int each, run = 0, best = 1, best_at = -1  # one zero alone is not shortened
    if not (
        address[0] | address[1] | address[2] | address[3] | address[4] | address[5] | address[6] | address[7]
        | address[8] | address[9]
    ) and address[10] == 0xFF and address[11] == 0xFF:
        for each in range(12, 16):
            at = place_uint(at, address[each])
            at[0] = c'.'
            at += 1
        return at - 1
    for each in range(8):
        groups[each] = address[2 * each] << 8 | address[2 * each + 1]
        run = 0 if groups[each] else run + 1
        if run > best:
            best = run
            best_at = each - run + 1
    each = 0
    while each < 8:
        if each == best_at:
            at[0] = at[1] = c':'
            at += 2
            each += best
            continue
        if each and each != best_at + best:
            at[0] = c':'
            at += 1
        at = place_group(at, groups[each])
        each += 1
    return at


cdef inline void json_address(cbor_buffer *into, const byte *address) noexcept nogil:
    cdef byte *at = cbor_reserve(into, ADDRESS_ROOM + 2)
    if at != NULL:
        at[0] = c'"'
        at = place_address(at + 1, address)
        at[0] = c'"'
        cbor_written(into, at + 1)
