/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What names an address stands for: the table that bpf/src/names.bpf.c fills and a verdict asks. */
#ifndef AEGIS_KERN_NAMES_BPF_H
#define AEGIS_KERN_NAMES_BPF_H

#define AEGIS_NAME_DEAD        (~0ull)
#define AEGIS_NAME_CLASS_SHIFT 32

/* Preallocated: an answer must find room without asking the memory allocator. Entries are set at load. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, AEGIS_NAME_ADDRESSES);
    __type(key, struct aegis_name_address);
    __type(value, struct aegis_name_slots);
} aegis_names SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, AEGIS_POLICY_SLOTS);
    __type(key, __u32);
    __type(value, struct aegis_name_root);
} aegis_name_roots SEC(".maps");

/* Where the automata begin that are asked under the policy of `state`, a struct aegis_name_root as one word;
 * 0: the policy names no name. */
static __always_inline __u64 aegis_names_roots(__u64 state)
{
    __u32 slot = state & (AEGIS_POLICY_SLOTS - 1);
    const struct aegis_name_root *root = bpf_map_lookup_elem(&aegis_name_roots, &slot);

    return state && root ? *(const volatile __u64 *)root : 0;
}

/* The second of CLOCK_BOOTTIME, as the slots count. */
static __always_inline __u32 aegis_names_now(void)
{
    return bpf_ktime_get_boot_ns() / 1000000000;
}

/* The classes that a peer (address as two host order halves, IPv4 mapped) stands for now, 16 bits each, as
 * aegis_policy_lookup takes them; 0: none. */
static __always_inline __u64 aegis_names_of(__u64 addr_hi, __u64 addr_lo)
{
    __u64 halves[2] = {bpf_cpu_to_be64(addr_hi), bpf_cpu_to_be64(addr_lo)};
    const struct aegis_name_slots *found = bpf_map_lookup_elem(&aegis_names, halves);
    __u64 names = 0, word;
    __u32 now;

    if (!found)
        return 0;
    now = aegis_names_now();
    for (int slot = 0; slot < AEGIS_NAME_SLOTS; slot++) {
        word = *(const volatile __u64 *)&found->slots[slot];
        if (word != AEGIS_NAME_DEAD && (__u32)word > now)
            names = names << 16 | (word >> AEGIS_NAME_CLASS_SHIFT & 0xffff);
    }
    return names;
}

/* The same under the policy of `state`: at once 0 where it names no name. A function, so that its stack is
 * not its caller's. */
__noinline __u64 aegis_names_under(__u64 state, __u64 addr_hi, __u64 addr_lo)
{
    return aegis_names_roots(state) ? aegis_names_of(addr_hi, addr_lo) : 0;
}

#endif
