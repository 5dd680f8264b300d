/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One step of an automaton over components; see aegis/subject.h and aegis/kernel/automaton.py.
 *
 * The component lies in a per-CPU map value and not on the stack: the verifier then sees unknown numbers and
 * converges at once. Each kind of program has its own, because one may interrupt another. */
#ifndef AEGIS_KERN_AUTOMATON_BPF_H
#define AEGIS_KERN_AUTOMATON_BPF_H

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, AEGIS_POLICY_SLOTS *AEGIS_AUTOMATON_STATES);
    __type(key, __u32);
    __type(value, struct aegis_automaton_state);
} aegis_automaton_states SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, AEGIS_POLICY_SLOTS *AEGIS_AUTOMATON_AFFIXES);
    __type(key, __u32);
    __type(value, struct aegis_affix);
} aegis_automaton_affixes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, AEGIS_AUTOMATON_EDGES);
    __type(key, struct aegis_edge);
    __type(value, __u32);
} aegis_automaton_edges SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, AEGIS_AUTOMATON_EDGES);
    __type(key, struct aegis_branch);
    __type(value, __u32);
} aegis_automaton_branches SEC(".maps");

enum aegis_component_user {
    AEGIS_COMPONENT_CGROUP = 0,
    AEGIS_COMPONENT_EXE = 1,
    AEGIS_COMPONENT_FILL = 2,
    AEGIS_COMPONENT_USERS = 3
};

struct aegis_component {
    struct aegis_edge edge;
    __u64 tail[2 * AEGIS_AFFIX_BYTES /
               8]; /* the end, right-aligned in the first half; the rest is for the verifier */
    __u64 source;  /* where the whole component is, of `length` bytes */
    __u64 matched;
    __u32 length;
    __u32 affix;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, AEGIS_COMPONENT_USERS);
    __type(key, __u32);
    __type(value, struct aegis_component);
} aegis_components SEC(".maps");

/* Takes the component at `source` for the steps to come. */
static __always_inline void aegis_component_take(struct aegis_component *component, const void *source,
                                                 __u32 length)
{
    __u32 most = length;

    __builtin_memset(&component->edge, 0, sizeof(component->edge));
    if (most > AEGIS_COMPONENT_BYTES)
        most = AEGIS_COMPONENT_BYTES;
    bpf_probe_read_kernel(component->edge.text, most, source);
    component->source = (__u64)source;
    component->length = length;
}

static long aegis_affix_step(__u32 index, struct aegis_component **argument)
{
    struct aegis_component *component = *argument;
    __u32 number = component->affix + index;
    struct aegis_affix *affix = bpf_map_lookup_elem(&aegis_automaton_affixes, &number);
    /* The name begins 4 bytes into its key: no word of it is aligned, and need not be. */
    __u64 *head = (__u64 *)component->edge.text;
    __u64 differs = 0;

    if (!affix)
        return 1;
    if (component->length < affix->least)
        return 0;
    differs = (head[0] & affix->prefix_mask[0]) ^ affix->prefix[0];
    differs |= (component->tail[7] & affix->suffix_mask[7]) ^ affix->suffix[7];
    if (differs)
        return 0;
#pragma unroll
    for (int word = 1; word < 8; word++) {
        differs |= (head[word] & affix->prefix_mask[word]) ^ affix->prefix[word];
        differs |= (component->tail[7 - word] & affix->suffix_mask[7 - word]) ^ affix->suffix[7 - word];
    }
    if (!differs)
        component->matched |= 1ull << (index & 63);
    return 0;
}

/* The state after `state` and the component that was taken; 0, 2048, ... are dead. */
__noinline __u32 aegis_automaton_step(__u32 user, __u32 state)
{
    struct aegis_component *component = bpf_map_lookup_elem(&aegis_components, &user);
    struct aegis_automaton_state *row;
    struct aegis_branch branch = {.state = state};
    __u32 *next, length, count;

    if (!component || !(state % AEGIS_AUTOMATON_STATES))
        return 0;
    row = bpf_map_lookup_elem(&aegis_automaton_states, &state);
    if (!row)
        return 0;
    length = component->length;
    if (length <= AEGIS_COMPONENT_BYTES) {
        component->edge.state = state;
        next = bpf_map_lookup_elem(&aegis_automaton_edges, &component->edge);
        if (next)
            return *next;
    }
    count = row->affix_count;
    if (!count)
        return row->otherwise;
    component->affix = state / AEGIS_AUTOMATON_STATES * AEGIS_AUTOMATON_AFFIXES + row->affix;
    component->matched = 0;
    __builtin_memset(component->tail, 0, AEGIS_AFFIX_BYTES);
    if (length >= AEGIS_AFFIX_BYTES)
        bpf_probe_read_kernel(component->tail, AEGIS_AFFIX_BYTES,
                              (void *)(component->source + length - AEGIS_AFFIX_BYTES));
    else if (length)
        bpf_probe_read_kernel((__u8 *)component->tail + (AEGIS_AFFIX_BYTES - (length & 63)), length & 63,
                              (void *)component->source);
    bpf_loop(count, aegis_affix_step, &component, 0);
    branch.matched = component->matched;
    if (!branch.matched)
        return row->otherwise;
    next = bpf_map_lookup_elem(&aegis_automaton_branches, &branch);
    return next ? *next : row->otherwise;
}

#endif
