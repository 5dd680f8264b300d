"""Records into JSON: byte for byte what the Python encoders print, and nothing but RecordsMalformed for the rest."""

from __future__ import annotations

import errno
import json
import random
import struct
from contextlib import suppress
from itertools import pairwise
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aegis._native.transcode import RecordsMalformed, end_of, records_of, to_json
from aegis.model import event as events
from aegis.model import flow as flows
from aegis.model import records
from aegis.model.event import ConnectEvent, Event, ExecEvent, ExitEvent, LossEvent, SocketEvent
from aegis.model.net import PROTOCOLS
from aegis.model.process import Ancestor, Cgroup, OwnerLabel, Process
from aegis.model.sample import Sample, document
from aegis.model.stamp import rfc3339
from tests.support import records as chance

BASE = chance.BASE_NS
CHANCES = 2000
LEADS = b"\x00\x1b\x3b\x40\x5f\x60\x7b\x80\x9b\x9f\xbb\xc0\xdb\xf6\xfb\xff"  # heads of every type and size


def item(record: bytes, base_ns: int = BASE) -> bytes:
    """The one object of one record."""
    ((first, count, array),) = to_json(record, base_ns, most_bytes=1 << 24)
    assert (first, count, array[:1], array[-1:]) == (0, 1, b"[", b"]")
    return array[1:-1]


def of_members(*members: Any) -> bytes:
    return item(cbor2.dumps(list(members)))


def same(event: Event) -> None:
    assert item(records.encode(event, BASE)) == events.encode(event)


# ---- the same as in Python


@given(st.randoms(use_true_random=False))
def test_an_event_is_what_python_prints(rng: random.Random) -> None:
    same(chance.event(rng))


def test_thousands_of_events_are_what_python_prints() -> None:
    rng = random.Random(20_261_123)
    for _ in range(CHANCES):
        same(chance.event(rng))


def test_thousands_of_flows_are_what_python_prints() -> None:
    rng = random.Random(17)
    for _ in range(CHANCES):
        record = cbor2.dumps(chance.flow_record(rng, rng.randrange(-1000, 1000)))
        flow = records.decode(cbor2.loads(record), BASE)
        assert isinstance(flow, flows.Flow)
        assert item(record) == flows.encode(flow)


def test_thousands_of_samples_are_what_the_verb_prints() -> None:
    rng = random.Random(18)
    for _ in range(CHANCES):
        one = chance.sample(rng)
        found = item(records.encode_sample(one, BASE))
        assert msgspec.json.decode(found) == document(one)
        assert list(msgspec.json.decode(found)) == list(document(one))


@given(st.binary(max_size=40))
@example(b"\xe2\x82")
@example(b"\xf0\x9f\x98\x80" * 3)
@example(b"01234567\x00")
@example(b"0123456\\")
@example(b"0123456\x7f")
def test_bytes_are_shown_as_python_shows_them(text: bytes) -> None:
    process = msgspec.structs.replace(
        chance.process(random.Random(5)),
        comm=text,
        exe=b"/" + text,
        cwd=text * 3,
        args=text,
        args_total=len(text),
    )
    same(ExecEvent(time_ns=BASE, owner=process))


def test_each_byte_alone_and_each_pair() -> None:
    for one in range(256):
        block = b"\0".join(bytes((one, other)) for other in range(256))
        process = msgspec.structs.replace(
            chance.process(random.Random(5)), comm=bytes((one,)), args=block, args_total=len(block)
        )
        same(ExecEvent(time_ns=BASE, owner=process))


@given(st.binary(min_size=16, max_size=16))
@example(bytes(16))
@example(bytes(15) + b"\x01")
@example(bytes(10) + b"\xff\xff\x7f\0\0\x01")
@example(bytes(10) + b"\xff\xfe\x7f\0\0\x01")
@example(bytes(12) + b"\x7f\0\0\x01")
@example(b"\x20\x01" + bytes(4) + b"\0\x01" + bytes(6) + b"\0\x01")
@example(b"\0\x01" * 7 + b"\0\0")
@example(b"\0\0" + b"\0\x01" * 7)
@example(b"\x20\x01" + bytes(14))
def test_addresses_are_what_python_prints(address: bytes) -> None:
    same(socket(source=address, destination=address[::-1]))


