/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Questions on their way to a resolver: which of them are of interest. Included by names.bpf.c. */

/* Notes which affix of the state matches the label in walk->edge. */
static long aegis_name_affix_step(__u32 index, void *context)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    struct aegis_name_affix *affix;
    __u64 differs = 0;
    __u32 number;

    if (!walk)
        return 1;
    number = walk->affix + index;
    affix = bpf_map_lookup_elem(&aegis_name_affixes, &number);
    if (!affix)
        return 1;
    for (int word = 0; word < 8; word++)
        differs |= ((walk->edge.label[word] ^ affix->prefix[word]) & affix->prefix_mask[word]) |
                   ((walk->ending[word] ^ affix->suffix[word]) & affix->suffix_mask[word]);
    if (!differs && walk->edge.size >= affix->least)
        walk->branch.matched |= 1ull << (index & 63);
    return 0;
}

/* The state behind `state` for a label without an edge, which stands at `label` of the message. */
__noinline __u32 aegis_name_other(__u32 state, __u32 label)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    struct aegis_name_state *row = bpf_map_lookup_elem(&aegis_name_states, &state);
    __u32 end, at, *next = NULL;

    if (!walk || !row)
        return 0;
    if (row->affix_count) {
        end = label + 1 + walk->edge.size;
        for (int word = 0; word < 8; word++) {
            at = AEGIS_NAME_AT(end - 64 + 8 * word); /* bytes before the label are masked away */
            AEGIS_NAME_OPAQUE(at);
            walk->ending[word] = aegis_name_lower(*(const __u64 *)(walk->message + AEGIS_NAME_AT(at)));
        }
        walk->affix = row->affix;
        walk->branch.state = state;
        walk->branch.matched = 0;
        bpf_loop(row->affix_count & 127, aegis_name_affix_step, NULL, 0);
        if (walk->branch.matched)
            next = bpf_map_lookup_elem(&aegis_name_branches, &walk->branch);
    }
    return next ? *next : row->otherwise;
}

/* One label of the name read last, from the right. */
static long aegis_name_follow(__u32 index, void *context)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    __u32 label, size, *next;

    if (!walk)
        return 1;
    label = walk->labels[(walk->count - 1 - index) & AEGIS_NAME_LABELS];
    size = walk->message[AEGIS_NAME_AT(label)] & 63;
    walk->edge.state = walk->state;
    walk->edge.size = size;
    for (__u32 from = 0; from < 64; from += 8)
        walk->edge.label[from / 8] = from < size ? aegis_name_word(walk, label, size, from) : 0;
    next = bpf_map_lookup_elem(&aegis_name_edges, &walk->edge);
    walk->state = next ? *next : aegis_name_other(walk->state, label);
    return !(walk->state % AEGIS_NAME_STATES);
}

/* The class of the name read last, from the state `root` on; 0: of no interest. */
__noinline __u32 aegis_name_class(__u32 root)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    struct aegis_name_state *row;
    __u32 last;

    if (!walk || !root)
        return 0;
    walk->state = root;
    bpf_loop(walk->count & AEGIS_NAME_LABELS, aegis_name_follow, NULL, 0);
    last = walk->state;
    row = bpf_map_lookup_elem(&aegis_name_states, &last);
    return row ? row->class_ : 0;
}

/* A message on its way to a resolver. Returns its count. */
__noinline __u32 aegis_name_query(__u64 roots)
{
    struct aegis_name_walk *walk = aegis_name_walking();
    const struct aegis_dns_question *asked;
    const struct aegis_dns_header *header;
    struct aegis_name_question question = {};

    if (!walk)
        return AEGIS_NAME_ASKED_OTHER;
    header = (const void *)walk->message;
    if (walk->length < AEGIS_DNS_HEADER || header->flags & 0xf8 || header->questions != bpf_htons(1) ||
        header->answers || aegis_name_read(AEGIS_DNS_HEADER) != AEGIS_NAME_FINE)
        return AEGIS_NAME_ASKED_MALFORMED;
    asked = aegis_name_asked(walk);
    if (!asked)
        return AEGIS_NAME_ASKED_MALFORMED;
    question.type = bpf_ntohs(asked->type);
    if (asked->class != bpf_htons(AEGIS_DNS_IN) ||
        (question.type != AEGIS_DNS_A && question.type != AEGIS_DNS_AAAA))
        return AEGIS_NAME_ASKED_OTHER;
    question.name = walk->hash;
    question.classes[0] = aegis_name_class(roots);
    question.classes[1] = aegis_name_class(roots >> 32);
    if (!question.classes[0] && !question.classes[1])
        return AEGIS_NAME_ASKED_OTHER;
    walk->key.id = header->id;
    question.until = aegis_names_now() + AEGIS_NAME_AWAITED_S;
    if (bpf_map_update_elem(&aegis_name_questions, &walk->key, &question, BPF_ANY))
        return AEGIS_NAME_ASKED_LOST;
    return AEGIS_NAME_ASKED;
}
