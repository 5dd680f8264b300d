/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who sends: a socket may be inherited, accepted by a child, or passed, and no hook tells of any of these. So
 * a packet on its way out is asked in whose system call it leaves, and its socket is labelled again when that
 * is another process than its label says. Included by core.bpf.c.
 *
 * Most contexts are not the sender's: a softirq runs on top of whatever process it meets (answers, what is
 * sent again, what waited for a neighbour's address), a kernel thread does somebody's work, and a process may
 * itself deliver what others then answer (a write to a TUN device, busy polling) or let go what waited (a
 * neighbour entered by hand). So the process must be in a system call, have the socket among its open
 * descriptors and, where it is TCP's, somebody must hold its lock, which no delivery does.
 *
 * All of it is behind a load-time constant: older kernels do not take it. */

enum {
    AEGIS_STACK_BYTES = 16384,
    AEGIS_USER_SS = 0x2b
};
enum aegis_descriptor_limits {
    AEGIS_DESCRIPTORS_A_STEP = 8, /* on the stack, of which there is little left at this depth */
    AEGIS_DESCRIPTOR_STEPS = 128  /* 1,024 descriptors each: below the lowest free one, and the first */
};

struct aegis_descriptors {
    __u64 table; /* address of the first pointer */
    __u64 file;  /* looked for */
    __u64 first; /* number of the one to begin with; those at the start of the table come after */
    __u32 count;
    __u32 found;
};

/* Whether this runs on the own stack of a process. Softirqs and interrupts have a stack of theirs, unless
 * they came while the process was not in the kernel. */
static __always_inline bool aegis_on_its_stack(struct task_struct *task)
{
    __u64 here = 0;

    if (task->flags & AEGIS_PF_KTHREAD || bpf_core_field_exists(task->softirq_disable_cnt))
        return false; /* the second: PREEMPT_RT, where a softirq may be on any stack */
    /* Of two pointers the difference is a number, and of one of them the number is known. */
    asm volatile("%[here] = r10; %[here] -= %[task]" : [here] "+r"(here) : [task] "r"(task));
    return here + bpf_get_current_task() - (__u64)task->stack < AEGIS_STACK_BYTES;
}

/* Whether this runs in a system call of the current process: on its stack, at whose far end are the registers
 * of a call. */
static __always_inline bool aegis_in_call(struct task_struct *task)
{
    if (!aegis_on_its_stack(task))
        return false;
#ifdef __TARGET_ARCH_x86
    {
        __u64 registers = (__u64)task->stack + AEGIS_STACK_BYTES;
        __u64 ss, call;

        registers -= bpf_core_type_size(struct pt_regs___kernel);
        bpf_probe_read_kernel(&ss, sizeof(ss),
                              (void *)registers + bpf_core_field_offset(struct pt_regs___kernel, ss));
        if ((__u16)ss != AEGIS_USER_SS) {
            registers -= 16; /* room of FRED */
            bpf_probe_read_kernel(&ss, sizeof(ss),
                                  (void *)registers + bpf_core_field_offset(struct pt_regs___kernel, ss));
            if ((__u16)ss != AEGIS_USER_SS)
                return false;
        }
        bpf_probe_read_kernel(&call, sizeof(call),
                              (void *)registers + bpf_core_field_offset(struct pt_regs___kernel, orig_ax));
        return (__s64)call >= 0; /* an interrupt has -1 */
    }
#else
    return true;
#endif
}

static long aegis_find_descriptor(__u64 step, struct aegis_descriptors *walk)
{
    __u64 files[AEGIS_DESCRIPTORS_A_STEP];
    __u64 at = step * AEGIS_DESCRIPTORS_A_STEP;

    at += step < AEGIS_DESCRIPTOR_STEPS ? walk->first : -AEGIS_DESCRIPTORS_A_STEP * AEGIS_DESCRIPTOR_STEPS;
    if (at >= walk->count || bpf_probe_read_kernel(files, sizeof(files), (void *)walk->table + at * 8))
        return 1;
    for (int each = 0; each < AEGIS_DESCRIPTORS_A_STEP; each++)
        if (files[each] == walk->file) {
            walk->found = 1;
            return 1;
        }
    return 0;
}

/* Whether the current process has the socket open, and does more with it than deliver. */
static __always_inline bool aegis_has_open(struct task_struct *task, struct bpf_sock *sk)
{
    struct bpf_sock *volatile known = sk;
    struct aegis_descriptors walk = {};
    struct files_struct *files;
    struct fdtable *fdt;
    __u64 address, last;
    int owned = 1;

    /* To the verifier this is no address but a socket of a few fields, and those read are not among them. */
    if (bpf_probe_read_kernel(&address, sizeof(address), (void *)&known))
        return false;
    if (sk->type == AEGIS_SOCK_STREAM)
        bpf_probe_read_kernel(&owned, sizeof(owned),
                              (void *)address + bpf_core_field_offset(struct sock, sk_lock.owned));
    if (!owned ||
        bpf_probe_read_kernel(&address, sizeof(address),
                              (void *)address + bpf_core_field_offset(struct sock, sk_socket)) ||
        !address ||
        bpf_probe_read_kernel(&walk.file, sizeof(walk.file),
                              (void *)address + bpf_core_field_offset(struct socket, file)) ||
        !walk.file)
        return false;
    files = BPF_CORE_READ(task, files); /* typed pointers cost the verifier a millisecond each */
    if (!files)
        return false;
    fdt = BPF_CORE_READ(files, fdt);
    last = BPF_CORE_READ(files, next_fd);
    if (last > AEGIS_DESCRIPTORS_A_STEP * AEGIS_DESCRIPTOR_STEPS)
        walk.first = last - AEGIS_DESCRIPTORS_A_STEP * AEGIS_DESCRIPTOR_STEPS;
    walk.table = (__u64)BPF_CORE_READ(fdt, fd);
    walk.count = BPF_CORE_READ(fdt, max_fds);
    bpf_loop(AEGIS_DESCRIPTOR_STEPS << !!walk.first, aegis_find_descriptor, &walk, 0);
    return walk.found;
}

/* Owner of a packet on its way out: of the socket that sent it, labelled again, owner and subject, where
 * another process is the one that sends. */
__noinline __u64 aegis_owner_of_sent(struct __sk_buff *skb)
{
    struct bpf_sock *sk = skb->sk;
    struct task_struct *task;
    __u64 *label;

    if (!sk)
        return AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_FORWARDED);
    sk = bpf_sk_fullsock(sk);
    if (!sk)
        return AEGIS_OWNER_OF_LABEL(AEGIS_OWNER_REQUEST);
    label = bpf_sk_storage_get(&aegis_sk_owner, sk, NULL, 0);
    if (!label)
        return aegis_owner_without_label(sk);
    if (!aegis_constants.senders || !(*label & AEGIS_OWNER_TGID))
        return *label;
    task = bpf_get_current_task_btf();
    if (*label != aegis_owner_id(task) && aegis_in_call(task) && aegis_has_open(task, sk)) {
        *label = aegis_owner_of_task(task);
        aegis_subject_used(sk, task);
    }
    return *label;
}

/* Whether another process than a flow's owner is current. */
static __always_inline bool aegis_other_runs(__u64 owner)
{
    return (bpf_get_current_pid_tgid() >> 32 ^ owner) & AEGIS_OWNER_TGID;
}
