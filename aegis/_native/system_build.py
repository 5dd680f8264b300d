"""Builds `aegis._native._system`: the system calls Python 3.11 does not offer, each called without the GIL.

Every function returns what the C function returns; the error number is in `ffi.errno`.
"""

from __future__ import annotations

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    int setns(int fd, int nstype);
    int unshare(int flags);
    int mount(const char *source, const char *target, const char *filesystemtype, unsigned long flags,
              const void *data);
    int umount2(const char *target, int flags);
    int prctl(int option, ...);
    int malloc_trim(size_t pad);

    /* The magic number of the file system that holds `path` (linux/magic.h), or -1. */
    long long aegis_filesystem(const char *path);
    int aegis_membarrier(int command, unsigned int flags);
    /* Effective, permitted and inheritable capabilities of the calling thread as 64-bit sets. */
    int aegis_capget(unsigned long long sets[3]);
    int aegis_capset(const unsigned long long sets[3]);

    /* One aligned word shared with the kernel or another process, read or written whole. */
    unsigned long long aegis_load64(const void *address);
    void aegis_store64(void *address, unsigned long long value);
    unsigned int aegis_load32(const void *address);
    void aegis_store32(void *address, unsigned int value);

    static const int CLONE_NEWNS;
    static const int CLONE_NEWNET;
    static const unsigned long MS_REC;
    static const unsigned long MS_PRIVATE;
    static const unsigned long MS_NOSUID;
    static const unsigned long MS_NODEV;
    static const unsigned long MS_NOEXEC;
    static const int MNT_DETACH;
    static const int MEMBARRIER_CMD_QUERY;
    static const int MEMBARRIER_CMD_GLOBAL;
    static const int PR_SET_PDEATHSIG;
    static const int PR_SET_NAME;
    static const int CAP_NET_ADMIN;
    static const int CAP_SYS_ADMIN;
    static const int CAP_PERFMON;
    static const int CAP_BPF;
    static const long long BPF_FS_MAGIC;
    static const long long CGROUP2_SUPER_MAGIC;
    """
)
ffibuilder.set_source(
    "aegis._native._system",
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <linux/capability.h>
    #include <linux/magic.h>
    #include <linux/membarrier.h>
    #include <sched.h>
    #include <string.h>
    #include <sys/mount.h>
    #include <malloc.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <sys/vfs.h>
    #include <unistd.h>

    static long long aegis_filesystem(const char *path) {
      struct statfs found;
      return statfs(path, &found) ? -1 : (long long)(unsigned int)found.f_type;
    }

    static int aegis_membarrier(int command, unsigned int flags) {
      return (int)syscall(SYS_membarrier, command, flags, 0);
    }

    static int aegis_capget(unsigned long long sets[3]) {
      struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
      struct __user_cap_data_struct data[2];
      if (syscall(SYS_capget, &header, data))
        return -1;
      sets[0] = data[0].effective | (unsigned long long)data[1].effective << 32;
      sets[1] = data[0].permitted | (unsigned long long)data[1].permitted << 32;
      sets[2] = data[0].inheritable | (unsigned long long)data[1].inheritable << 32;
      return 0;
    }

    static int aegis_capset(const unsigned long long sets[3]) {
      struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
      struct __user_cap_data_struct data[2];
      for (int half = 0; half < 2; half++) {
        data[half].effective = (unsigned int)(sets[0] >> 32 * half);
        data[half].permitted = (unsigned int)(sets[1] >> 32 * half);
        data[half].inheritable = (unsigned int)(sets[2] >> 32 * half);
      }
      return (int)syscall(SYS_capset, &header, data);
    }

    static unsigned long long aegis_load64(const void *address) {
      return __atomic_load_n((const unsigned long long *)address, __ATOMIC_SEQ_CST);
    }

    static void aegis_store64(void *address, unsigned long long value) {
      __atomic_store_n((unsigned long long *)address, value, __ATOMIC_SEQ_CST);
    }

    static unsigned int aegis_load32(const void *address) {
      return __atomic_load_n((const unsigned int *)address, __ATOMIC_SEQ_CST);
    }

    static void aegis_store32(void *address, unsigned int value) {
      __atomic_store_n((unsigned int *)address, value, __ATOMIC_SEQ_CST);
    }
    """,
)
