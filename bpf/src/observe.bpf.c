/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The object `observe`: records of processes, sockets and control groups. Not pinned; loaded while somebody
 * listens, it shares the ring, the counters and the owners with `core`. */
#include <linux/errno.h>
#include "kern/prelude.bpf.h"
#include "kern/maps.bpf.h"
#include "kern/emit.bpf.h"
#include "kern/task.bpf.h"

#include "process.bpf.c"
#include "socket.bpf.c"

char LICENSE[] SEC("license")
= "Dual BSD/GPL";
