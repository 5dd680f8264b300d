"""The flow table: harvested, expired and summed without losing a byte, and the owners its entries name.

Entries are changed and deleted inside BPF programs only; user space sets the epoch (CLOCK_BOOTTIME in seconds) that
packets write into their entries instead of reading a clock.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from aegis._native import _system
from aegis.errors import MapAccessFailed
from aegis.kernel import abi
from aegis.kernel.links import run_iter
from aegis.kernel.maps import Map, possible_cpus
from aegis.kernel.object import BpfObject

_SWEEPS: Final = abi.enum("aegis_sweep_kind")
_LIMITS: Final = abi.enum("aegis_sweep_limits")
_IDLE: Final = abi.enum("aegis_idle_class")
_LABELS: Final = abi.enum("aegis_owner_label")
ROW_BYTES: Final = abi.struct("aegis_flow_row").size
ROWS_A_SWEEP: Final = _LIMITS["AEGIS_SWEEP_ROWS"]
KEYS_A_SWEEP: Final = _LIMITS["AEGIS_SWEEP_MAX_KEYS"]
LABEL_SHIFT: Final = 22  # an owner id is (start_ns >> 10) << 22 | tgid, or a label << 22
LARGEST_PACKET: Final = (
    1 << 19
)  # bytes of the largest GSO super-packet Linux builds (GSO_MAX_SIZE), rounded up


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleRules:
    """Seconds without a packet after which a flow is over. Established: packets both ways."""

    tcp_established: int = 21_600
    tcp_opening: int = 120
    tcp_ended: int = 10
    datagram_established: int = 120
    datagram_new: int = 60

    def hurried(self) -> IdleRules:
        """For a table that is nearly full: flows that never answered or are over go ten times sooner."""
        return replace(
            self,
            tcp_opening=self.tcp_opening // 10,
            tcp_ended=self.tcp_ended // 10,
            datagram_new=self.datagram_new // 10,
        )

    def seconds(self) -> list[int]:
        """By `enum aegis_idle_class`."""
        limits = [0] * _IDLE["AEGIS_IDLE_CLASSES"]
        for name in self.__dataclass_fields__:
            limits[_IDLE[f"AEGIS_IDLE_{name.upper()}"]] = getattr(self, name)
        return limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Packets and bytes (with link header, as the interface counts) by direction, seen from this host."""

    egress_packets: int = 0
    ingress_packets: int = 0
    egress_bytes: int = 0
    ingress_bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The terms of the identity, since the tables were made:

    seen = live + reaped + table_full + retired + not_ip + truncated + bad_header + extensions + looped

    to the unit, in packets and bytes of each direction. `seen` was read before the other terms and `seen_after`
    behind them; without packets meanwhile both are equal and the identity is exact, else the sum lies between them
    (but for at most one packet a CPU that was seen and not yet placed).
    """

    seen: Count
    live: Count
    reaped: Count
    table_full: Count
    retired: Count
    not_ip: Count
    truncated: Count
    bad_header: Count
    extensions: Count
    looped: Count  # copies of own broadcasts and multicasts, which the interface does not count: without link header
    seen_after: Count
    denied: Count  # dropped by a verdict; counted in flows (or table_full, retired) too
    audited: Count  # would have been dropped; likewise
    refused_dropped: Count  # of truncated, bad_header and extensions: dropped because a policy enforces

    def placed(self) -> Count:
        """The right side of the identity."""
        return (
            self.live
            + self.reaped
            + self.table_full
            + self.retired
            + self.not_ip
            + self.truncated
            + self.bad_header
            + self.extensions
            + self.looped
        )

    def balanced(self) -> bool:
        """Whether no packet and no byte is missing or counted twice, as far as this reading can tell."""
        placed = self.placed()
        if self.seen == self.seen_after:
            return placed == self.seen
        cpus = possible_cpus()
        slack = {"egress_packets": cpus, "ingress_packets": cpus}
        return all(
            getattr(self.seen, name) - slack.get(name, cpus * LARGEST_PACKET)
            <= getattr(placed, name)
            <= getattr(self.seen_after, name)
            for name in Count.__dataclass_fields__
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketOwner:
    """What an owner id says. Only label `process` names a process; the rest of it is None if it was forgotten."""

    label: str  # unknown kernel request forwarded process
    pid: int | None = None
    start_ns: int | None = None  # CLOCK_BOOTTIME
    uid: int | None = None
    cgroup_id: int | None = None
    comm: bytes | None = None


class FlowReader:
    """Reader of a loaded core object's flow table. One at a time: two would take each other's changes.

    `boottime_ns` is CLOCK_BOOTTIME. All methods raise MapAccessFailed.
    """

    def __init__(self, core: BpfObject, boottime_ns: Callable[[], int]) -> None:
        ffi = _system.ffi
        self._boottime_ns = boottime_ns
        self._program = core.program("syscall_flow_sweep")
        self._core = core
        self._flows = core.map("aegis_flows")
        self._totals = core.map("aegis_packet_totals")
        self._losses = core.map("aegis_table_losses")
        self._owners = core.map("aegis_owners")
        self._rows = core.map("aegis_flow_rows").mmap(writable=False)
        self._keys = core.map("aegis_flow_keys").mmap(writable=True)
        self._control = core.map("aegis_control").mmap(writable=True)
        self._control_bytes = ffi.from_buffer(self._control)
        self._epoch = self._control_bytes + abi.struct("aegis_control").offsets["epoch"]
        # While no agent ran nobody set the epoch, so packets until now carry the last one.
        self._stale: int = _system.lib.aegis_load32(self._epoch)
        self._seen: Count | None = None
        self._few = True
        self._can_wait = False  # known that `wait` works
        self._floor = self.advance()

    def advance(self) -> int:
        """Set the epoch to now, in seconds; each harvest does."""
        epoch = self._boottime_ns() // 1_000_000_000
        _system.lib.aegis_store32(self._epoch, epoch)
        return epoch

    def harvest(self) -> bytes:
        """`struct aegis_flow_row` of each flow with packets since it was last told, each exactly once.

        The first harvest of a reader may leave out flows that an earlier process was told; `everything` has them.
        """
        self.advance()
        seen = self._total("SEEN")
        if seen == self._seen:  # no packet at all: not worth a walk
            return b""
        self._seen = seen
        # The batch call passes empty buckets ten times faster than a walk inside a program (0.1 ms against 1 ms
        # for 65,536), but full ones slower: it finds the keys while there are few.
        if self._few:
            keys, count = self._few_keys()
            if count <= KEYS_A_SWEEP:
                self._keys[: len(keys)] = keys
                return self._rows_of(self._run("KEYS", keys=count))
        return self._sweep_rows("HARVEST", resume=True)

    def everything(self) -> bytes:
        """Rows of all flows, changed or not, without counting as told."""
        key, value = self._flows.key_size, self._flows.value_size
        return b"".join(
            piece
            for keys, values, count in self._flows.batches()
            for index in range(count)
            for piece in (keys[index * key : (index + 1) * key], values[index * value : (index + 1) * value])
        )

    def reap(self, rules: IdleRules | None = None) -> bytes:
        """Delete idle flows; their final rows. Blocks for an RCU grace period (about 10 ms) if there are any.

        `retire`, `wait` and `collect` are its steps, for a caller that must not block.
        """
        if not self.retire(rules):
            return b""
        self.wait()
        return self.collect()

    def retire(self, rules: IdleRules | None = None) -> int:
        """Mark idle flows: from now on packets that meet them count as `retired`. How many are marked.

        While more than three quarters of the table are taken, `IdleRules.hurried` holds. Marks none where `wait` cannot
        work: a marked entry that is never collected would never end.
        """
        if not self._can_wait:
            _probe_grace_period()
            self._can_wait = True
        rules = rules or IdleRules()
        done = self._retire(rules)
        if 4 * (done.walked - done.marked) > 3 * self._flows.max_entries:
            done = self._retire(rules.hurried())
        return int(done.marked)

    def _retire(self, rules: IdleRules) -> Any:
        return self._run(
            "RETIRE", now=self.advance(), stale=self._stale, floor=self._floor, idle=rules.seconds()
        )

    @staticmethod
    def wait() -> None:
        """Until every packet that found an entry before it was marked has counted in it (RCU grace period)."""
        if _membarrier(_system.lib.MEMBARRIER_CMD_GLOBAL):
            with _map_of_maps() as (outer, inner):
                outer.update(bytes(4), inner.fd.to_bytes(4, "little"))

    def collect(self) -> bytes:
        """Add marked flows to `reaped` and delete them; their final rows. Only after `wait`."""
        return self._sweep_rows("REAP", resume=False)

    def totals(self) -> Totals:
        """All terms of the identity; one walk over the table."""
        seen = self._total("SEEN")
        walk = self._run("SUM")
        live = Count(
            egress_packets=walk.packets[abi.EGRESS],
            ingress_packets=walk.packets[abi.INGRESS],
            egress_bytes=walk.bytes[abi.EGRESS],
            ingress_bytes=walk.bytes[abi.INGRESS],
        )
        names = [name for name in Totals.__dataclass_fields__ if name not in ("seen", "live", "seen_after")]
        parts = {name: self._total(name.upper()) for name in names}
        return Totals(seen=seen, live=live, seen_after=self._total("SEEN"), **parts)

    def losses(self) -> dict[str, int]:
        """Failures of tables that are no records: `owner_full` (an owner could not be remembered), `owner_storage`."""
        return {
            name.removeprefix("AEGIS_LOSS_").lower(): self._losses.sum_u64(number.to_bytes(4, "little"))[0]
            for name, number in abi.enum("aegis_table_loss").items()
            if name != "AEGIS_LOSSES"
        }

    def live(self) -> int:
        """Entries in the table."""
        return int(self._run("SUM").walked)

    def backfill(self) -> None:
        """Label the sockets that are older than the owner hook; call once after it is attached."""
        run_iter(self._core.program("iter_task_file_owner"))

    def owner(self, owner_id: int) -> SocketOwner:
        """What an owner id of a flow or socket stands for."""
        pid = owner_id & ((1 << LABEL_SHIFT) - 1)
        if not pid:
            names = {number: name.removeprefix("AEGIS_OWNER_").lower() for name, number in _LABELS.items()}
            return SocketOwner(label=names.get(owner_id >> LABEL_SHIFT, "unknown"))
        value = self._owners.lookup(owner_id.to_bytes(8, "little"))
        if value is None:
            return SocketOwner(label="process", pid=pid)
        return _socket_owner(value)

    def forget_owners(self, is_alive: Callable[[SocketOwner], bool], kept: Collection[int] = ()) -> int:
        """Delete owners whose process is gone and that neither a live flow nor `kept` uses. How many.

        Costs a walk over both tables; meant for once a minute and for a full table.
        """
        gone = [
            int.from_bytes(key, "little")
            for key, value in self._owners.items_batch()
            if not is_alive(_socket_owner(value))
        ]
        if not gone:
            return 0
        words = self._flows.value_size // 8
        at = abi.struct("aegis_flow_value").offsets["owner"] // 8
        used = set(kept)
        for _, values, _count in self._flows.batches():
            used.update(values.cast("Q")[at::words])
        return sum(self._owners.delete(each.to_bytes(8, "little")) for each in gone if each not in used)

    def close(self) -> None:
        """Let go of the shared memory. The tables stay."""
        _system.ffi.release(self._control_bytes)
        self._rows.close()
        self._keys.close()
        self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, kind: str, **fields: Any) -> Any:
        context = abi.pack("aegis_sweep", kind=_SWEEPS[f"AEGIS_SWEEP_{kind}"], **fields)
        result = self._program.run(ctx=context)
        if result.retval:
            raise MapAccessFailed("walk", self._flows.name, errno.EIO, detail=f"{kind}: {result.retval}")
        return abi.unpack("aegis_sweep", result.ctx_out)[0]

    def _sweep_rows(self, kind: str, *, resume: bool) -> bytes:
        rows = []
        skip = 0
        while True:
            done = self._run(kind, skip=skip)
            rows.append(self._rows_of(done))
            if done.rows < ROWS_A_SWEEP:
                self._few = done.walked <= KEYS_A_SWEEP // 2
                return b"".join(rows)
            skip = done.walked if resume else 0

    def _rows_of(self, done: Any) -> bytes:
        return self._rows[: done.rows * ROW_BYTES]

    def _few_keys(self) -> tuple[bytes, int]:
        """Keys of all entries when they fit one sweep, and how many; else more than that."""
        found = b""
        total = 0
        for keys, _, count in self._flows.batches(KEYS_A_SWEEP):
            total += count
            if total > KEYS_A_SWEEP:
                break
            found += keys
        return found, total

    def _total(self, name: str) -> Count:
        words = self._totals.sum_u64(
            abi.enum("aegis_packet_total")[f"AEGIS_TOTAL_{name}"].to_bytes(4, "little")
        )
        return Count(
            egress_packets=words[abi.EGRESS],
            ingress_packets=words[abi.INGRESS],
            egress_bytes=words[2 + abi.EGRESS],
            ingress_bytes=words[2 + abi.INGRESS],
        )


def _membarrier(command: int) -> int:
    return int(_system.lib.aegis_membarrier(command, 0))


@contextlib.contextmanager
def _map_of_maps() -> Iterator[tuple[Map, Map]]:
    """A map of one map, and a map for it. The system call that puts it in returns after a grace period.

    For hosts whose membarrier has no such command: those with nohz_full, and those that filter the call.
    """
    inner = Map.create("ARRAY", "aegis_grace", key_size=4, value_size=4, max_entries=1)
    with contextlib.closing(inner):
        outer = Map.create(
            "ARRAY_OF_MAPS", "aegis_graces", key_size=4, value_size=4, max_entries=1, inner=inner
        )
        with contextlib.closing(outer):
            yield outer, inner


def _probe_grace_period() -> None:
    """Raises MapAccessFailed where nothing that waits for a grace period is to be had."""
    commands = _membarrier(_system.lib.MEMBARRIER_CMD_QUERY)
    if commands < 0 or not commands & _system.lib.MEMBARRIER_CMD_GLOBAL:
        with _map_of_maps():
            pass


def _socket_owner(value: bytes) -> SocketOwner:
    entry = abi.unpack("aegis_owner", value)[0]
    return SocketOwner(
        label="process",
        pid=entry.tgid,
        start_ns=entry.start_ns,
        uid=entry.uid,
        cgroup_id=entry.cgroup_id,
        comm=bytes(entry.comm).split(b"\0", 1)[0],
    )
