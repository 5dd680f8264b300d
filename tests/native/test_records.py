"""Decoding: every field of every kind where the ABI puts it, and nothing but counting for what cannot be right."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis._native import records
from aegis._native.records import RecordBatch, decode
from aegis.kernel import abi

LOCAL = bytes(range(16))
REMOTE = bytes(range(100, 116))
HEADER = {"ktime_ns": 2**63 + 11, "cpu": 509}
PROCESS = {"start_ns": 2**64 - 59, "pid": 4_194_301, "uid": 2**32 - 5}
ANCESTORS = [{"start_ns": 1009 * n, "pid": 13 * n, "uid": n} for n in range(1, 9)]


def record(name: str, kind: int, tail: bytes = b"", **fields: object) -> bytes:
    size = abi.struct(name).size + len(tail)
    return abi.pack(name, header=HEADER | {"size": size, "kind": kind}, **fields) + tail


def padded(*all_records: bytes) -> bytes:
    return b"".join(each.ljust((len(each) + 7) // 8 * 8, b"\0") for each in all_records)


def exec_record(path: bytes, args: bytes, cwd: bytes, **fields: object) -> bytes:
    return record(
        "aegis_exec",
        abi.KIND_EXEC,
        path + args + cwd,
        process=PROCESS,
        path_bytes=len(path),
        args_bytes=len(args),
        cwd_bytes=len(cwd),
        **fields,
    )


EXEC = exec_record(
    b"/usr/bin/caf\xc3\xa9",
    b"caf\xc3\xa9\0-v\0",
    b"/srv",
    cgroup_id=31,
    inode=37,
    device=41,
    gid=43,
    parent_pid=47,
    args_total=53,
    ancestor_count=3,
    flags=records.PATH_TRUNCATED | records.EXE_DELETED,
    comm=b"sixteen letters!",
    ancestors=ANCESTORS,
)
EXEC_FIELDS = (
    *(records.EXEC, HEADER["ktime_ns"], 509, 4_194_301, 2**64 - 59, 2**32 - 5, 43, 47, 31, 37, 41),
    *(b"sixteen letters!", b"/usr/bin/caf\xc3\xa9", 5, b"caf\xc3\xa9\0-v\0", 53),
    ((13, 1009, 1), (26, 2018, 2), (39, 3027, 3)),
    b"/srv",
)
EXIT = record(
    "aegis_exit",
    abi.KIND_EXIT,
    process=PROCESS,
    cgroup_id=2,
    parent_pid=3,
    code=5,
    signal=7,
    comm=b"short",
)
FORK = record(
    "aegis_fork",
    abi.KIND_FORK,
    process=PROCESS,
    parent={"start_ns": 11, "pid": 13, "uid": 17},
    cgroup_id=19,
    comm=b"",
)
VERDICT = record(
    "aegis_verdict_record",
    abi.KIND_VERDICT,
    key={
        "local": LOCAL,
        "remote": REMOTE,
        "local_port": 2,
        "remote_port": 65_521,
        "ifindex": 5,
        "protocol": 17,
        "fragment": 1,
    },
    owner=2**64 - 83,
    generation=11,
    cookie=13,
    suppressed=19,
    rule=1024,
    verdict=abi.VERDICT_DENY,
    initiator=abi.INGRESS,
)
CGROUP = record(
    "aegis_cgroup", abi.KIND_CGROUP, b"/user.slice/a", cgroup_id=23, path_bytes=len(b"/user.slice/a")
)
SYNTHETIC = record("aegis_synthetic", abi.KIND_SYNTHETIC, key=2**64 - 1, value=29)
IDENTITY = (HEADER["ktime_ns"], 509, 4_194_301, 2**64 - 59, 2**32 - 5)


def socket_record(kind: int) -> bytes:
    return record(
        "aegis_socket",
        kind,
        process=PROCESS,
        cgroup_id=2,
        cookie=3,
        source=LOCAL,
        destination=REMOTE,
        source_port=5,
        destination_port=65_521,
        protocol=6,
        owner_label=abi.OWNER_PROCESS,
        error=111,
        comm=b"nc",
    )


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (EXEC, EXEC_FIELDS),
        (EXIT, (records.EXIT, *IDENTITY, 2, 3, 5, 7, b"short")),
        (FORK, (records.FORK, *IDENTITY, 13, 11, 19, b"")),
        *(
            (
                socket_record(kind),
                (kind, *IDENTITY, 2, 3, LOCAL, REMOTE, 5, 65_521, 6, abi.OWNER_PROCESS, b"nc", 111),
            )
            for kind in (records.CONNECT, records.ACCEPT, records.LISTEN)
        ),
        (
            VERDICT,
            (
                *(records.VERDICT, HEADER["ktime_ns"], 509, LOCAL, REMOTE, 2, 65_521, 5, 17, 1),
                *(2**64 - 83, 11, 13, 19, 1024, abi.VERDICT_DENY, abi.INGRESS),
            ),
        ),
        (CGROUP, (records.CGROUP, HEADER["ktime_ns"], 509, 23, b"/user.slice/a")),
        (SYNTHETIC, (records.SYNTHETIC, HEADER["ktime_ns"], 509, 2**64 - 1, 29)),
    ],
    ids=["exec", "exit", "fork", "connect", "accept", "listen", "verdict", "cgroup", "synthetic"],
)
def test_each_field_of_each_kind(data: bytes, fields: tuple[object, ...]) -> None:
    batch = RecordBatch.from_bytes(data)
    assert decode(batch) == [fields]
    assert batch.kinds()[abi.unpack("aegis_header", data).kind] == len(batch) == 1
    assert (batch.unknown, batch.malformed) == (0, 0)


def test_kinds_are_those_of_the_header() -> None:
    for name in ("EXEC", "EXIT", "FORK", "CONNECT", "ACCEPT", "LISTEN", "VERDICT", "CGROUP", "SYNTHETIC"):
        assert getattr(records, name) == getattr(abi, f"KIND_{name}")
    assert records.KINDS == abi.KINDS


def test_only_wanted_kinds_are_decoded_and_order_is_kept() -> None:
    batch = RecordBatch.from_bytes(padded(EXEC, EXIT, SYNTHETIC, CGROUP, EXIT, EXEC))
    kinds = [records.EXEC, records.EXIT, records.SYNTHETIC, records.CGROUP, records.EXIT, records.EXEC]
    assert [fields[0] for fields in decode(batch)] == kinds
    assert [fields[0] for fields in decode(batch, (records.EXEC, records.CGROUP))] == [
        records.EXEC,
        records.CGROUP,
        records.EXEC,
    ]
    assert decode(batch, ()) == []
    assert bytes(memoryview(batch)) == padded(EXEC, EXIT, SYNTHETIC, CGROUP, EXIT, EXEC)


@pytest.mark.parametrize("kind", [-1, 16, 1 << 40])
def test_a_kind_no_header_can_name_is_refused(kind: int) -> None:
    with pytest.raises(ValueError, match="no kind"):
        decode(RecordBatch.from_bytes(EXIT), (kind,))


def test_a_batch_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError):
        RecordBatch()


@pytest.mark.parametrize(
    ("record_bytes", "field", "value"),
    [
        (EXEC, "path_bytes", 65_535),
        (EXEC, "args_bytes", 65_535),
        (EXEC, "cwd_bytes", 65_535),
        (EXEC, "ancestor_count", 9),
        (CGROUP, "path_bytes", len(b"/user.slice/a") + 1),
        (CGROUP, "path_bytes", 2**32 - 1),
    ],
)
def test_lengths_that_do_not_fit_are_malformed(record_bytes: bytes, field: str, value: int) -> None:
    changed = bytearray(record_bytes)
    name = "aegis_exec" if record_bytes is EXEC else "aegis_cgroup"
    setattr(abi.unpack(name, changed), field, value)
    batch = RecordBatch.from_bytes(padded(bytes(changed), EXIT))
    assert (len(batch), batch.unknown, batch.malformed) == (1, 0, 1)


@pytest.mark.parametrize("whole", [EXIT, FORK, VERDICT, SYNTHETIC, socket_record(records.ACCEPT)])
def test_a_fixed_record_of_another_size_is_malformed(whole: bytes) -> None:
    for size in (len(whole) - 8, len(whole) + 8):
        changed = bytearray(whole.ljust(size, b"\0")[:size])
        abi.unpack("aegis_header", changed).size = size
        assert RecordBatch.from_bytes(changed).malformed == 1


@pytest.mark.parametrize("size", [0, 15, 2**32 - 1])
def test_a_size_that_cannot_be_believed_ends_the_reading(size: int) -> None:
    changed = bytearray(EXIT)
    abi.unpack("aegis_header", changed).size = size
    batch = RecordBatch.from_bytes(padded(FORK, bytes(changed), FORK))
    assert (len(batch), batch.malformed) == (1, 1)


@given(
    base=st.lists(st.sampled_from([EXEC, EXIT, FORK, VERDICT, CGROUP, SYNTHETIC]), max_size=7),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=13),
    cut=st.integers(0, 40),
    lead=st.integers(0, 7),
)
def test_hostile_bytes_are_counted_and_never_read_past(
    base: list[bytes], changes: list[tuple[int, int]], cut: int, lead: int
) -> None:
    data = bytearray(padded(*base))
    for at, value in changes:
        if at < len(data):
            data[at] = value
    del data[max(0, len(data) - cut) :]
    unaligned = memoryview(bytes(lead) + bytes(data))[lead:]
    batch = RecordBatch.from_bytes(unaligned)
    decoded = decode(batch)
    assert len(decoded) == len(batch) == sum(batch.kinds())
    if not changes and cut == 0:
        assert len(batch) == len(base)
    assert len(memoryview(batch)) <= len(data) + 7
    for fields in decoded:
        if fields[0] == records.EXEC:
            assert len(fields[12]) + len(fields[14]) + len(fields[17]) + 216 <= len(data)


def test_decoding_leaves_no_memory_behind() -> None:
    data = padded(*(EXEC, EXIT, FORK, VERDICT, CGROUP, SYNTHETIC) * 7)

    def use() -> None:
        for _ in range(101):
            decode(RecordBatch.from_bytes(data))
            decode(RecordBatch.from_bytes(data[:-20]), (records.EXEC,))

    use()
    gc.collect()
    tracemalloc.start()
    try:
        use()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        use()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1000
