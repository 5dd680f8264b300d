from typing import Literal, NamedTuple

from typing_extensions import Buffer

class FlowRow(NamedTuple):
    local: bytes  # 16 bytes, network order
    remote: bytes
    local_port: int
    remote_port: int
    ifindex: int
    vlan_outer: int
    vlan_inner: int
    protocol: int
    fragment: int
    packets_egress: int
    packets_ingress: int
    bytes_egress: int
    bytes_ingress: int
    generation: int
    rule: int  # rank + 1, 0: none
    verdict: int
    initiator: int
    epoch: int
    tcp_flags_egress: int
    tcp_flags_ingress: int
    state: int
    marks: int
    owner: int
    cookie: int
    first_ns: int
    dropped_packets: int
    extra_segments: int
    added_packets_egress: int  # by the present harvest; 0 when it did not change
    added_packets_ingress: int
    added_bytes_egress: int
    added_bytes_ingress: int
    reaped: bool  # the kernel has deleted it

class FlowSnapshot:
    def __len__(self) -> int: ...
    def part(self, start: int, length: int) -> list[FlowRow]: ...

class FlowTable:
    @property
    def harvest(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    @property
    def evicted_live(self) -> int: ...
    @property
    def untold(self) -> int: ...  # dropped with something to tell
    def __init__(self, capacity: int) -> None: ...
    def __len__(self) -> int: ...
    def next_harvest(self) -> int: ...
    def ingest(self, rows: Buffer, *, reaped: bool = False) -> int: ...
    def rows(self, *, changed: bool = False) -> list[FlowRow]: ...
    def snapshot(self, last: int | None = None) -> FlowSnapshot: ...
    def owners(self) -> set[int]: ...
    def top(self, n: int, *, by: Literal["bytes", "packets"] = "bytes") -> list[FlowRow]: ...
    def forget(self, harvests: int) -> int: ...
    def totals(self) -> tuple[int, int, int, int]: ...
