"""What the compiler of policies works on: growing arrays of rules, prefixes, lists, classes and intervals."""

from cpython.mem cimport PyMem_RawRealloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from aegis._native cimport abi

cdef extern from *:
    ctypedef unsigned long long u128 "unsigned __int128"


cdef struct span:  # service keys of a rule, both inside
    uint32_t first
    uint32_t last


cdef struct rule:  # by rank
    uint32_t span[2]  # number of its first span, for peers of IPv4 and of IPv6
    uint32_t spans[2]
    uint8_t deny
    uint8_t enforced
    uint8_t apart  # its spans differ by family


cdef struct net:  # one prefix of one rule
    u128 address
    uint32_t rank
    uint32_t part
    uint8_t family  # 0: IPv4, 1: IPv6
    uint8_t length


cdef struct ranks:  # rules that one prefix carries, best first; each list once for a family, or for both
    uint32_t first
    uint32_t count
    uint32_t cell
    uint32_t cells
    uint64_t best  # pair
    uint64_t hash
    uint8_t family


cdef struct owner:  # a class
    uint32_t list
    uint32_t parent
    uint64_t above  # pair
    uint64_t hash


cdef struct interval:
    u128 start
    uint32_t owner


cdef struct around:  # a prefix that holds the present one
    u128 last
    uint32_t owner


cdef struct part:
    uint32_t v4
    uint32_t v4_count
    uint32_t v6
    uint32_t v6_count
    uint64_t defaults[2]


cdef struct column:  # a growing array
    void *at
    size_t used
    size_t room


cdef inline int make_room(column *c, size_t more, size_t size) except -1:
    cdef size_t room = c.room
    cdef void *grown
    if c.used + more <= room:
        return 0
    while room < c.used + more:
        room = room * 2 if room else 64
    grown = PyMem_RawRealloc(c.at, room * size)
    if grown == NULL:
        raise MemoryError
    c.at, c.room = grown, room
    return 0


cdef inline int by_place(const void *left, const void *right) noexcept nogil:
    cdef const net *one = <const net *>left
    cdef const net *other = <const net *>right
    if one.part != other.part:
        return -1 if one.part < other.part else 1
    if one.family != other.family:
        return -1 if one.family < other.family else 1
    if one.address != other.address:
        return -1 if one.address < other.address else 1
    if one.length != other.length:
        return -1 if one.length < other.length else 1
    if one.rank != other.rank:
        return -1 if one.rank < other.rank else 1
    return 0


cdef inline int by_number(const void *left, const void *right) noexcept nogil:
    cdef uint32_t one = (<const uint32_t *>left)[0]
    cdef uint32_t other = (<const uint32_t *>right)[0]
    return (one > other) - (one < other)


cdef inline uint64_t mixed(uint64_t seed, uint64_t value) noexcept nogil:
    seed = (seed ^ value) * <uint64_t>0x9E3779B97F4A7C15
    return seed ^ (seed >> 29)


cdef inline uint64_t better(uint64_t one, uint64_t other) noexcept nogil:
    """The better of both halves of two pairs."""
    cdef uint64_t low = min(one & abi.AEGIS_CHOICE_NONE, other & abi.AEGIS_CHOICE_NONE)
    return min(one >> abi.AEGIS_CHOICE_BITS, other >> abi.AEGIS_CHOICE_BITS) << abi.AEGIS_CHOICE_BITS | low


cdef inline u128 last_of(u128 address, uint32_t length, uint32_t bits) noexcept nogil:
    """The highest address of a prefix."""
    if length == 0:
        return ~<u128>0 >> (128 - bits)
    return address | (((<u128>1) << (bits - length)) - 1)


cdef inline bint same(const uint32_t *one, const uint32_t *other, uint32_t count) noexcept nogil:
    cdef uint32_t at
    for at in range(count):
        if one[at] != other[at]:
            return False
    return True


cdef inline size_t place_of(const uint32_t *keys, size_t count, uint32_t key) noexcept nogil:
    """Index of a key that is there, or of the first above it."""
    cdef size_t low = 0, middle
    while count:
        middle = count >> 1
        if keys[low + middle] < key:
            low += middle + 1
            count -= middle + 1
        else:
            count = middle
    return low


cdef inline int begin(column *starts, size_t first, u128 address, uint32_t number) except -1:
    """A new interval, of class `number`; an empty one goes, and one of the same class is longer."""
    cdef interval *at
    if starts.used > first and (<interval *>starts.at)[starts.used - 1].start == address:
        starts.used -= 1
    if starts.used > first and (<interval *>starts.at)[starts.used - 1].owner == number:
        return 0
    make_room(starts, 1, sizeof(interval))
    at = &(<interval *>starts.at)[starts.used]
    at.start, at.owner = address, number
    starts.used += 1
    return 0


cdef inline uint64_t padded(uint64_t size) noexcept nogil:
    return (size + 7) & ~<uint64_t>7


cdef inline uint32_t index_bits(uint32_t intervals) noexcept nogil:
    """Leading bits of the index over so many intervals."""
    cdef uint32_t bits = 0
    while bits < abi.AEGIS_IMAGE_V4_BITS and (intervals - 1) >> bits:
        bits += 1
    return bits
