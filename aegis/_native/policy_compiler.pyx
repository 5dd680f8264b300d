"""The compiler of policy images (`bpf/include/aegis/policy.h`): ranked rules in, the kernel's bytes out.

Addresses: nested prefixes are flattened into sorted disjoint intervals, each of which names a class. A
class is one prefix with its own rules only, as sorted disjoint cells over the service key; it names the
class of the next wider prefix, and the best choices of all wider ones, so that a walk outward ends early.
Every number is given in the order of what was sorted before it: the same rules give the same bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from aegis._native cimport abi
from aegis._native.policy_tables cimport (
    around,
    begin,
    better,
    by_number,
    by_place,
    column,
    index_bits,
    interval,
    last_of,
    make_room,
    mixed,
    net,
    owner,
    padded,
    part,
    place_of,
    ranks,
    rule,
    same,
    span,
    u128,
)

cdef enum:
    MOST = 1 << 21  # prefixes and cells: a search of AEGIS_IMAGE_STEPS halvings ends in so many
    PAIR_BITS = 38
    DIRECTION_SHIFT = 25
    FRAGMENT_BIT = 1 << 24
    PROTOCOL_SHIFT = 16
    LAST_PORT = 65535
    EVERYTHING = (1 << 25) - 1
    LAST_KEY = (1 << 26) - 1
    ICMP = 1
    ICMPV6 = 58
    TCP = 6
    UDP = 17
    SCTP = 132
    BOTH = 0  # families

cdef uint64_t NONE_PAIR = (<uint64_t>abi.AEGIS_CHOICE_NONE << abi.AEGIS_CHOICE_BITS) | abi.AEGIS_CHOICE_NONE
cdef uint64_t PAIR_MASK = (<uint64_t>1 << PAIR_BITS) - 1


class TooDeep(Exception):
    """More prefixes nest than an image takes. Arguments: rank of the first rule of the innermost, family,
    address, length."""


class TooMany(Exception):
    """More of something than an image takes. Arguments: what there is too much of, rank of a rule."""


cdef class Compiler:
    """One compilation. `add` every rule in the order of ranks, then `defaults`, then `image` once."""

    cdef column rules, spans, nets, pool, lists, list_slots, owners, owner_slots
    cdef column v4, v6, cells, parts, scratch
    cdef dict by_selector

    def __cinit__(self, uint32_t parts):
        cdef size_t number
        self.by_selector = {}
        make_room(&self.parts, parts, sizeof(part))
        self.parts.used = parts
        memset(self.parts.at, 0, parts * sizeof(part))
        for number in range(parts):
            (<part *>self.parts.at)[number].defaults[0] = NONE_PAIR
            (<part *>self.parts.at)[number].defaults[1] = NONE_PAIR

    def __dealloc__(self):
        PyMem_RawFree(self.rules.at)
        PyMem_RawFree(self.spans.at)
        PyMem_RawFree(self.nets.at)
        PyMem_RawFree(self.pool.at)
        PyMem_RawFree(self.lists.at)
        PyMem_RawFree(self.list_slots.at)
        PyMem_RawFree(self.owners.at)
        PyMem_RawFree(self.owner_slots.at)
        PyMem_RawFree(self.v4.at)
        PyMem_RawFree(self.v6.at)
        PyMem_RawFree(self.cells.at)
        PyMem_RawFree(self.parts.at)
        PyMem_RawFree(self.scratch.at)

    # Rules in.

    def add(self, each, uint32_t number, bint ingress, bint enforced, dict selectors):
        """The next rule: of part `number`; selectors are numbered by `selectors`."""
        cdef uint32_t rank = self.rules.used
        cdef uint32_t family
        cdef rule *made
        cdef tuple blocks = each.blocks
        make_room(&self.rules, 1, sizeof(rule))
        self.rules.used += 1
        made = &(<rule *>self.rules.at)[rank]
        memset(made, 0, sizeof(rule))
        made.deny, made.enforced = each.deny, enforced
        self.add_services(made, each, ingress)
        if each.names:
            for name in set(each.names):
                self.by_selector.setdefault((selectors[name], number), []).append(rank)
        elif not blocks:
            for family in range(2):
                if made.spans[family]:
                    self.add_net(number, family, 0, 0, rank)
        else:
            for block in blocks:
                cidr = block.cidr
                family = cidr.family == 6
                if made.spans[family]:
                    self.add_block(number, family, cidr, block.exceptions, rank)
        if self.nets.used > MOST:
            raise TooMany("prefixes", rank)

    cdef int add_services(self, rule *made, each, bint ingress) except -1:
        """The service keys the rule is about. A later fragment carries no ports: a denial takes it by
        protocol, an allowance only if it covers every port."""
        cdef uint32_t base = <uint32_t>ingress << DIRECTION_SHIFT
        cdef uint32_t first, last
        cdef uint32_t protocol
        cdef tuple ports = each.ports
        cdef tuple icmps = each.icmps
        made.span[0] = made.span[1] = self.spans.used
        if icmps:
            made.apart = True
            for family, wanted in enumerate((4, 6)):
                made.span[family] = self.spans.used
                for icmp in icmps:
                    if icmp.family == wanted:
                        first = <uint32_t>icmp.type << 8
                        self.add_span(base, ICMP if wanted == 4 else ICMPV6, first, first | 255, made.deny)
                made.spans[family] = self.spans.used - made.span[family]
            return 0
        for entry in ports:
            if entry.first is not None:
                first, last = entry.first, entry.last
                if entry.protocol is None:
                    self.add_span(base, TCP, first, last, made.deny)
                    self.add_span(base, UDP, first, last, made.deny)
                    self.add_span(base, SCTP, first, last, made.deny)
                else:
                    self.add_span(base, entry.protocol, first, last, made.deny)
            elif entry.protocol is not None:
                protocol = entry.protocol
                self.add_span(base, protocol, 0, LAST_PORT, True)
            else:
                self.put_span(base, base | EVERYTHING)
        if not ports:
            self.put_span(base, base | EVERYTHING)
        made.spans[0] = made.spans[1] = self.spans.used - made.span[0]
        return 0

    cdef int add_span(
        self, uint32_t base, uint32_t protocol, uint32_t first, uint32_t last, bint fragments
    ) except -1:
        cdef uint32_t start = base | protocol << PROTOCOL_SHIFT
        self.put_span(start | first, start | last)
        if fragments:
            self.put_span(start | FRAGMENT_BIT, start | FRAGMENT_BIT | LAST_PORT)
        return 0

    cdef int put_span(self, uint32_t first, uint32_t last) except -1:
        make_room(&self.spans, 1, sizeof(span))
        (<span *>self.spans.at)[self.spans.used].first = first
        (<span *>self.spans.at)[self.spans.used].last = last
        self.spans.used += 1
        return 0

    cdef int add_net(
        self, uint32_t number, uint32_t family, u128 address, uint32_t length, uint32_t rank
    ) except -1:
        cdef net *made
        make_room(&self.nets, 1, sizeof(net))
        made = &(<net *>self.nets.at)[self.nets.used]
        memset(made, 0, sizeof(net))
        made.part, made.family, made.address, made.length, made.rank = number, family, address, length, rank
        self.nets.used += 1
        return 0

    cdef int add_block(
        self, uint32_t number, uint32_t family, cidr, tuple exceptions, uint32_t rank
    ) except -1:
        """A prefix without the exceptions, as the fewest prefixes."""
        cdef uint32_t bits = 128 if family else 32
        cdef u128 reached = number_of(cidr.address, family)
        cdef u128 end = last_of(reached, cidr.length, bits)
        cdef u128 start, last
        if not exceptions:
            return self.add_net(number, family, reached, cidr.length, rank)
        for each in sorted(exceptions):
            start = number_of(each.address, family)
            last = last_of(start, each.length, bits)
            if start > reached:
                self.cover(number, family, reached, start - 1, bits, rank)
            if last >= end:
                return 0
            if last + 1 > reached:
                reached = last + 1
        return self.cover(number, family, reached, end, bits, rank)

    cdef int cover(
        self, uint32_t number, uint32_t family, u128 first, u128 last, uint32_t bits, uint32_t rank
    ) except -1:
        """The fewest prefixes that hold exactly first to last."""
        cdef uint32_t free
        cdef u128 size
        while True:
            free = 0
            while free < bits and last_of(first, bits - free - 1, bits) <= last and not first >> free & 1:
                free += 1
            self.add_net(number, family, first, bits - free, rank)
            size = last_of(first, bits - free, bits)
            if size >= last:
                return 0
            first = size + 1

    def defaults(self, uint32_t number, bint ingress, bint enforced):
        """The next rank is a default: what rules leave is denied, in a part and direction."""
        cdef uint32_t rank = self.rules.used
        cdef uint64_t choice = <uint64_t>rank << 1 | 1
        cdef uint64_t made
        cdef uint64_t *pair = &(<part *>self.parts.at)[number].defaults[ingress]
        make_room(&self.rules, 1, sizeof(rule))
        memset(&(<rule *>self.rules.at)[rank], 0, sizeof(rule))
        (<rule *>self.rules.at)[rank].deny, (<rule *>self.rules.at)[rank].enforced = True, enforced
        self.rules.used += 1
        made = choice << abi.AEGIS_CHOICE_BITS | (choice if enforced else abi.AEGIS_CHOICE_NONE)
        pair[0] = better(pair[0], made)

    # Lists of rules, classes, cells.

    cdef inline uint64_t pair_of(self, uint32_t rank) noexcept nogil:
        """What a rule decides where it matches."""
        cdef const rule *one = &(<rule *>self.rules.at)[rank]
        cdef uint64_t choice = <uint64_t>rank << 1 | one.deny
        return choice << abi.AEGIS_CHOICE_BITS | (choice if one.enforced else abi.AEGIS_CHOICE_NONE)

    cdef int grow(self, column *slots, bint owners) except -1:
        """Double a table of numbers + 1 when it is half full, and put everything in its place again."""
        cdef size_t used = self.owners.used if owners else self.lists.used
        cdef size_t count = slots.room, place, number
        cdef uint64_t hash
        if count and used * 2 < count:
            return 0
        count = count * 2 if count else 1024
        PyMem_RawFree(slots.at)
        slots.at = NULL
        slots.room = 0
        make_room(slots, count, sizeof(uint32_t))
        slots.room = count
        memset(slots.at, 0, count * sizeof(uint32_t))
        for number in range(used):
            hash = (<owner *>self.owners.at)[number].hash if owners else (<ranks *>self.lists.at)[number].hash
            place = hash & (count - 1)
            while (<uint32_t *>slots.at)[place]:
                place = (place + 1) & (count - 1)
            (<uint32_t *>slots.at)[place] = number + 1
        return 0

    cdef uint32_t list_of(self, const uint32_t *wanted, uint32_t count, uint32_t family) except? 0xFFFFFFFF:
        """The number of a list of ranks, best first; only ICMP means something else in the other family."""
        cdef uint64_t hash = mixed(7, count)
        cdef uint32_t at
        cdef size_t place
        cdef ranks *one
        cdef bint apart = False
        for at in range(count):
            hash = mixed(hash, wanted[at])
            apart |= (<rule *>self.rules.at)[wanted[at]].apart
        family = family + 1 if apart else BOTH
        hash = mixed(hash, family)
        self.grow(&self.list_slots, False)
        place = hash & (self.list_slots.room - 1)
        while (<uint32_t *>self.list_slots.at)[place]:
            one = &(<ranks *>self.lists.at)[(<uint32_t *>self.list_slots.at)[place] - 1]
            if one.hash == hash and one.family == family and one.count == count and same(
                &(<uint32_t *>self.pool.at)[one.first], wanted, count
            ):
                return (<uint32_t *>self.list_slots.at)[place] - 1
            place = (place + 1) & (self.list_slots.room - 1)
        make_room(&self.pool, count, sizeof(uint32_t))
        make_room(&self.lists, 1, sizeof(ranks))
        one = &(<ranks *>self.lists.at)[self.lists.used]
        one.first, one.count, one.hash, one.family = self.pool.used, count, hash, family
        memcpy(&(<uint32_t *>self.pool.at)[one.first], wanted, count * sizeof(uint32_t))
        self.pool.used += count
        one.best = NONE_PAIR
        for at in range(count):
            one.best = better(one.best, self.pair_of(wanted[at]))
        self.paint(one)
        (<uint32_t *>self.list_slots.at)[place] = self.lists.used + 1
        self.lists.used += 1
        return self.lists.used - 1

    cdef uint32_t class_of(self, uint32_t number, uint32_t parent) except? 0xFFFFFFFF:
        """The class of a list of rules in a prefix whose next wider one is of class `parent`."""
        cdef uint64_t hash = mixed(mixed(11, number), parent)
        cdef size_t place
        cdef owner *one
        cdef owner *wider
        self.grow(&self.owner_slots, True)
        place = hash & (self.owner_slots.room - 1)
        while (<uint32_t *>self.owner_slots.at)[place]:
            one = &(<owner *>self.owners.at)[(<uint32_t *>self.owner_slots.at)[place] - 1]
            if one.list == number and one.parent == parent:
                return (<uint32_t *>self.owner_slots.at)[place] - 1
            place = (place + 1) & (self.owner_slots.room - 1)
        make_room(&self.owners, 1, sizeof(owner))
        one = &(<owner *>self.owners.at)[self.owners.used]
        wider = &(<owner *>self.owners.at)[parent]
        one.list, one.parent, one.hash, one.above = number, parent, hash, NONE_PAIR
        if self.owners.used:
            one.above = better(wider.above, (<ranks *>self.lists.at)[wider.list].best)
        (<uint32_t *>self.owner_slots.at)[place] = self.owners.used + 1
        self.owners.used += 1
        return self.owners.used - 1

    cdef int paint(self, ranks *one) except -1:
        """The cells of a list: the best choices from each key where anything begins or ends to the next."""
        cdef uint32_t family = 1 if one.family == 2 else 0
        cdef size_t points = 1, at, each, count
        cdef const rule *of
        cdef const span *where
        cdef uint32_t *keys
        cdef uint64_t pair
        for at in range(one.count):
            points += 2 * (<rule *>self.rules.at)[(<uint32_t *>self.pool.at)[one.first + at]].spans[family]
        # keys, then for both layers: choices, and the next key that is still bare.
        self.scratch.used = 0
        make_room(&self.scratch, 5 * points + 2, sizeof(uint32_t))
        keys = <uint32_t *>self.scratch.at
        keys[0] = 0
        count = 1
        for at in range(one.count):
            of = &(<rule *>self.rules.at)[(<uint32_t *>self.pool.at)[one.first + at]]
            for each in range(of.spans[family]):
                where = &(<span *>self.spans.at)[of.span[family] + each]
                keys[count] = where.first
                keys[count + 1] = where.last + 1
                count += 2
        qsort(keys, count, sizeof(uint32_t), by_number)
        points = 1
        for at in range(1, count):
            if keys[at] != keys[points - 1]:
                keys[points] = keys[at]
                points += 1
        self.paint_layer(one, family, keys, points, keys + points, keys + 3 * points, False)
        self.paint_layer(one, family, keys, points, keys + 2 * points, keys + 3 * points, True)
        one.cell = self.cells.used
        make_room(&self.cells, points, sizeof(uint64_t))
        for at in range(points):
            if keys[at] > LAST_KEY:
                break
            pair = <uint64_t>keys[points + at] << abi.AEGIS_CHOICE_BITS | keys[2 * points + at]
            if at == 0 or pair != (<uint64_t *>self.cells.at)[self.cells.used - 1] & PAIR_MASK:
                (<uint64_t *>self.cells.at)[self.cells.used] = <uint64_t>keys[at] << PAIR_BITS | pair
                self.cells.used += 1
        one.cells = self.cells.used - one.cell
        if self.cells.used > MOST:
            raise TooMany("cells", (<uint32_t *>self.pool.at)[one.first])
        return 0

    cdef int paint_layer(
        self, const ranks *one, uint32_t family, const uint32_t *keys, size_t points, uint32_t *painted,
        uint32_t *bare, bint enforced
    ) except -1:
        """Rules come best first, so each paints what is bare. bare[i]: i where it is, else nearer to it."""
        cdef size_t at, each, place, end
        cdef uint32_t rank, value
        cdef const rule *of
        cdef const span *where
        for at in range(points):
            painted[at] = abi.AEGIS_CHOICE_NONE
            bare[at] = at
        bare[points] = points
        for at in range(one.count):
            rank = (<uint32_t *>self.pool.at)[one.first + at]
            of = &(<rule *>self.rules.at)[rank]
            if enforced and not of.enforced:
                continue
            value = rank << 1 | of.deny
            for each in range(of.spans[family]):
                where = &(<span *>self.spans.at)[of.span[family] + each]
                place = place_of(keys, points, where.first)
                end = place_of(keys, points, where.last + 1)
                while True:
                    while bare[place] != place:
                        bare[place] = bare[bare[place]]
                        place = bare[place]
                    if place >= end:
                        break
                    painted[place] = value
                    bare[place] = place + 1
        return 0

    # Addresses.

    cdef int flatten(self) except -1:
        """Intervals of every part and family, and the classes they name."""
        cdef net *nets = <net *>self.nets.at
        cdef size_t at = 0
        cdef uint32_t number
        cdef part *one
        qsort(nets, self.nets.used, sizeof(net), by_place)
        for number in range(self.parts.used):
            one = &(<part *>self.parts.at)[number]
            one.v4 = self.v4.used
            at = self.flatten_family(number, 0, at, &self.v4)
            one.v4_count = self.v4.used - one.v4
            one.v6 = self.v6.used
            at = self.flatten_family(number, 1, at, &self.v6)
            one.v6_count = self.v6.used - one.v6
        return 0

    cdef size_t flatten_family(
        self, uint32_t number, uint32_t family, size_t at, column *starts
    ) except? <size_t>-1:
        """From the prefix with index `at` on; returns the index of the next family's or part's first."""
        cdef net *nets = <net *>self.nets.at
        cdef around stack[abi.AEGIS_IMAGE_DEPTH]
        cdef uint32_t bits = 128 if family else 32
        cdef uint32_t held = 0, count, owner_number
        cdef size_t first = starts.used
        cdef uint32_t *wanted
        cdef const net *one
        cdef u128 top = last_of(0, 0, bits)
        begin(starts, first, 0, 0)
        while at < self.nets.used and nets[at].part == number and nets[at].family == family:
            one = &nets[at]
            while held and stack[held - 1].last < one.address:
                held -= 1
                begin(starts, first, stack[held].last + 1, stack[held - 1].owner if held else 0)
            if held == abi.AEGIS_IMAGE_DEPTH:
                raise TooDeep(one.rank, 6 if family else 4, whole(one.address), one.length)
            count = 0
            self.scratch.used = 0
            while (
                at < self.nets.used and nets[at].part == number and nets[at].family == family
                and nets[at].address == one.address and nets[at].length == one.length
            ):
                make_room(&self.scratch, 1, sizeof(uint32_t))
                wanted = <uint32_t *>self.scratch.at
                if not count or wanted[count - 1] != nets[at].rank:
                    wanted[count] = nets[at].rank
                    count += 1
                self.scratch.used = count
                at += 1
            owner_number = self.class_of(
                self.list_copied(count, family), stack[held - 1].owner if held else 0
            )
            begin(starts, first, one.address, owner_number)
            stack[held].last = last_of(one.address, one.length, bits)
            stack[held].owner = owner_number
            held += 1
        while held:
            held -= 1
            if stack[held].last < top:
                begin(starts, first, stack[held].last + 1, stack[held - 1].owner if held else 0)
        return at

    cdef uint32_t list_copied(self, uint32_t count, uint32_t family) except? 0xFFFFFFFF:
        """`list_of` of the first `count` ranks of the scratch, which painting writes over."""
        cdef column kept
        cdef uint32_t found
        memset(&kept, 0, sizeof(kept))
        kept, self.scratch = self.scratch, kept
        try:
            found = self.list_of(<const uint32_t *>kept.at, count, family)
        finally:
            PyMem_RawFree(self.scratch.at)
            self.scratch = kept
        return found

    # Names.

    cdef dict selector_words(self, list directory):
        """By selector: what its rules say, a word for each part (and family, where that matters) of it."""
        cdef dict found = {}
        cdef uint32_t count, family, entry
        cdef bint apart
        for (selector, number), wanted in sorted(self.by_selector.items()):
            count = <uint32_t>len(wanted)
            for family in range(2):
                self.scratch.used = 0
                make_room(&self.scratch, count, sizeof(uint32_t))
                apart = False
                for entry in range(count):
                    (<uint32_t *>self.scratch.at)[entry] = wanted[entry]
                    apart |= (<rule *>self.rules.at)[<uint32_t>wanted[entry]].apart
                if family and not apart:
                    break
                entry = self.class_of(self.list_copied(count, family), 0)
                found.setdefault(selector, []).append((
                    <uint64_t>directory[number] | <uint64_t>entry << abi.AEGIS_WORD_CLASS_SHIFT
                    | <uint64_t>(family + 1 if apart else 0) << abi.AEGIS_WORD_FAMILY_SHIFT,
                    wanted[0],
                ))
        return found

    # The image.

    def image(self, list deadlines, list directory, name_classes):
        """The bytes. `directory`: a word for each part; `name_classes`: selector numbers of each."""
        cdef dict by_selector
        cdef list lists = []
        cdef list words = []
        cdef list entries
        self.class_of(self.list_of(NULL, 0, 0), 0)  # class 0
        self.flatten()
        by_selector = self.selector_words(directory)
        for selectors in name_classes:
            entries = [entry for selector in selectors for entry in by_selector.get(selector, ())]
            if len(entries) > abi.AEGIS_IMAGE_NAME_PARTS:
                raise TooMany("rules about one name by different subjects or selectors", entries[0][1])
            lists.append(<uint64_t>len(words) << 32 | <uint64_t>len(entries))
            words += [word for word, _ in entries]
        return self.assembled(deadlines, directory, lists, words)

    cdef bytes assembled(self, list deadlines, list directory, list lists, list words):
        """Lay the sections out behind the header."""
        cdef abi.aegis_image_header header
        cdef abi.aegis_image_part *table
        cdef const part *one
        cdef uint64_t at
        cdef uint64_t subjects = 0
        cdef uint32_t number, bits
        cdef size_t each
        cdef char *out
        cdef bytes made
        memset(&header, 0, sizeof(header))
        for word in (*directory, *words):
            subjects |= <uint64_t>1 << (<uint64_t>word & 63)
        header.magic, header.format = abi.AEGIS_IMAGE_MAGIC, abi.AEGIS_IMAGE_FORMAT
        header.rules = self.rules.used
        header.subjects = subjects
        header.deadline_count, header.part_count = len(deadlines), self.parts.used
        header.class_count, header.cell_count = self.owners.used, self.cells.used
        header.name_count, header.name_word_count = len(lists), len(words)
        at = sizeof(header)
        header.deadlines = at
        at += 8 * header.deadline_count
        header.parts = at
        at += (8 + sizeof(abi.aegis_image_part)) * header.part_count
        header.classes = at + self.address_bytes()
        header.cells = header.classes + header.class_count * sizeof(abi.aegis_image_class)
        header.names = header.cells + 8 * header.cell_count
        header.name_words = header.names + 8 * header.name_count
        header.bytes = header.name_words + 8 * header.name_word_count
        made = PyBytes_FromStringAndSize(NULL, header.bytes)
        out = PyBytes_AS_STRING(made)
        memset(out, 0, header.bytes)
        for each in range(self.rules.used):
            header.enforced += (<rule *>self.rules.at)[each].enforced
        for number in range(self.parts.used):
            one = &(<part *>self.parts.at)[number]
            table = &(<abi.aegis_image_part *>(out + header.parts + 8 * header.part_count))[number]
            table.v4_count, table.v6_count = one.v4_count, one.v6_count
            table.defaults[0], table.defaults[1] = one.defaults[0], one.defaults[1]
            bits = index_bits(one.v4_count)
            table.v4_bits, table.v4_index = bits, at
            self.put_index(<uint32_t *>(out + at), one, bits)
            at += padded(4 * ((<uint64_t>1 << bits) + 1))
            table.v4 = at
            self.put_v4(<abi.aegis_image_v4 *>(out + at), one)
            at += sizeof(abi.aegis_image_v4) * one.v4_count
            table.v6 = at
            self.put_v6(<abi.aegis_image_v6 *>(out + at), one)
            at += sizeof(abi.aegis_image_v6) * one.v6_count
        self.put_classes(<abi.aegis_image_class *>(out + header.classes))
        memcpy(out + header.cells, self.cells.at, 8 * self.cells.used)
        put_words(<uint64_t *>(out + header.deadlines), deadlines)
        put_words(<uint64_t *>(out + header.parts), directory)
        put_words(<uint64_t *>(out + header.names), lists)
        put_words(<uint64_t *>(out + header.name_words), words)
        memcpy(out, &header, sizeof(header))
        return made

    cdef uint64_t address_bytes(self) noexcept:
        cdef uint64_t size = 0
        cdef uint32_t number
        cdef const part *one
        for number in range(self.parts.used):
            one = &(<part *>self.parts.at)[number]
            size += padded(4 * ((<uint64_t>1 << index_bits(one.v4_count)) + 1))
            size += sizeof(abi.aegis_image_v4) * <uint64_t>one.v4_count
            size += sizeof(abi.aegis_image_v6) * <uint64_t>one.v6_count
        return size

    cdef void put_index(self, uint32_t *out, const part *one, uint32_t bits) noexcept nogil:
        """For each value of the leading bits the interval in which it begins."""
        cdef const interval *starts = &(<const interval *>self.v4.at)[one.v4]
        cdef uint64_t bucket
        cdef uint32_t at = 0
        for bucket in range(<uint64_t>1 << bits):
            while at + 1 < one.v4_count and starts[at + 1].start <= <u128>(bucket << (32 - bits)):
                at += 1
            out[bucket] = at
        out[<uint64_t>1 << bits] = one.v4_count - 1

    cdef void put_v4(self, abi.aegis_image_v4 *out, const part *one) noexcept nogil:
        cdef size_t each
        for each in range(one.v4_count):
            out[each].start = <uint32_t>(<interval *>self.v4.at)[one.v4 + each].start
            out[each].owner = (<interval *>self.v4.at)[one.v4 + each].owner

    cdef void put_v6(self, abi.aegis_image_v6 *out, const part *one) noexcept nogil:
        cdef size_t each
        cdef u128 start
        for each in range(one.v6_count):
            start = (<interval *>self.v6.at)[one.v6 + each].start
            out[each].start_high, out[each].start_low = <uint64_t>(start >> 64), <uint64_t>start
            out[each].owner = (<interval *>self.v6.at)[one.v6 + each].owner

    cdef void put_classes(self, abi.aegis_image_class *out) noexcept nogil:
        cdef size_t each
        cdef const owner *one
        cdef const ranks *of
        for each in range(self.owners.used):
            one = &(<owner *>self.owners.at)[each]
            of = &(<ranks *>self.lists.at)[one.list]
            out[each].cell, out[each].parent = of.cell, one.parent
            out[each].above = <uint64_t>of.cells << PAIR_BITS | one.above


cdef int put_words(uint64_t *out, list words) except -1:
    cdef size_t at
    for at in range(<size_t>len(words)):
        out[at] = words[at]
    return 0


cdef u128 number_of(address, uint32_t family) except? <u128>-1:
    """A Python number as an address."""
    if not family:
        return <u128><uint32_t>address
    return (<u128><uint64_t>(address >> 64) << 64) | <u128><uint64_t>(address & 0xFFFFFFFFFFFFFFFF)


cdef object whole(u128 address):
    """An address as a Python number."""
    return int(<uint64_t>(address >> 64)) << 64 | int(<uint64_t>address)