def socket(**fields: Any) -> SocketEvent:
    known: dict[str, Any] = {
        "time_ns": BASE,
        "owner": OwnerLabel.KERNEL,
        "protocol": 6,
        "source": bytes(16),
        "source_port": 1,
        "destination": bytes(16),
        "destination_port": 2,
        "cookie": 3,
    }
    return ConnectEvent(**(known | fields))


def test_every_protocol_and_every_result() -> None:
    for number in {*range(300), *PROTOCOLS}:
        same(socket(protocol=number))
    for number in {*range(300), *errno.errorcode, 65_535}:
        same(socket(error=number))


@given(st.integers(-(2**63), 2**63 - 1))
@example(-1)
@example(0)
@example(951_782_400 * 10**9)
@example(-62_135_596_800)
@example(4_107_542_399_999_999_999)
def test_instants_are_what_python_prints(time_ns: int) -> None:
    event = LossEvent(time_ns=time_ns, stage="ring", kind="exec", reason="ring_full", count=1)
    assert item(records.encode(event, time_ns), time_ns) == events.encode(event)
    assert item(records.encode(event, 0), 0) == events.encode(event)


def test_an_instant_beyond_64_bits() -> None:
    for base, dt in ((2**63 - 1, 1), (-(2**63), -1)):
        with pytest.raises(RecordsMalformed, match="64 bits"):
            to_json(cbor2.dumps([7, dt, "a", "b", "c", 1]), base)


@pytest.mark.parametrize(
    "value", [0, 1, -1, 2**64 - 1, -(2**63), 10**19, 99, 100, 12.5, -0.0, 1e22, 5e-324, 1.5e300]
)
def test_numbers(value: float) -> None:
    one = Sample(name="n", value=value, unit="u", kind="gauge", source="s", time_ns=BASE)
    found = json.loads(item(records.encode_sample(one, BASE)))["value"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("bits", "value"),
    [
        (b"\xf9\x3c\x00", 1.0), (b"\xf9\x00\x01", 2.0**-24), (b"\xf9\x7b\xff", 65_504.0), (b"\xf9\xc4\x00", -4.0),
        (b"\xfa\x3f\x80\x00\x00", 1.0), (b"\xf9\x7c\x00", None), (b"\xf9\x7e\x00", None), (b"\xf9\xfc\x00", None),
        (b"\xfb" + struct.pack(">d", float("nan")), None), (b"\xf9\x80\x00", -0.0),
    ],
)  # fmt: skip
def test_floats_of_every_size(bits: bytes, value: float | None) -> None:
    record = b"\x88\x09\x00\x61n\x80" + bits + b"\x61u\x65gauge\x61s"
    assert repr(json.loads(item(record))["value"]) == repr(value)


def test_a_finding_is_the_object_it_holds() -> None:
    content = {"a": [1, -2, None, True, {"b": 'é"', "c": []}, 1.5], "d": {}, "e": b"\xff"}
    found = msgspec.json.decode(of_members(10, 4, content))
    assert found == records.decode([10, 4, {**content, "e": "\\xff"}], BASE)
    assert msgspec.json.decode(of_members(10, 4, {}))["schema"] == "aegis.finding"


def test_a_type_of_a_later_version_is_told_by_its_number() -> None:
    found = msgspec.json.decode(of_members(11, 7, "x", [1, {"a": 2}], cbor2.CBORTag(4000, b"")))
    assert found == {
        "schema": "aegis.record",
        "version": 1,
        "time": rfc3339(BASE + 7),
        "time_ns": BASE + 7,
        "type": 11,
    }


