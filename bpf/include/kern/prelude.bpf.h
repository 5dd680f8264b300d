/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What every program starts with: the kernel's user-facing types, its own structs, libbpf's macros, the
 * shared ABI. */
#ifndef AEGIS_KERN_PRELUDE_BPF_H
#define AEGIS_KERN_PRELUDE_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "kern/vmlinux.bpf.h"
#include "aegis/abi.h"

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Set before load by user space. */
const volatile struct aegis_constants aegis_constants SEC(".rodata.aegis") = {
    .image_bytes = AEGIS_IMAGE_SMALL, .rules = AEGIS_IMAGE_SMALL / 64};

#endif
