"""Records about processes as the kernel would write them, one at a time or as a story that goes wrong on purpose."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from aegis.kernel import abi
from aegis.model.absent import Absent
from aegis.model.process import Ancestor, Cgroup, Process

START = 7_000_000_000_000
TICK_NS = 10_000_000
WORDS = (
    b"sh",
    b"nginx",
    b"a name of 16 by",
    b"sixteen bytes ab",
    b"\xff\xfe\x80",
    b"x\xc3",
    b"",
    b"\xf0\x9f\x90\xa7",
    b'\n\t"',
)

Identity = tuple[int, int]  # pid, start_ns


def _header(kind: int, name: str, ktime_ns: int, text: int = 0) -> dict[str, int]:
    return {"ktime_ns": ktime_ns, "size": abi.struct(name).size + text, "kind": kind}


def _process(identity: Identity, uid: int = 1000) -> dict[str, int]:
    return {"pid": identity[0], "start_ns": identity[1], "uid": uid}


def exec_record(
    process: Identity,
    *,
    at: int | None = None,
    uid: int = 1000,
    ancestors: Sequence[tuple[int, int, int]] = ((1, 5, 0),),
    path: bytes = b"/bin/program",
    args: bytes = b"program\0",
    args_total: int | None = None,
    cwd: bytes = b"/srv",
    **fields: Any,
) -> bytes:
    text = path + args + cwd
    known = {"cgroup_id": 40, "gid": 100, "parent_pid": 1, "comm": b"program"} | fields
    record = abi.pack(
        "aegis_exec",
        header=_header(abi.KIND_EXEC, "aegis_exec", process[1] + 1000 if at is None else at, len(text)),
        process=_process(process, uid),
        path_bytes=len(path),
        args_bytes=len(args),
        args_total=len(args) if args_total is None else args_total,
        cwd_bytes=len(cwd),
        ancestor_count=len(ancestors),
        ancestors=[_process(each[:2], each[2]) for each in ancestors],
        **known,
    )
    return record + text + bytes(-len(record + text) % 8)


def fork_record(
    process: Identity, parent: Identity, *, at: int | None = None, uid: int = 1000, **fields: Any
) -> bytes:
    known = {"cgroup_id": 40, "comm": b"program"} | fields
    return abi.pack(
        "aegis_fork",
        header=_header(abi.KIND_FORK, "aegis_fork", process[1] if at is None else at),
        process=_process(process, uid),
        parent=_process(parent),
        **known,
    )


def exit_record(process: Identity, *, at: int | None = None, uid: int = 1000, **fields: Any) -> bytes:
    known = {"cgroup_id": 40, "parent_pid": 1, "comm": b"program"} | fields
    return abi.pack(
        "aegis_exit",
        header=_header(abi.KIND_EXIT, "aegis_exit", process[1] + 9000 if at is None else at),
        process=_process(process, uid),
        **known,
    )


def socket_record(
    process: Identity, *, kind: int = abi.KIND_CONNECT, at: int | None = None, uid: int = 1000, **fields: Any
) -> bytes:
    known = {
        "cgroup_id": 40,
        "cookie": 77,
        "source": bytes(range(16)),
        "destination": bytes(range(16, 32)),
        "source_port": 40_000,
        "destination_port": 443,
        "protocol": 6,
        "owner_label": abi.OWNER_PROCESS if process[0] else abi.OWNER_KERNEL,
        "comm": b"program",
    }
    return abi.pack(
        "aegis_socket",
        header=_header(kind, "aegis_socket", process[1] + 5000 if at is None else at),
        process=_process(process, uid),
        **known | fields,
    )


def cgroup_record(identity: int, path: bytes, *, at: int) -> bytes:
    record = abi.pack(
        "aegis_cgroup",
        header=_header(abi.KIND_CGROUP, "aegis_cgroup", at, len(path)),
        cgroup_id=identity,
        path_bytes=len(path),
    )
    return record + path + bytes(-len(record + path) % 8)


def synthetic_record(at: int) -> bytes:
    return abi.pack("aegis_synthetic", header=_header(abi.KIND_SYNTHETIC, "aegis_synthetic", at))


class Hearsay:
    """A host that answers what a process table asks; the same question always the same, but for cgroups just made."""

    def __init__(self) -> None:
        self.groups = {
            identity: Cgroup(
                id=identity,
                path=f"/system.slice/{identity}",
                unit=f"{identity}.service" if identity % 2 else None,
            )
            for identity in range(1, 9)
        }
        self.asked = 0

    def cgroup_of(self, identity: int) -> Cgroup | None:
        self.asked += 1
        return self.groups.get(identity)

    def cgroup_made(self, identity: int, path: bytes) -> Cgroup:
        found = self.groups[identity] = Cgroup(id=identity, path=path.decode(), unit=None)
        return found

    def read(self, pid: int) -> Process | None:
        """Every seventh process runs, and has since one and the same tick."""
        return proc_process(pid, START + pid * 1000) if pid % 7 == 0 else None


def proc_process(pid: int, start_ns: int, **fields: Any) -> Process:
    """A process as /proc tells it: the start to the tick."""
    known: dict[str, Any] = {
        "pid": pid,
        "start_ns": start_ns // TICK_NS * TICK_NS,
        "ppid": 1,
        "uid": 0,
        "gid": 0,
        "comm": b"old",
        "exe": b"/bin/old",
        "args": b"old\0",
        "args_total": 4,
        "cwd": b"/",
        "cgroup": Cgroup(id=3, path="/init.scope", unit="init.scope"),
        "ancestors": (),
    }
    return Process(**(known | fields))


class Story:
    """Records of processes that are born, run, connect and end: mostly as they should, often enough not.

    Records get lost and come twice, parents are unknown, numbers are used again, times go backwards a little.
    """

    def __init__(self, seed: int, *, pids: int = 40) -> None:
        self.chance = random.Random(seed)
        self.pids = pids
        self.now = START
        self.running: list[Identity] = []
        self.gone: list[Identity] = []

    def older(self) -> list[Process]:
        """What /proc shows at the beginning."""
        found = []
        for pid in self.chance.sample(range(1, self.pids), self.pids // 4):
            start = START - self.chance.randrange(10**12)
            line = tuple(
                Ancestor(
                    pid=each + 1,
                    start_ns=each * 3,
                    comm=self.chance.choice(WORDS),
                    exe=b"/sbin/init" if each else Absent("a thread of the kernel"),
                )
                for each in range(self.chance.choice([0, 1, 3, 8]))
            )
            absent = self.chance.random() < 0.3
            fields: dict[str, Any] = {"ancestors": line}
            if absent:
                why = Absent("a thread of the kernel")
                fields |= {"exe": why, "args": why, "args_total": 0, "cwd": why, "ppid": why, "gid": why}
                fields |= {"cgroup": Absent("the process has ended"), "comm": why}
            found.append(proc_process(pid, start, exe_deleted=not absent and pid % 2 == 0, **fields))
            self.running.append((pid, start))
        return found

    def identity(self) -> Identity:
        """Somebody: running, gone, never heard of, nobody."""
        roll = self.chance.random()
        if roll < 0.7 and self.running:
            return self.chance.choice(self.running)
        if roll < 0.85 and self.gone:
            return self.chance.choice(self.gone[-20:])
        pid = self.chance.randrange(self.pids)
        return (pid, START + pid * 1000 + self.chance.choice([0, 512, 5_000_000, 50_000_000]))

    def name(self) -> bytes:
        return self.chance.choice(WORDS)

    def text(self, most: int) -> bytes:
        return self.chance.choice(
            [b"", b"/usr/bin/env", self.chance.randbytes(self.chance.randrange(1, most))]
        )

    def line(self, process: Identity) -> list[tuple[int, int, int]]:
        count = self.chance.choice([0, 1, 1, 2, 5, 8])
        keep = self.chance.random() < 0.6  # the same line again and again
        chosen = self.running[:count] if keep else [self.identity() for _ in range(count)]
        return [(*each, 1000) for each in chosen if each[0]]

    def record(self) -> bytes:
        chance = self.chance
        self.now += chance.choice([1, 300, 40_000, 3_000_000])
        at = self.now - chance.choice([0, 0, 0, 500, 100_000])
        fields: dict[str, Any] = {"at": at, "cgroup_id": chance.randrange(14), "comm": self.name()}
        fields["uid"] = chance.choice([0, 1000, 2**32 - 2])
        roll = chance.random()
        if roll < 0.27:
            return self._fork(fields)
        if roll < 0.5:
            return self._exec(fields)
        if roll < 0.68:
            return self._exit(fields)
        if roll < 0.95:
            return self._socket(fields)
        if roll < 0.98:
            return cgroup_record(chance.randrange(14), b"/made/%d" % chance.randrange(99), at=at)
        return synthetic_record(at)

    def _fork(self, fields: dict[str, Any]) -> bytes:
        child = (self.chance.randrange(1, self.pids), self.now - self.now % 7)
        parent = self.identity()
        if self.chance.random() < 0.1:
            child = self.identity()
        self.running.append(child)
        return fork_record(child, parent, **fields)

    def _exec(self, fields: dict[str, Any]) -> bytes:
        process = self.running[-1] if self.running and self.chance.random() < 0.6 else self.identity()
        args = self.text(300)
        fields |= {
            "gid": self.chance.randrange(70_000),
            "parent_pid": self.chance.randrange(self.pids),
            "flags": self.chance.choice([0, 0, 0, 1, 2, 4, 7]),
            "path": self.text(200),
            "args": args,
            "args_total": len(args) + self.chance.choice([0, 0, 5, 2**31]),
            "cwd": self.text(100),
            "ancestors": self.line(process),
        }
        return exec_record(process, **fields)

    def _exit(self, fields: dict[str, Any]) -> bytes:
        process = self.identity()
        if process in self.running and self.chance.random() < 0.95:
            self.running.remove(process)
            self.gone.append(process)
        fields |= {
            "parent_pid": 1,
            "code": self.chance.choice([0, 1, 255]),
            "signal": self.chance.choice([0, 0, 9]),
        }
        if self.chance.random() < 0.1:
            return synthetic_record(self.now)  # its exit is lost
        return exit_record(process, **fields)

    def _socket(self, fields: dict[str, Any]) -> bytes:
        process = self.identity() if self.chance.random() < 0.9 else (0, 0)
        if not process[0]:
            fields["owner_label"] = self.chance.randrange(7)
        kinds = (abi.KIND_CONNECT, abi.KIND_ACCEPT, abi.KIND_LISTEN)
        fields |= {"cookie": self.chance.randrange(2**64), "error": self.chance.choice([0, 111, 125])}
        return socket_record(process, kind=self.chance.choice(kinds), **fields)

    def records(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield self.record()