def test_members_of_a_later_version_are_passed() -> None:
    event = ExitEvent(time_ns=BASE, owner=chance.process(random.Random(2)), code=1, signal=0, duration_ns=5)
    record = cbor2.loads(records.encode(event, BASE))
    plain = item(cbor2.dumps(record))
    assert isinstance(event.owner, Process)
    assert isinstance(event.owner.cgroup, Cgroup)
    record[2][11].append({"more": 1})
    for ancestor in record[2][12]:
        ancestor.append([1])
    record[2].append(cbor2.CBORTag(1234, "more"))
    assert item(cbor2.dumps([*record, "more", [2]])) == plain


# ---- arrays


def many(count: int, seed: int = 3) -> list[bytes]:
    rng = random.Random(seed)
    return [records.encode(chance.event(rng), BASE) for _ in range(count)]


@pytest.mark.parametrize(
    ("most_items", "most_bytes"), [(512, 49_152), (7, 49_152), (512, 3000), (1, 1), (512, 1)]
)
def test_arrays_hold_every_item_once_and_in_order(most_items: int, most_bytes: int) -> None:
    written = many(600)
    arrays = to_json(b"".join(written), BASE, most_items=most_items, most_bytes=most_bytes)
    found = [msgspec.json.decode(array, type=list[msgspec.Raw]) for _, _, array in arrays]
    for one, record in zip((bytes(one) for group in found for one in group), written, strict=True):
        whole = item(record)
        if len(whole) + 2 <= most_bytes:
            assert one == whole
        else:
            assert json.loads(one)["time_ns"] == json.loads(whole)["time_ns"]
    place = 0
    for (first, count, array), group in zip(arrays, found, strict=True):
        assert (first, count) == (place, len(group))
        assert 1 <= count <= most_items
        assert len(array) <= most_bytes or (count == 1 and most_bytes < 200)
        place += count


def test_an_array_is_as_full_as_it_may_be() -> None:
    written = many(600)
    arrays = to_json(b"".join(written), BASE, most_bytes=20_000)
    for (_, _, array), (_, _, later) in pairwise(arrays):
        following = msgspec.json.decode(later, type=list[msgspec.Raw])[0]
        assert len(array) + 1 + len(bytes(following)) > 20_000


def test_the_last_bracket_counts() -> None:
    run = b"".join(many(2))
    ((_, _, both),) = to_json(run, BASE)
    assert len(to_json(run, BASE, most_bytes=len(both))) == 1
    assert [count for _, count, _ in to_json(run, BASE, most_bytes=len(both) - 1)] == [1, 1]


REASON = "longer than a batch may be"


def vast(**members: Any) -> Process:
    """A process whose texts grow sixfold in JSON, as any local user may have one."""
    ancestor = Ancestor(pid=1, start_ns=2, comm=b"sh", exe=b"\x02" * 4095)
    many = {"args": b"\x01" * 9000 + b"\0", "args_total": 9001, "exe": b"/x", "cwd": b"/", "comm": b"sh"}
    many |= {"ancestors": (ancestor,) * 3}
    return msgspec.structs.replace(chance.process(random.Random(2)), **many | members)


def test_an_event_that_is_too_long_alone_lacks_its_long_members_and_says_why() -> None:
    written = many(4)
    long = ExitEvent(time_ns=BASE + 7, owner=vast(), code=3, signal=0, duration_ns=9)
    whole = json.loads(item(records.encode(long, BASE)))
    written[2] = records.encode(long, BASE)
    ((first, count, array),) = to_json(b"".join(written), BASE)
    assert (first, count) == (0, 4)
    assert len(array) <= 49_152
    found = json.loads(array)
    assert [found[place] for place in (0, 1, 3)] == [json.loads(item(written[place])) for place in (0, 1, 3)]
    assert {"args": None, "args_reason": REASON, "args_truncated": True, "args_bytes": 9001}.items() <= found[
        2
    ].items()
    assert (found[2]["ancestors"], found[2]["ancestors_reason"]) == (None, REASON)
    for key in ("args", "args_truncated", "ancestors"):
        whole.pop(key)
        found[2].pop(key)
    assert {key for key in found[2] if key not in whole} == {"args_reason", "ancestors_reason"}
    assert all(found[2][key] == value for key, value in whole.items())  # pid, code, owner, and all else stay


