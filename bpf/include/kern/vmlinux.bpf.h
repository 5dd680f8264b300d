/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The kernel's own structs, hand-kept: only fields Aegis reads. Names and types are the kernel's; offsets are
 * relocated at load. A suffix ___name marks another shape of the same struct in older kernels. */
#ifndef AEGIS_KERN_VMLINUX_BPF_H
#define AEGIS_KERN_VMLINUX_BPF_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
    __u32 val;
} kuid_t;

typedef struct {
    __u32 val;
} kgid_t;

struct cred {
    kuid_t uid;
    kgid_t gid;
};

struct kernfs_node {
    __u64 id;
};

struct cgroup_root {
    int hierarchy_id;
};

struct cgroup {
    struct kernfs_node *kn;
    struct cgroup_root *root;
};

struct css_set {
    struct cgroup *dfl_cgrp;
};

struct qstr {
    union {
        struct {
            __u32 hash;
            __u32 len;
        };
        __u64 hash_len;
    };
    const unsigned char *name;
};

struct super_block {
    __u32 s_dev;
};

struct inode {
    unsigned int i_nlink;
    unsigned long i_ino;
    struct super_block *i_sb;
};

struct dentry {
    struct dentry *d_parent;
    struct qstr d_name;
};

struct vfsmount {
    struct dentry *mnt_root;
};

struct mount {
    struct mount *mnt_parent;
    struct dentry *mnt_mountpoint;
    struct vfsmount mnt;
};

struct path {
    struct vfsmount *mnt;
    struct dentry *dentry;
};

struct file {
    struct path f_path;
    struct inode *f_inode;
};

struct fs_struct {
    struct path pwd;
};

struct mm_struct {
    unsigned long arg_start;
    unsigned long arg_end;
    struct file *exe_file;
};

typedef struct {
    int counter;
} atomic_t;

struct signal_struct {
    unsigned int flags;
    int group_exit_code;
    atomic_t live;
};

struct fdtable {
    unsigned int max_fds;
    struct file **fd;
};

struct files_struct {
    struct fdtable *fdt;
    unsigned int next_fd;
};

/* x86. */
struct pt_regs___kernel {
    unsigned long orig_ax;
    unsigned long ss;
};

struct task_struct {
    void *stack;
    unsigned int flags;
    int softirq_disable_cnt; /* PREEMPT_RT */
    int pid;
    int tgid;
    int exit_code;
    __u64 start_boottime;
    struct task_struct *group_leader;
    struct task_struct *real_parent;
    const struct cred *cred;
    struct css_set *cgroups;
    struct mm_struct *mm;
    struct fs_struct *fs;
    struct files_struct *files;
    struct signal_struct *signal;
    char comm[16];
};

/* Before 5.5. */
struct task_struct___real_start_time {
    __u64 real_start_time;
};

struct linux_binprm;

/* The event carries group_dead, and so does the tracepoint, from 6.16. */
struct trace_event_raw_sched_process_exit {
    bool group_dead;
};

struct in6_addr {
    __u8 bytes[16];
};

struct sock_common {
    __u32 skc_daddr;
    __u32 skc_rcv_saddr;
    __u16 skc_dport; /* network order */
    __u16 skc_num;   /* host order */
    __u16 skc_family;
    struct in6_addr skc_v6_daddr;
    struct in6_addr skc_v6_rcv_saddr;
};

typedef struct {
    int owned;
} socket_lock_t;

struct socket;

struct sock {
    struct sock_common __sk_common;
    socket_lock_t sk_lock;
    struct socket *sk_socket;
    __u8 sk_kern_sock : 1;
    __u16 sk_protocol;
    int sk_err;
};

struct inet_sock {
    struct sock sk;
    __u16 inet_sport; /* network order */
};

struct socket {
    struct file *file;
    struct sock *sk;
};

struct bpf_iter_meta {
    __u64 session_id;
    __u64 seq_num;
};

struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    __u32 fd;
    struct file *file;
};

#pragma clang attribute pop

#endif
