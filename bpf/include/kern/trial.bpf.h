/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which policy is in force: that of the state word, or the one before it when a trial has ended. */
#ifndef AEGIS_KERN_TRIAL_BPF_H
#define AEGIS_KERN_TRIAL_BPF_H

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, AEGIS_POLICY_SLOTS);
    __type(key, __u32);
    __type(value, struct aegis_policy_slot);
} aegis_policy_slots SEC(".maps");

/* What a state word with the trial bit means now. */
__noinline __u64 aegis_policy_tried(__u64 state)
{
    __u32 number = state & (AEGIS_POLICY_SLOTS - 1);
    const struct aegis_policy_slot *slot = bpf_map_lookup_elem(&aegis_policy_slots, &number);

    if (!slot || bpf_ktime_get_boot_ns() < slot->deadline_ns)
        return state;
    return slot->previous;
}

/* The state word to judge by. No clock is read unless a policy is on trial. */
static __always_inline __u64 aegis_in_force(const struct aegis_control *control)
{
    __u64 state = *(const volatile __u64 *)&control->state;

    return unlikely(state & AEGIS_STATE_TRIAL) ? aegis_policy_tried(state) : state;
}

#endif
