# Batches of records and their decoding. A tuple's fields, by its kind (the first field of all):
#
# EXEC      kind ktime_ns cpu pid start_ns uid gid ppid cgroup_id inode device comm path flags args args_total
#           ancestors ((pid, start_ns, uid), ...) nearest first, cwd
# EXIT      kind ktime_ns cpu pid start_ns uid cgroup_id ppid code signal comm
# FORK      kind ktime_ns cpu pid start_ns uid parent_pid parent_start_ns cgroup_id comm
# CONNECT, ACCEPT, LISTEN
#           kind ktime_ns cpu pid start_ns uid cgroup_id cookie src dst src_port dst_port protocol owner_label
#           comm error
# VERDICT   kind ktime_ns cpu local remote local_port remote_port ifindex protocol fragment owner generation
#           cookie suppressed rule verdict initiator
# CGROUP    kind ktime_ns cpu cgroup_id path
# SYNTHETIC kind ktime_ns cpu key value
#
# Numbers are int. Names, paths and arguments are bytes without a closing NUL (args keeps the NUL after each
# argument); flags are PATH_TRUNCATED | CWD_TRUNCATED | EXE_DELETED. Addresses are 16 bytes in network order.
# ktime_ns and start_ns are of CLOCK_BOOTTIME.

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from typing_extensions import Buffer

Record: TypeAlias = tuple[Any, ...]

EXEC: Final[int]
EXIT: Final[int]
FORK: Final[int]
CONNECT: Final[int]
ACCEPT: Final[int]
LISTEN: Final[int]
VERDICT: Final[int]
CGROUP: Final[int]
SYNTHETIC: Final[int]
KINDS: Final[int]
PATH_TRUNCATED: Final[int]
CWD_TRUNCATED: Final[int]
EXE_DELETED: Final[int]

class RecordBatch:
    @property
    def unknown(self) -> int: ...  # records left out: of no kind this build knows
    @property
    def malformed(self) -> int: ...  # records left out: their sizes contradict each other
    @staticmethod
    def from_bytes(data: Buffer) -> RecordBatch: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def kinds(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...
    def kind_bits(self) -> int: ...

def decode(batch: RecordBatch, kinds: Iterable[int] | None = None) -> list[Record]: ...