@pytest.mark.parametrize("key", ["exe", "cwd"])
def test_a_long_path_is_left_out_where_the_object_is_too_long(key: str) -> None:
    long = ExecEvent(time_ns=BASE, owner=vast(**{key: b"/" + b"\x01" * 4000}))
    ((_, _, array),) = to_json(records.encode(long, BASE), BASE)
    found = json.loads(array)[0]
    assert (found[key], found[f"{key}_reason"], found["comm"]) == (None, REASON, "sh")


def test_as_long_as_an_array_may_be_is_whole() -> None:
    record = records.encode(ExecEvent(time_ns=BASE, owner=vast()), BASE)
    size = len(item(record)) + 2
    assert json.loads(to_json(record, BASE, most_bytes=size)[0][2])[0]["args"]
    assert json.loads(to_json(record, BASE, most_bytes=size - 1)[0][2])[0]["args"] is None


@pytest.mark.parametrize(
    ("members", "schema"),
    [
        ([7, 3, "ring", "exec", "r" * 60_000, 1], "aegis.event"),
        ([9, 3, "n", [["k" * 60_000, "v"]], 1, "u", "gauge", "s"], "aegis.sample"),
        ([10, 3, {"a": ["x" * 60_000]}], "aegis.finding"),
        ([7, 3, "ring", "exec", "r" * 60_000, 1, "of a later version", [1, 2]], "aegis.event"),
    ],
)
def test_what_is_too_long_and_cannot_be_shortened_keeps_its_place(members: list[Any], schema: str) -> None:
    after = many(1)[0]
    ((_, count, array),) = to_json(cbor2.dumps(members) + after, BASE)
    found, following = json.loads(array)
    assert (count, following) == (2, json.loads(item(after)))
    assert (found["schema"], found["time_ns"], found["fields"], found["fields_reason"]) == (
        schema,
        BASE + 3,
        None,
        REASON,
    )


def test_too_long_and_malformed_is_malformed() -> None:
    with pytest.raises(RecordsMalformed, match="cut short"):
        to_json(cbor2.dumps([7, 0, "a", "b", "r" * 60_000, 1, 5])[:-1], BASE)


def test_no_records_are_no_arrays() -> None:
    assert to_json(b"", BASE) == []
    with pytest.raises(ValueError):
        to_json(b"", BASE, most_items=0)


def test_borders_of_records() -> None:
    written = many(50)
    run = b"".join(written)
    borders = records_of(run)
    assert [run[one:other] for one, other in pairwise(borders)] == written
    assert end_of(run, borders[7], 3) == borders[10]
    assert end_of(run, len(run), 0) == len(run)
    assert records_of(b"") == [0]
    for offset, count in ((0, 51), (len(run), 1), (0, 2**64 - 1)):
        with pytest.raises(RecordsMalformed):
            end_of(run, offset, count)
    with pytest.raises(ValueError):
        end_of(run, len(run) + 1, 0)


# ---- what is no record


def every_kind() -> list[bytes]:
    rng = random.Random(11)
    found = {event.type: event for event in (chance.event(rng) for _ in range(300))}
    assert set(found) == set(events.TYPES)
    return [
        *(records.encode(event, BASE) for event in found.values()),
        cbor2.dumps(chance.flow_record(rng)),
        records.encode_sample(chance.sample(rng), BASE),
        cbor2.dumps([10, 0, {"a": [1, 2.5, {"b": None}]}]),
        cbor2.dumps([12, 0, "later"]),
    ]


@pytest.mark.parametrize("record", every_kind())
def test_cut_short_anywhere(record: bytes) -> None:
    assert item(record)
    for size in range(1, len(record)):
        for call in (lambda cut: to_json(cut, BASE), records_of, lambda cut: end_of(cut, 0, 1)):
            with pytest.raises(RecordsMalformed) as found:
                call(record[:size])
            assert 0 <= found.value.offset <= size
            assert f"byte {found.value.offset}" in str(found.value)


