from __future__ import annotations

from aegis._native import records
from aegis._native.records import RecordBatch
from aegis.kernel import abi
from aegis.modules.observability.source import in_order


def fork(ktime_ns: int, pid: int) -> bytes:
    return abi.pack(
        "aegis_fork",
        header={"ktime_ns": ktime_ns, "size": abi.struct("aegis_fork").size, "kind": abi.KIND_FORK},
        process={"pid": pid, "start_ns": ktime_ns},
    )


def synthetic(ktime_ns: int) -> bytes:
    return abi.pack(
        "aegis_synthetic",
        header={
            "ktime_ns": ktime_ns,
            "size": abi.struct("aegis_synthetic").size,
            "kind": abi.KIND_SYNTHETIC,
        },
    )


def test_a_batch_of_several_topics_counts_once() -> None:
    one = RecordBatch.from_bytes(fork(3, 103) + fork(4, 104))
    two = RecordBatch.from_bytes(fork(5, 105))
    found = in_order([one, one, two, one, two], (records.FORK,))
    assert [record[3] for record in found] == [103, 104, 105]


def test_equal_batches_are_two() -> None:
    batches = [RecordBatch.from_bytes(fork(3, 103)), RecordBatch.from_bytes(fork(3, 103))]
    assert len(in_order(batches, (records.FORK,))) == 2


def test_records_come_by_time() -> None:
    batches = [RecordBatch.from_bytes(fork(5, 105) + fork(2, 102)), RecordBatch.from_bytes(fork(3, 103))]
    assert [record[3] for record in in_order(batches, (records.FORK,))] == [102, 103, 105]


def test_other_kinds_are_left_out() -> None:
    batch = RecordBatch.from_bytes(synthetic(1) + fork(2, 102) + synthetic(3))
    assert [record[0] for record in in_order([batch], (records.FORK,))] == [records.FORK]
    assert in_order([], (records.FORK,)) == []
