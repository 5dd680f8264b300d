/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The tables of the automaton that tells which names matter: label by label from the right, (state, label) ->
 * state. By the exact label, else by which of the state's affixes match it, else by what holds for any other.
 * Filled from aegis/kernel/automaton.py. */
#ifndef AEGIS_KERN_NAMES_AUTOMATON_BPF_H
#define AEGIS_KERN_NAMES_AUTOMATON_BPF_H

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, AEGIS_NAME_EDGES);
    __type(key, struct aegis_name_edge);
    __type(value, __u32);
} aegis_name_edges SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, AEGIS_NAME_EDGES);
    __type(key, __u32);
    __type(value, struct aegis_name_state);
} aegis_name_states SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, AEGIS_NAME_AFFIXES *AEGIS_POLICY_SLOTS);
    __type(key, __u32);
    __type(value, struct aegis_name_affix);
} aegis_name_affixes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, AEGIS_NAME_BRANCHES);
    __type(key, struct aegis_name_branch);
    __type(value, __u32);
} aegis_name_branches SEC(".maps");

#endif
