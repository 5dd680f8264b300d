/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Answers: what they teach, all of it or nothing. Included by names.bpf.c. */

/* Whether an IPv4 address (host order) may not be learnt. */
static __always_inline bool aegis_name_forbids_ipv4(__u32 address)
{
    return address >> 24 == 0 || address >> 24 == 127 || address >> 16 == 0xa9fe || address >> 28 >= 0xe ||
           address == 0x646464c8 || address == 0xa83f8110 || address == 0xc00000c0;
}

/* Whether an address (host order halves, IPv4 mapped) may not be learnt: of this host, of this link, of a
 * group, of a cloud's metadata service, or IPv4 in IPv6's clothes. */
__noinline __u32 aegis_name_forbids(__u64 high, __u64 low)
{
    if (!high && low >> 32 == 0xffff)
        return aegis_name_forbids_ipv4(low);
    if (high == 0x0064ff9b00000000) /* NAT64: what is behind it */
        return low >> 32 || aegis_name_forbids_ipv4(low);
    return !high || high >> 54 == 0x3fa || high >> 56 == 0xff ||
           (high == 0xfd000ec200000000 && low == 0x254) || (high == 0xfd2000ce00000000 && low == 0x254);
}

/* Takes the name read last, with `before` steps left then, for the one whose records are next. */
static __always_inline void aegis_name_expect(struct aegis_name_walk *walk, __u32 at, __u32 before)
{
    walk->expected = walk->hash;
    walk->expected_at = at;
    walk->expected_steps = before - walk->steps;
}

/* Reads the owner of a record. Most are a pointer to the very name that is expected, which was read already.
 */
static __always_inline __u32 aegis_name_owner(struct aegis_name_walk *walk)
{
    __u32 at = walk->cursor, first = AEGIS_NAME_AT(at), second = AEGIS_NAME_AT(at + 1), steps;

    if (at + 1 >= walk->length || ((__u32)walk->message[first] << 8 | walk->message[second]) !=
                                      (AEGIS_DNS_POINTER << 8 | walk->expected_at))
        return aegis_name_read(at);
    steps = walk->expected_steps + 1;
    if (walk->steps < steps)
        return AEGIS_NAME_TOO_MUCH;
    walk->steps -= steps;
    walk->end = at + 2;
    walk->hash = walk->expected;
    return AEGIS_NAME_FINE;
}

/* One record of the answer section. Returns AEGIS_NAME_FINE, or what is wrong with the answer. */
__noinline __u32 aegis_name_record(void)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    const struct aegis_dns_record *record;
    __u32 error, at, end, type, ttl, size, number;
    __u64 high, low;

    if (!walk)
        return AEGIS_NAME_MALFORMED;
    error = aegis_name_owner(walk);
    if (error != AEGIS_NAME_FINE)
        return error;
    at = walk->end;
    if (at + sizeof(*record) > walk->length)
        return AEGIS_NAME_MALFORMED;
    end = AEGIS_NAME_AT(at);
    AEGIS_NAME_OPAQUE(end);
    record = (const void *)(walk->message + AEGIS_NAME_AT(end));
    type = bpf_ntohs(record->type);
    ttl = bpf_ntohl(record->ttl);
    size = bpf_ntohs(record->length);
    at += sizeof(*record);
    end = at + size;
    if (end > walk->length)
        return AEGIS_NAME_MALFORMED;
    walk->cursor = end;
    if (type != AEGIS_DNS_A && type != AEGIS_DNS_AAAA && type != AEGIS_DNS_CNAME)
        return AEGIS_NAME_FINE;
    if (record->class != bpf_htons(AEGIS_DNS_IN))
        return AEGIS_NAME_MALFORMED;
    if (walk->hash != walk->expected)
        return AEGIS_NAME_FOREIGN;
    if (ttl >> 31)
        ttl = 0;
    if (ttl > walk->ttl)
        ttl = walk->ttl;
    number = walk->found;
    if (type == AEGIS_DNS_CNAME) {
        if (number)
            return AEGIS_NAME_FOREIGN;
        number = walk->steps;
        error = aegis_name_read(at);
        if (error != AEGIS_NAME_FINE)
            return error;
        if (walk->end != end)
            return AEGIS_NAME_MALFORMED;
        aegis_name_expect(walk, at, number);
        walk->ttl = ttl;
        return AEGIS_NAME_FINE;
    }
    if (size != (type == AEGIS_DNS_A ? 4 : 16))
        return AEGIS_NAME_MALFORMED;
    if (type != walk->type)
        return AEGIS_NAME_FINE;
    at = AEGIS_NAME_AT(at);
    AEGIS_NAME_OPAQUE(at);
    at = AEGIS_NAME_AT(at);
    if (type == AEGIS_DNS_A) {
        high = 0;
        low = 0xffffull << 32 | bpf_ntohl(*(const __u32 *)(walk->message + at));
    } else {
        high = bpf_be64_to_cpu(*(const __u64 *)(walk->message + at));
        at = AEGIS_NAME_AT(at + 8);
        AEGIS_NAME_OPAQUE(at);
        low = bpf_be64_to_cpu(*(const __u64 *)(walk->message + AEGIS_NAME_AT(at)));
        if (!high && low >> 32 == 0xffff) /* IPv4's own record is A */
            return AEGIS_NAME_FORBIDDEN;
    }
    if (aegis_name_forbids(high, low))
        return AEGIS_NAME_FORBIDDEN;
    if (number >= AEGIS_NAME_MOST_ADDRESSES)
        return AEGIS_NAME_TOO_MUCH;
    number &= AEGIS_NAME_MOST_ADDRESSES - 1;
    *(__u64 *)walk->addresses[number] = bpf_cpu_to_be64(high);
    *(__u64 *)(walk->addresses[number] + 8) = bpf_cpu_to_be64(low);
    walk->ttls[number] = ttl;
    walk->found++;
    return AEGIS_NAME_FINE;
}

