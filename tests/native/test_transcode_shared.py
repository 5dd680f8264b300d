"""Records into JSON whose objects share members: with these put back, what `to_json` makes of each."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from itertools import pairwise
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis._native.transcode import RecordsMalformed, records_of, to_json, to_shared_json
from aegis.model import records
from aegis.model.event import ConnectEvent, ExecEvent, ExitEvent
from aegis.model.process import Ancestor, OwnerLabel
from aegis.protocol import shared_items, v1
from tests.support import records as chance

BASE = chance.BASE_NS
LEADS = b"\x00\x1b\x3b\x40\x5f\x60\x7b\x80\x9b\x9f\xbb\xc0\xdb\xf6\xfb\xff"  # heads of every type and size
raws = msgspec.json.Decoder(list[msgspec.Raw])


def split(array: bytes) -> list[bytes]:
    return [bytes(each) for each in raws.decode(array)]


def opened(part: tuple[int, int, bytes, bytes]) -> tuple[list[bytes], list[bytes]]:
    """The items of an array and what they share; both within the rules of a batch."""
    _, count, items, shared = part
    found, objects = split(items), split(shared) if shared else []
    assert len(found) == count
    assert len(objects) <= v1.BATCH_SHARED
    assert shared == b"" or objects
    shared_items.sizes(objects)  # each names one before it
    return found, objects


def whole(run: bytes, base_ns: int = BASE, **limits: int) -> list[dict[str, Any]]:
    """The items of all arrays, as they stand for themselves."""
    return [
        json.loads(shared_items.expand(item, objects))
        for items, objects in map(opened, to_shared_json(run, base_ns, **limits))
        for item in items
    ]


def plain(run: bytes, base_ns: int = BASE, **limits: int) -> list[dict[str, Any]]:
    return [item for _, _, array in to_json(run, base_ns, **limits) for item in json.loads(array)]


def mixed(rng: random.Random, count: int) -> list[bytes]:
    """Events, flows and samples of few processes, some of which exec again, with few lists of ancestors."""
    lists = [chance.process(rng).ancestors for _ in range(2)]
    owners: list[Any] = [*OwnerLabel]
    for _ in range(4):
        one = msgspec.structs.replace(chance.process(rng), ancestors=rng.choice(lists))
        owners += [one, msgspec.structs.replace(one, args=b"again\0", args_total=6)]
    made = []
    for _ in range(count):
        kind = rng.randrange(8)
        if kind == 0:
            made.append(records.encode_sample(chance.sample(rng), BASE))
        elif kind == 1:
            made.append(cbor2.dumps(chance.flow_record(rng)))
        elif kind == 2:
            owner = rng.choice(owners)
            fields = owner.value if isinstance(owner, OwnerLabel) else records.process_fields(owner)
            made.append(cbor2.dumps([*chance.flow_record(rng)[:23], fields]))
        else:
            event = chance.event(rng)
            if hasattr(event, "owner"):
                event = msgspec.structs.replace(event, owner=rng.choice(owners))
            made.append(records.encode(event, BASE))
    return made


# ---- the same as without sharing


@given(st.randoms(use_true_random=False))
def test_items_with_all_their_members_are_those_that_share_nothing(rng: random.Random) -> None:
    run = b"".join(mixed(rng, 20))
    assert whole(run) == plain(run)


@pytest.mark.parametrize("limits", [{}, {"most_items": 7}, {"most_bytes": 3000}, {"most_expanded": 5000}])
def test_thousands_of_items(limits: dict[str, int]) -> None:
    run = b"".join(mixed(random.Random(23), 3000))
    parts = to_shared_json(run, BASE, **limits)
    of_plain = {name: value for name, value in limits.items() if name != "most_expanded"}
    assert whole(run, **limits) == plain(run, **of_plain)
    place = 0
    for first, count, items, shared in parts:
        assert first == place
        assert count <= limits.get("most_items", 512)
        assert len(items) + len(shared) <= limits.get("most_bytes", 49_152)
        place += count
    assert place == 3000


def test_no_key_stands_twice() -> None:
    for part in to_shared_json(b"".join(mixed(random.Random(5), 500)), BASE):
        items, objects = opened(part)
        for item in items:
            pairs = json.loads(shared_items.expand(item, objects), object_pairs_hook=list)
            assert len({key for key, _ in pairs}) == len(pairs)


def test_what_is_shared_is_told_once() -> None:
    process = msgspec.structs.replace(chance.process(random.Random(2)), pid=7, args=b"a\0", args_total=2)
    sibling = msgspec.structs.replace(process, pid=8)
    assert process.ancestors
    run = b"".join(
        records.encode(event, BASE)
        for owner in (process, sibling)
        for event in (
            ExecEvent(time_ns=BASE, owner=owner),
            ExitEvent(time_ns=BASE + 1, owner=owner, code=0, signal=0, duration_ns=1),
        )
    )
    ((_, _, items, shared),) = to_shared_json(run, BASE)
    objects = json.loads(shared)
    assert [sorted(objects[0]), objects[1]["shared"], objects[2]["shared"]] == [["ancestors"], 0, 0]
    assert [objects[1]["pid"], objects[2]["pid"]] == [7, 8]
    assert [item["shared"] for item in json.loads(items)] == [1, 1, 2, 2]
    assert shared.count(b'"ancestors"') == 1


def test_the_owner_of_an_event_and_that_of_a_flow_are_two() -> None:
    process = chance.process(random.Random(2))
    flow = cbor2.dumps([*chance.flow_record(random.Random(3))[:23], records.process_fields(process)])
    event = records.encode(ExecEvent(time_ns=BASE, owner=process), BASE)
    for run in (flow + event + flow, event + flow + event):
        assert whole(run) == plain(run)
        assert to_shared_json(run, BASE)[0][3].count(b'"owner":"process"') == 2


@pytest.mark.parametrize("label", OwnerLabel)
def test_nobody_is_shared_too(label: OwnerLabel) -> None:
    many: dict[str, Any] = {"protocol": 6, "source": bytes(16), "source_port": 1, "destination": bytes(16)}
    event = ConnectEvent(time_ns=BASE, owner=label, destination_port=2, cookie=3, **many)
    flow = cbor2.dumps([*chance.flow_record(random.Random(3))[:23], label.value])
    run = records.encode(event, BASE) * 3 + flow * 3
    assert whole(run) == plain(run)
    assert len(json.loads(to_shared_json(run, BASE)[0][3])) == 2


def test_many_that_begin_alike_are_told_apart() -> None:
    """One process that execs on and on: the same pid and start each time."""
    process = chance.process(random.Random(2))
    run = b"".join(
        records.encode(ExecEvent(time_ns=BASE, owner=msgspec.structs.replace(process, args=text, args_total=9)), BASE)
        for number in range(300)
        for text in (b"%d\0" % number, b"%d\0" % (number // 2))
    )  # fmt: skip
    assert whole(run) == plain(run)


# ---- limits


def test_an_array_is_as_full_as_it_may_be() -> None:
    run = b"".join(mixed(random.Random(8), 600))
    ends = records_of(run)
    parts = to_shared_json(run, BASE, most_bytes=20_000)
    assert len(parts) > 3
    for (first, count, *_), _ in pairwise(parts):
        more = run[ends[first] : ends[first + count + 1]]
        assert len(to_shared_json(more, BASE, most_bytes=20_000)) == 2


def test_more_objects_than_a_batch_may_share() -> None:
    """The items behind them stand for themselves, in the same array."""
    rng = random.Random(4)
    ancestor = Ancestor(pid=1, start_ns=2, comm=b"a", exe=b"/a")
    process = msgspec.structs.replace(chance.process(rng), args=b"", args_total=0)
    run = b"".join(
        records.encode(
            ExecEvent(
                time_ns=BASE,
                owner=msgspec.structs.replace(
                    process, pid=number, ancestors=(msgspec.structs.replace(ancestor, pid=number),)
                ),
            ),
            BASE,
        )
        for number in range(600)
    )
    ((_, count, _, shared),) = to_shared_json(run, BASE, most_items=10_000, most_bytes=1 << 24)
    assert (count, len(json.loads(shared))) == (600, 1024)
    assert whole(run, most_items=10_000, most_bytes=1 << 24) == plain(run)


def test_items_stand_for_no_more_than_they_may() -> None:
    process = msgspec.structs.replace(
        chance.process(random.Random(2)), args=b"x" * 8000 + b"\0", args_total=8001
    )
    run = records.encode(ExecEvent(time_ns=BASE, owner=process), BASE) * 500
    parts = to_shared_json(run, BASE)
    assert len(parts) > 3
    for part in parts:
        items, objects = opened(part)
        assert sum(len(shared_items.expand(item, objects)) for item in items) <= v1.BATCH_EXPANDED_BYTES


def vast(size: int) -> bytes:
    process = msgspec.structs.replace(
        chance.process(random.Random(2)), args=b"\x01" * size + b"\0", args_total=size + 1
    )
    return records.encode(ExecEvent(time_ns=BASE, owner=process), BASE)


def test_what_is_too_long_alone_is_shortened_and_names_nothing() -> None:
    rest = mixed(random.Random(3), 40)
    run = b"".join((*rest[:20], vast(9000), vast(9000), *rest[20:]))
    assert whole(run) == plain(run)
    assert len(to_shared_json(run, BASE)) == 1
    assert [item["args"] for item in whole(run)[20:22]] == [None, None]


def test_what_is_too_long_for_the_room_that_sharing_takes_is_whole() -> None:
    record = vast(7000)
    size = len(to_json(record, BASE)[0][2])
    ((_, _, items, shared),) = to_shared_json(record, BASE, most_bytes=size)
    assert (items, shared) == (to_json(record, BASE)[0][2], b"")
    assert whole(record, most_bytes=size - 1) == plain(record, most_bytes=size - 1)
    assert whole(record, most_bytes=size - 1)[0]["args"] is None


@pytest.mark.parametrize("most_bytes", [1, 300, 900, 1500, 2500])
def test_any_room(most_bytes: int) -> None:
    run = b"".join(mixed(random.Random(9), 300))
    assert whole(run, most_bytes=most_bytes) == plain(run, most_bytes=most_bytes)


def test_a_finding_whose_last_key_is_that_name_is_not_taken_for_one_that_shares() -> None:
    event = mixed(random.Random(3), 1)[0]
    finding = cbor2.dumps([10, 4, {"a": 1, "shared": 0}])
    for run in (event * 3 + finding + event * 3, finding + event * 3, event + finding * 2):
        assert whole(run) == plain(run)
    assert [len(json.loads(part[2])) for part in to_shared_json(event * 3 + finding + event, BASE)] == [3, 2]


def test_no_records_and_no_limits() -> None:
    assert to_shared_json(b"", BASE) == []
    assert to_shared_json(records.encode_sample(chance.sample(random.Random(1)), BASE), BASE)[0][3] == b""
    for name in ("most_items", "most_bytes", "most_expanded"):
        with pytest.raises(ValueError):
            to_shared_json(b"", BASE, **{name: 0})


# ---- what is no record


def same_fate(run: bytes) -> None:
    """Both tell the same, or that it is malformed."""
    try:
        wanted = plain(run)
    except RecordsMalformed:
        with pytest.raises(RecordsMalformed) as found:
            to_shared_json(run, BASE)
        assert 0 <= found.value.offset <= len(run)
        return
    assert whole(run) == wanted


def seeds() -> list[bytes]:
    rng = random.Random(12)
    process = chance.process(rng)
    exec_ = records.encode(ExecEvent(time_ns=BASE, owner=process), BASE)
    flow = cbor2.dumps([*chance.flow_record(rng)[:23], records.process_fields(process)])
    return [
        exec_,
        flow,
        cbor2.dumps([1, 0, "kernel"]),
        cbor2.dumps([*chance.flow_record(rng)[:23], "forwarded"]),
    ]


@pytest.mark.parametrize("record", seeds())
def test_cut_short_anywhere(record: bytes) -> None:
    for size in range(1, len(record)):
        with pytest.raises(RecordsMalformed):
            to_shared_json(record + record[:size], BASE)


@pytest.mark.parametrize("record", seeds())
def test_any_byte_changed_of_the_second_of_two(record: bytes) -> None:
    for at in range(len(record)):
        for value in LEADS:
            same_fate(record + record[:at] + bytes((value,)) + record[at + 1 :])
    same_fate(record[:-1] + record)


@given(st.binary(max_size=200))
def test_noise(noise: bytes) -> None:
    for run in (noise, b"\x83\x01\x00" + noise, b"\x98\x18\x08\x00" + noise, seeds()[0] + noise):
        with suppress(RecordsMalformed):
            same_fate(run)
