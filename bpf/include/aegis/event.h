/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Records of the ring. Every record starts with struct aegis_header; size counts the whole record in bytes.
 */
#ifndef AEGIS_EVENT_H
#define AEGIS_EVENT_H

enum aegis_kind {
    AEGIS_KIND_NONE = 0,
    AEGIS_KIND_EXEC = 1,
    AEGIS_KIND_EXIT = 2,
    AEGIS_KIND_FORK = 3,
    AEGIS_KIND_CONNECT = 4,
    AEGIS_KIND_ACCEPT = 5,
    AEGIS_KIND_LISTEN = 6,
    AEGIS_KIND_VERDICT = 7,
    AEGIS_KIND_CGROUP = 8,
    AEGIS_KIND_SYNTHETIC = 9, /* tests and benchmarks only */
    AEGIS_KINDS = 16
};

struct aegis_header {
    __u64 ktime_ns; /* CLOCK_BOOTTIME */
    __u32 size;
    __u16 kind;
    __u16 cpu;
};
AEGIS_ASSERT_SIZE(struct aegis_header, 16)

/* A process is (pid, start): the thread group id and the group leader's start on CLOCK_BOOTTIME. */
struct aegis_process {
    __u64 start_ns;
    __u32 pid;
    __u32 uid;
};
AEGIS_ASSERT_SIZE(struct aegis_process, 16)

enum aegis_exec_flags {
    AEGIS_PATH_TRUNCATED = 1,
    AEGIS_CWD_TRUNCATED = 2,
    AEGIS_EXE_DELETED = 4 /* no name in any directory: unlinked, or a memfd */
};

/* Followed by path_bytes of the executable's path (no NUL), then args_bytes of the argument block
 * (each argument ends in NUL; cut when args_total > args_bytes), then cwd_bytes of the working directory (no
 * NUL). */
struct aegis_exec {
    struct aegis_header header;
    struct aegis_process process;
    __u64 cgroup_id;
    __u64 inode;
    __u32 device;
    __u32 gid;
    __u32 parent_pid;
    __u32 args_total; /* bytes of the whole argument block */
    __u16 args_bytes;
    __u16 path_bytes;
    __u16 cwd_bytes;
    __u8 ancestor_count;
    __u8 flags; /* enum aegis_exec_flags */
    __u8 comm[16];
    struct aegis_process ancestors[8]; /* nearest first; uid is of the ancestor */
};
AEGIS_ASSERT_SIZE(struct aegis_exec, 216)

struct aegis_exit {
    struct aegis_header header;
    struct aegis_process process;
    __u64 cgroup_id;
    __u32 parent_pid;
    __u32 code;   /* as wait(2) gives it: exit status */
    __u32 signal; /* the signal that ended it, or 0 */
    __u32 pad0;
    __u8 comm[16];
};
AEGIS_ASSERT_SIZE(struct aegis_exit, 72)

struct aegis_fork {
    struct aegis_header header;
    struct aegis_process process; /* the child */
    struct aegis_process parent;
    __u64 cgroup_id;
    __u8 comm[16];
};
AEGIS_ASSERT_SIZE(struct aegis_fork, 72)

/* connect, accept, listen. Source is the end that began: this host at connect and listen, the peer at accept.
 * Addresses in network order, IPv4 mapped; ports in host order. */
struct aegis_socket {
    struct aegis_header header;
    struct aegis_process process;
    __u64 cgroup_id;
    __u64 cookie;
    __u8 source[16];
    __u8 destination[16];
    __u16 source_port;
    __u16 destination_port;
    __u8 protocol;
    __u8 owner_label; /* enum aegis_owner_label: what process means */
    __u16 error;      /* of a connect: 0 established, an errno, or ECANCELED when its process gave it up */
    __u8 comm[16];
};
AEGIS_ASSERT_SIZE(struct aegis_socket, 104)

/* A cgroup was made. path_bytes of its path from the hierarchy's root follow (no NUL), at most
 * AEGIS_CGROUP_PATH_BYTES - 1: the kernel's own buffer is no longer. */
struct aegis_cgroup {
    struct aegis_header header;
    __u64 cgroup_id;
    __u32 path_bytes;
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_cgroup, 32)

/* 64 bytes, shaped for the ring benchmark and the loss tests. */
struct aegis_synthetic {
    struct aegis_header header;
    __u64 key;
    __u64 value;
    __u64 filler[4];
};
AEGIS_ASSERT_SIZE(struct aegis_synthetic, 64)

#endif