/* Binds the address with this number to a class. */
__noinline __u32 aegis_name_bind_found(__u32 number, __u32 class, __u32 now)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    __u64 word;

    if (!walk)
        return AEGIS_NAME_TABLE_FULL;
    number &= AEGIS_NAME_MOST_ADDRESSES - 1;
    word = (__u64)class << AEGIS_NAME_CLASS_SHIFT | (now + walk->ttls[number] + AEGIS_NAME_GRACE_S);
    return aegis_name_bind((const struct aegis_name_address *)walk->addresses[number], word, now);
}

/* Binds all addresses of the answer to a class. */
__noinline __u32 aegis_name_bind_all(__u32 class, __u32 now)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    __u32 result = AEGIS_NAME_LEARNT, bound = 0, one;

    if (!walk || !class)
        return result;
    for (__u32 number = 0; number < AEGIS_NAME_MOST_ADDRESSES; number++) {
        if (number >= walk->found)
            break;
        one = aegis_name_bind_found(number, class, now);
        if (one == AEGIS_NAME_BOUND)
            bound++;
        else if (one == AEGIS_NAME_HELD_BACK)
            result = one;
        else
            aegis_name_count(one, 1);
    }
    aegis_name_count(AEGIS_NAME_BOUND, bound);
    return result;
}

/* A message from a server's port, of which the header is read. Whether it is awaited, or what it counts as.
 */
__noinline __u32 aegis_name_awaited(void)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    struct aegis_name_question *question;

    if (!walk)
        return AEGIS_NAME_MALFORMED;
    walk->key.id = ((const struct aegis_dns_header *)walk->message)->id;
    question = bpf_map_lookup_elem(&aegis_name_questions, &walk->key);
    if (question) {
        walk->now = aegis_names_now();
        if (question->until > walk->now)
            return AEGIS_NAME_FINE;
    }
    return aegis_name_has_resolver(walk->key.server) ? AEGIS_NAME_UNSOLICITED : AEGIS_NAME_ELSEWHERE;
}

/* A message that is awaited. Returns its count. */
__noinline __u32 aegis_name_answer(void)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    const struct aegis_dns_question *asked;
    const struct aegis_dns_header *header;
    struct aegis_name_question *question;
    __u32 records, error, now, other;

    if (!walk)
        return AEGIS_NAME_MALFORMED;
    header = (const void *)walk->message;
    question = bpf_map_lookup_elem(&aegis_name_questions, &walk->key);
    if (!question)
        return AEGIS_NAME_UNSOLICITED;
    /* What does not answer the question leaves it awaited: the answer may still come. */
    if ((header->flags & 0xf8) != 0x80 || header->questions != bpf_htons(1) ||
        aegis_name_read(AEGIS_DNS_HEADER) != AEGIS_NAME_FINE)
        return AEGIS_NAME_MISMATCH;
    asked = aegis_name_asked(walk);
    if (!asked || asked->class != bpf_htons(AEGIS_DNS_IN) || bpf_ntohs(asked->type) != question->type ||
        walk->hash != question->name)
        return AEGIS_NAME_MISMATCH;
    walk->type = question->type;
    walk->classes[0] = question->classes[0];
    walk->classes[1] = question->classes[1];
    if (bpf_map_delete_elem(&aegis_name_questions, &walk->key)) /* answered on another CPU just now */
        return AEGIS_NAME_UNSOLICITED;
    if (header->flags & 0x02)
        return AEGIS_NAME_TRUNCATED;
    if (header->code & 0x0f)
        return AEGIS_NAME_ERROR;
    records = bpf_ntohs(header->answers);
    if (records > AEGIS_NAME_MOST_RECORDS)
        return AEGIS_NAME_TOO_MUCH;
    walk->cursor = walk->end + sizeof(*asked);
    aegis_name_expect(walk, AEGIS_DNS_HEADER, AEGIS_NAME_MOST_STEPS);
    walk->ttl = AEGIS_NAME_MOST_TTL_S;
    walk->found = 0;
    for (__u32 number = 0; number < AEGIS_NAME_MOST_RECORDS; number++) {
        if (number >= records)
            break;
        error = aegis_name_record();
        if (error != AEGIS_NAME_FINE)
            return error;
    }
    if (!walk->found)
        return AEGIS_NAME_EMPTY;
    now = walk->now;
    error = aegis_name_bind_all(walk->classes[0], now);
    other = walk->classes[1];
    if (other != walk->classes[0] && aegis_name_bind_all(other, now) == AEGIS_NAME_HELD_BACK)
        return AEGIS_NAME_HELD_BACK;
    return error;
}
