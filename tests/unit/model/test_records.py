"""Records: each type has the fields of the table, and what is read back is what was written."""

from __future__ import annotations

import random
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis._native.transcode import to_json
from aegis.model import event as events
from aegis.model import flow as flows
from aegis.model.absent import Absent
from aegis.model.block import BlockClass, Encoded
from aegis.model.event import ConnectEvent, Event, ExecEvent, ListenEvent, LossEvent
from aegis.model.flow import Flow
from aegis.model.process import Cgroup, OwnerLabel
from aegis.model.records import (
    LAYOUTS,
    NAMES,
    EncodedEvents,
    decode,
    encode,
    encode_events,
    encode_sample,
    encode_samples,
    loads,
    process_fields,
    read_owner,
)
from aegis.model.sample import Sample
from tests.support import records as chance
from tests.support.process_records import proc_process

BASE = chance.BASE_NS
LOSS = LossEvent(time_ns=BASE + 3, stage="ring", kind="exec", reason="ring_full", count=9)


def test_the_table_names_each_type_once() -> None:
    assert sorted(NAMES) == list(range(1, 11))
    assert set(events.TYPES) < set(LAYOUTS)
    assert {layout.cls for layout in LAYOUTS.values()} == set(BlockClass)


def test_fields_stand_in_the_order_of_the_table() -> None:
    one = ConnectEvent(
        time_ns=BASE - 7,
        owner=OwnerLabel.KERNEL,
        protocol=6,
        source=bytes(16),
        source_port=1,
        destination=bytes(16),
        destination_port=2,
        cookie=3,
        error=111,
    )
    assert cbor2.loads(encode(one, BASE)) == [3, -7, "kernel", 6, bytes(16), 1, bytes(16), 2, 3, 111]
    assert cbor2.loads(encode(LOSS, BASE)) == [7, 3, "ring", "exec", "ring_full", 9]


def test_what_is_absent_is_a_tag_with_its_reason() -> None:
    gone = msgspec.structs.replace(chance.process(random.Random(1)), cwd=Absent("never told"))
    (_, _, process) = cbor2.loads(encode(ExecEvent(time_ns=BASE, owner=gone), BASE))
    assert process[10] == cbor2.CBORTag(60000, "never told")


@given(st.randoms(use_true_random=False))
def test_an_event_comes_back_as_it_went(rng: random.Random) -> None:
    one = chance.event(rng)
    assert decode(cbor2.loads(encode(one, BASE)), BASE) == one


@given(st.randoms(use_true_random=False))
def test_a_sample_comes_back_as_it_went(rng: random.Random) -> None:
    one = chance.sample(rng)
    assert decode(cbor2.loads(encode_sample(one, BASE)), BASE) == one


def test_a_flow_has_the_keys_of_a_flow() -> None:
    members = chance.flow_record(random.Random(4), 21)
    members[19:22] = ["deny", "no-telnet", cbor2.CBORTag(60000, "not kept")]
    members[14] = 0x13
    members[2] = 6
    flow = decode(members, BASE)
    assert isinstance(flow, Flow)
    assert (flow.time_ns, flow.protocol, flow.tcp_flags) == (BASE + 21, "tcp", "FSA")
    assert (flow.verdict, flow.policy, flow.rule, flow.rule_reason) == ("deny", "no-telnet", None, "not kept")
    found = msgspec.json.decode(flows.encode(flow))
    for key, value in found.items():
        if not key.endswith("_reason"):
            assert (value is None) == (f"{key}_reason" in found), key


def test_a_path_that_is_no_text_is_shown_as_bytes_are() -> None:
    odd = Cgroup(id=1, path="/a\udcff", unit="b\udcfe.service")
    owner = msgspec.structs.replace(chance.process(random.Random(1)), cgroup=odd)
    (_, _, process) = cbor2.loads(encode(ExecEvent(time_ns=BASE, owner=owner), BASE))
    assert process[11] == [1, "/a\\xff", "b\\xfe.service"]


def test_runs_are_of_one_class_and_keep_the_order() -> None:
    rng = random.Random(7)
    made = [chance.event(rng) for _ in range(200)]
    runs = encode_events(made, BASE)
    assert {run.cls for run in runs} == {BlockClass.EVENT, BlockClass.VERDICT}
    for run in runs:
        assert list(EncodedEvents(run)) == [one for one in made if LAYOUTS[one.type].cls is run.cls]
    assert encode_events([], BASE) == ()


def test_samples_are_one_run() -> None:
    rng = random.Random(7)
    made = [chance.sample(rng) for _ in range(50)]
    run = encode_samples(made, BASE)
    assert (run.cls, len(run)) == (BlockClass.SAMPLE, 50)
    assert [decode(record, run.base_ns) for record in loads(run)] == made
    assert len(encode_samples([], BASE)) == 0


