/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* For tests: the end of a process as kernels before 6.16 let it be seen. */
#include "kern/prelude.bpf.h"
#include "kern/maps.bpf.h"
#include "kern/emit.bpf.h"
#include "kern/task.bpf.h"

#include "process.bpf.c"

SEC("tp_btf/sched_process_exit")
int probe_exit_before_group_dead(__u64 *context)
{
    struct task_struct *task = (struct task_struct *)context[0];

    return aegis_first_to_find_none(task) ? aegis_process_exit(task) : 0;
}

char LICENSE[] SEC("license")
= "Dual BSD/GPL";
