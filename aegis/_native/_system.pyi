# System calls Python 3.11 does not offer. A result of -1 leaves its reason in `ffi.errno`.

from typing import Any, TypeAlias

CData: TypeAlias = Any

class Library:
    CLONE_NEWNS: int
    CLONE_NEWNET: int
    CLONE_NEWCGROUP: int
    CLONE_NEWPID: int
    CLONE_NEWUTS: int
    CLONE_NEWIPC: int
    CLONE_NEWUSER: int
    MS_REC: int
    MS_PRIVATE: int
    MS_SLAVE: int
    MS_BIND: int
    MS_RDONLY: int
    MS_REMOUNT: int
    MS_NOSUID: int
    MS_NODEV: int
    MS_NOEXEC: int
    MNT_DETACH: int
    MEMBARRIER_CMD_QUERY: int
    MEMBARRIER_CMD_GLOBAL: int
    PR_SET_PDEATHSIG: int
    PR_SET_NAME: int
    PR_SET_DUMPABLE: int
    PR_SET_KEEPCAPS: int
    PR_SET_NO_NEW_PRIVS: int
    PR_CAPBSET_DROP: int
    PR_CAP_AMBIENT: int
    PR_CAP_AMBIENT_RAISE: int
    CAP_NET_ADMIN: int
    CAP_SYS_ADMIN: int
    CAP_PERFMON: int
    CAP_BPF: int
    BPF_FS_MAGIC: int
    CGROUP2_SUPER_MAGIC: int
    def setns(self, fd: int, nstype: int, /) -> int: ...
    def unshare(self, flags: int, /) -> int: ...
    def mount(
        self, source: CData, target: CData, filesystemtype: CData, flags: int, data: CData, /
    ) -> int: ...
    def umount2(self, target: CData, flags: int, /) -> int: ...
    def prctl(self, option: int, /, *arguments: CData) -> int: ...
    def aegis_filesystem(self, path: CData, /) -> int: ...
    def aegis_membarrier(self, command: int, flags: int, /) -> int: ...
    def aegis_capget(self, sets: CData, /) -> int: ...
    def aegis_capset(self, sets: CData, /) -> int: ...
    def aegis_load64(self, address: CData, /) -> int: ...
    def aegis_store64(self, address: CData, value: int, /) -> None: ...
    def aegis_load32(self, address: CData, /) -> int: ...
    def aegis_store32(self, address: CData, value: int, /) -> None: ...

ffi: Any
lib: Library