def test_events_are_made_when_somebody_looks() -> None:
    made: list[Event] = [
        LOSS,
        msgspec.structs.replace(LOSS, count=10),
        msgspec.structs.replace(LOSS, count=11),
    ]
    lazy = EncodedEvents(encode_events(made, BASE)[0])
    assert len(lazy) == 3
    assert lazy[0] == made[0]
    assert lazy[-1] == made[-1]
    assert lazy[1:] == made[1:]
    assert list(lazy) == made
    assert made[1] in lazy
    assert len(EncodedEvents(Encoded(BlockClass.EVENT, 0, 3, b"no CBOR"))) == 3, "nothing was decoded"


def test_more_fields_than_known_are_of_a_later_version() -> None:
    record = [*cbor2.loads(encode(LOSS, BASE)), "more"]
    assert decode(record, BASE) == LOSS


@pytest.mark.parametrize(
    "record",
    [
        [0, 1],
        [99, 1],
        [7, 1, "a", "b", "c"],
        [1, 1, "somebody"],
        [1, 1, [1, 2, 3]],
        [1, 1, None],
        [6, 1, "kernel", "maybe", *range(13)],
    ],
)
def test_what_nobody_writes_is_refused(record: list[Any]) -> None:
    with pytest.raises(ValueError):
        decode(record, BASE)


@pytest.mark.parametrize("run", [b"\x82\x01", b"\x01", b"\x82\x01\x02\x00", b"\xff", b"\x81\x01"])
def test_a_run_that_is_no_run(run: bytes) -> None:
    with pytest.raises(ValueError):
        loads(Encoded(BlockClass.EVENT, 0, 1, run))


def test_a_flow_is_no_event() -> None:
    run = Encoded(BlockClass.FLOW, 0, 1, cbor2.dumps(chance.flow_record(random.Random(1))))
    with pytest.raises(ValueError):
        list(EncodedEvents(run))


def test_a_finding_is_the_object_it_holds() -> None:
    found = decode([10, 5, {"title": "t", "severity": 3}], 1_000_000_000)
    assert found == {
        "schema": "aegis.finding",
        "version": 1,
        "time": "1970-01-01T00:00:01.000000005Z",
        "time_ns": 1_000_000_005,
        "title": "t",
        "severity": 3,
    }


def test_listening_keeps_what_it_was_made_with() -> None:
    rng = random.Random(3)
    one = ListenEvent(time_ns=BASE, owner=OwnerLabel.REQUEST, error=0, **chance.ends(rng))
    back = decode(cbor2.loads(encode(one, BASE)), BASE)
    assert isinstance(back, ListenEvent)
    assert events.encode(back) == events.encode(one)


def test_an_owner_by_itself_is_read_as_in_a_record() -> None:
    process = proc_process(300, 10**12, gid=Absent("why not"))
    assert read_owner(cbor2.dumps(process_fields(process))) == process
    assert read_owner(cbor2.dumps("request")) is OwnerLabel.REQUEST
    for wrong in (b"", b"\x80", cbor2.dumps(7), cbor2.dumps("nobody"), cbor2.dumps([1] * 12), b"\x8d\x01"):
        with pytest.raises(ValueError):
            read_owner(wrong)


def test_a_sample_has_a_value_or_a_reason() -> None:
    one = Sample(
        name="a", value=None, reason="no file", unit="bytes", kind="gauge", source="/proc/a", time_ns=1
    )
    assert cbor2.loads(encode_sample(one, 0))[4] == cbor2.CBORTag(60000, "no file")


def test_a_sample_of_a_mount_that_is_no_text_is_one_like_any_other() -> None:
    """A mount point of bytes that are no UTF-8 comes by surrogates."""
    sample = Sample(
        name="fs.bytes", labels=(("mount", "/mnt/\udcff\u00e9"),), value=None, reason="/mnt/\udcfe: gone",
        unit="bytes", kind="gauge", source="statvfs", time_ns=5,
    )  # fmt: skip
    (run,) = loads(encode_samples([sample], 0))
    found = decode(run, 0)
    assert isinstance(found, Sample)
    assert (found.labels, found.reason) == ((("mount", "/mnt/\\xff\u00e9"),), "/mnt/\\xfe: gone")
    ((_, _, items),) = to_json(encode_samples([sample], 0).records, 0)
    assert msgspec.json.decode(items)[0]["labels"] == {"mount": "/mnt/\\xff\u00e9"}


def test_an_event_made_here_may_name_what_is_no_text() -> None:
    event = LossEvent(time_ns=5, stage="disk", kind="/mnt/\udcff", reason="x", count=1)
    (run,) = encode_events([event], 0)
    (found,) = EncodedEvents(run)
    assert isinstance(found, LossEvent)
    assert found.kind == "/mnt/\\xff"
