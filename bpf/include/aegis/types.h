/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Fixed-width integers for three readers: BPF programs, the C compiler of the extensions, cffi's cdef.
 * This is the only conditional in the shared headers. */
#ifndef AEGIS_TYPES_H
#define AEGIS_TYPES_H

#if defined(AEGIS_CDEF)
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
#define AEGIS_ASSERT_SIZE(type, bytes)
#else
#if !defined(__bpf__) /* BPF programs get the kernel's types from kern/vmlinux.bpf.h */
#include <linux/types.h>
#endif
#define AEGIS_ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has " #bytes " bytes");
#endif

#endif