@pytest.mark.parametrize("record", every_kind())
def test_any_byte_changed_is_json_or_malformed(record: bytes) -> None:
    for at in range(len(record)):
        for value in LEADS:
            changed = record[:at] + bytes((value,)) + record[at + 1 :]
            with suppress(RecordsMalformed):
                for _, _, array in to_json(changed, BASE):
                    json.loads(array)


@given(st.binary(max_size=200))
def test_noise_is_json_or_malformed(noise: bytes) -> None:
    for run in (noise, b"\x83\x01\x00" + noise, b"\x98\x18\x08\x00" + noise, b"\x88\x09\x00\x61n" + noise):
        with suppress(RecordsMalformed):
            for _, _, array in to_json(run, 0):
                json.loads(array)
        with suppress(RecordsMalformed):
            assert records_of(run)[-1] == len(run)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([1, 0], "all its fields"),
        ([1, 0, "nobody"], "owner"),
        ([1, 0, [1, 2]], "all its members"),
        ([1, "0", "kernel"], "another type"),
        ([1, 2**63, "kernel"], "63 bits"),
        ([1, -(2**64), "kernel"], "64 bits"),
        ([3, 0, "kernel", 6, bytes(15), 1, bytes(16), 2, 3, 0], "16 bytes"),
        ([7, 0, b"bytes", "b", "c", 1], "another type"),
        ([7, 0, "a", "b", "c", 2**64], "a tag"),
        ([9, 0, "n", [["k"]], 1, "u", "gauge", "s"], "no pair"),
        ([9, 0, "n", [], None, "u", "gauge", "s"], "another type"),
        ([10, 0, []], "another type"),
        ([10, 0, {1: 2}], "another type"),
        ([-1, 0], "another type"),
        ("text", "another type"),
    ],
)
def test_what_nobody_writes(members: Any, words: str) -> None:
    with pytest.raises(RecordsMalformed, match=words):
        to_json(cbor2.dumps(members), BASE)


def test_text_must_be_utf8() -> None:
    with pytest.raises(RecordsMalformed, match="UTF-8") as found:
        to_json(b"\x86\x07\x00\x61a\x62\xed\xa0\x61c\x01", BASE)
    assert found.value.offset == 5


def test_nesting_has_an_end() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(RecordsMalformed, match="too deep"):
        of_members(10, 0, {"a": deep})
    with pytest.raises(RecordsMalformed):
        to_json(b"\x83\x0a\x00\xa1\x61a" + b"\x81" * 100_000, BASE)
    assert end_of(b"\x81" * 100_000 + b"\x00", 0, 1) == 100_001


@pytest.mark.parametrize("run", [b"\x9f\x01\xff", b"\x83\x01\x00\x7f\x61a\xff", b"\xbf\xff"])
def test_lengths_are_definite(run: bytes) -> None:
    with pytest.raises(RecordsMalformed, match="definite"):
        records_of(run)


def test_lengths_that_lie() -> None:
    for lead in (b"\x9b", b"\xbb", b"\x5b", b"\x7b"):
        for size in (b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7), b"\0\0\0\0\xff\xff\xff\xff"):
            with pytest.raises(RecordsMalformed):
                records_of(lead + size + bytes(100))
            with pytest.raises(RecordsMalformed):
                to_json(b"\x83\x01\x00" + lead + size + bytes(100), BASE)


def test_lengths_whose_sum_wraps() -> None:
    """2^63 ancestors and 2^63 members of a later version are none of either, were they added up in 64 bits."""
    process = msgspec.structs.replace(chance.process(random.Random(2)), ancestors=())
    record = [*chance.flow_record(random.Random(2))[:23], records.process_fields(process)]
    run = cbor2.dumps(record)
    owner = cbor2.dumps(record[23])
    assert run.endswith(owner)
    assert owner[:1] + owner[-1:] == b"\x8d\x80"
    assert item(run)
    lying = b"\x9b\x80" + bytes(6) + b"\x0d" + owner[1:-1] + b"\x9b\x80" + bytes(7)
    with pytest.raises(RecordsMalformed):
        to_json(run[: -len(owner)] + lying, BASE)
