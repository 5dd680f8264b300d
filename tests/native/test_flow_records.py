"""Flows as records: what `flow_of` says of a row, once when it is new, once when it is over, and in between by interval."""

from __future__ import annotations

import random
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis._native.flow_records import FlowEncoder, shortened
from aegis._native.flowtable import FlowTable
from aegis._native.transcode import to_json
from aegis.kernel import abi
from aegis.model import flow as flows
from aegis.model.block import BlockClass, Encoded
from aegis.model.flow import Flow
from aegis.model.policy import Mode, RuleName
from aegis.model.process import Owner, OwnerLabel, Process
from aegis.model.records import decode, loads, process_fields
from aegis.modules.observability.flows import flow_of
from tests.support import records as chance
from tests.support.judged import packed

BASE = chance.BASE_NS
OFFSET = BASE - 777
SECOND = 1_000_000_000
INTERVAL = 60 * SECOND
CLOSED = abi.FLOW_CLOSED


def row(number: int = 0, packets: int = 1, *, ifindex: int = 0, **value: Any) -> bytes:
    """Flow NUMBER with as many packets out, and one in."""
    key = {"local": bytes(16), "remote": number.to_bytes(16, "big"), "protocol": 6, "ifindex": ifindex}
    counted = {"packets": [packets, 1], "bytes": [40 * packets, 40], "first_ns": 1 + number}
    return abi.pack("aegis_flow_row", key=key, value=packed(counted | value))


def any_row(rng: random.Random) -> bytes:
    key = {
        "local": chance.address(rng),
        "remote": chance.address(rng),
        "local_port": chance.number(rng, 16),
        "remote_port": chance.number(rng, 16),
        "ifindex": rng.randrange(5),
        "protocol": rng.choice((6, 17, 1, 58, chance.number(rng, 8))),
        "fragment": rng.randrange(2),
    }
    value = {
        "packets": [chance.number(rng), chance.number(rng)],
        "bytes": [chance.number(rng), chance.number(rng)],
        "generation": chance.number(rng, 32),
        "rule": rng.choice((0, rng.randrange(1, 9))),
        "verdict": rng.randrange(3),
        "initiator": rng.randrange(2),
        "epoch": rng.randrange(2**31),
        "tcp_flags": [chance.number(rng, 8), chance.number(rng, 8)],
        "state": rng.choice((0, 1, 3, 7)),
        "owner": rng.randrange(12),
        "first_ns": chance.number(rng, 60),
        "dropped_packets": chance.number(rng),
    }
    return abi.pack("aegis_flow_row", key=key, value=packed(value))


class Told:
    """A table, its encoder, and what it told of."""

    def __init__(self, capacity: int = 64) -> None:
        self.table = FlowTable(capacity)
        self.table.next_harvest()
        self.now_ns = 100 * SECOND
        self.asked: list[int] = []
        self.encoder = FlowEncoder(self.owner_of, lambda _generation, _rule: None, {}.get)

    def owner_of(self, owner: int) -> bytes | None:
        self.asked.append(owner)
        return None

    def due(self, **options: Any) -> list[Flow]:
        known: dict[str, Any] = {
            "now_ns": self.now_ns,
            "wall_offset_ns": OFFSET,
            "base_ns": BASE,
            "interval_ns": INTERVAL,
        }
        count, run = self.encoder.encode(self.table, **(known | options))
        found = [decode(record, BASE) for record in loads(Encoded(BlockClass.FLOW, BASE, count, run))]
        assert len(found) == count
        assert all(isinstance(one, Flow) for one in found)
        return found  # type: ignore[return-value]

    def sent(self, **options: Any) -> list[int]:
        return [one.packets_sent for one in self.due(**options)]


# ---- what is told


def test_a_record_says_what_flow_of_says() -> None:
    rng = random.Random(41)
    owners: dict[int, Owner | None] = {
        at: rng.choice((None, *OwnerLabel)) if at % 3 == 0 else chance.process(rng) for at in range(12)
    }
    rules = {
        at: RuleName(policy=chance.text(rng), rule=chance.text(rng), mode=Mode.ENFORCE, deny=True)
        for at in range(1, 7)
    }
    names = {1: "lo", 2: "eth0", 3: "v\\é"}
    table = FlowTable(4096)
    table.next_harvest()
    table.ingest(b"".join(any_row(rng) for _ in range(1500)))
    table.ingest(b"".join(any_row(rng) for _ in range(500)), reaped=True)

    def owner_of(identity: int) -> bytes | None:
        owner = owners[identity]
        if isinstance(owner, Process):
            return cbor2.dumps(process_fields(owner))
        return None if owner is None else cbor2.dumps(owner.value)

    encoder = FlowEncoder(owner_of, lambda _generation, rule: rules.get(rule), names.get)
    expected = sorted(
        flows.encode(
            flow_of(
                one,
                time_ns=OFFSET + 5,
                wall_offset_ns=OFFSET,
                owner=owners[one.owner],
                rule=rules.get(one.rule) if one.rule else None,
                interface=names.get(one.ifindex),
            )
        )
        for one in table.rows()
    )
    found: list[bytes] = []
    while True:
        count, run = encoder.encode(
            table, now_ns=5, wall_offset_ns=OFFSET, base_ns=BASE, interval_ns=INTERVAL
        )
        if not count:
            break
        for record in loads(Encoded(BlockClass.FLOW, BASE, count, run)):
            ((_, _, array),) = to_json(cbor2.dumps(record), BASE)
            found.append(array[1:-1])
    assert len(found) == 2000
    assert sorted(found) == expected


def test_an_owner_is_without_what_its_exec_event_tells() -> None:
    process = process_fields(chance.process(random.Random(6)))
    found = cbor2.loads(shortened(cbor2.dumps(process)))
    reason = cbor2.CBORTag(60000, "its exec event tells it")
    assert found == [*process[:8], reason, process[9], reason, process[11], []]
    assert shortened(cbor2.dumps("kernel")) == cbor2.dumps("kernel")


@pytest.mark.parametrize("fragment", [b"", b"\x80", b"\x01", cbor2.dumps([1, 2]), b"\x8d\x01", b"\x9f\xff"])
def test_what_is_no_owner(fragment: bytes) -> None:
    with pytest.raises(ValueError):
        shortened(fragment)


def test_each_distinct_name_is_asked_for_once() -> None:
    told = Told()
    asked: list[tuple[int, int]] = []
    links: list[int] = []

    def interface_of(index: int) -> str:
        links.append(index)
        return "eth7"

    told.encoder = FlowEncoder(
        told.owner_of, lambda generation, rule: asked.append((generation, rule)), interface_of
    )
    told.table.ingest(
        b"".join(row(at, owner=5 + at % 2, rule=at % 3, generation=7 + at % 2) for at in range(30))
    )
    assert len(told.due()) == 30
    assert sorted(told.asked) == [5, 6]
    assert sorted(asked) == [(7, 1), (7, 2), (8, 1), (8, 2)]
    assert links == [0]
    told.encoder.forget()
    told.table.ingest(row(99, owner=5))
    (later,) = told.due()
    assert told.asked[2:] == [5]
    assert links == [0, 0]
    assert later.interface == "eth7"


def test_a_forgotten_owner_has_a_reason_and_a_gone_interface_too() -> None:
    told = Told()
    told.table.ingest(row(ifindex=2**32 - 1))
    (one,) = told.due()
    assert (one.owner, one.pid) == ("unknown", None)
    assert one.pid_reason == flows.FORGOTTEN
    assert one.interface_reason == "no interface has the index 4294967295 any more"


# ---- when


def test_new_changed_and_over() -> None:
    told = Told()
    told.table.ingest(row(packets=1))
    assert told.sent() == [1]
    assert told.sent() == []
    told.now_ns += 10 * SECOND
    told.table.ingest(row(packets=2))
    assert told.sent() == [], "told of less than an interval ago"
    told.now_ns += 50 * SECOND
    assert told.sent() == [2], "an interval after the first"
    told.now_ns += INTERVAL
    assert told.sent() == [], "nothing changed"
    told.now_ns += INTERVAL
    told.table.ingest(row(packets=3))
    assert told.sent() == [3], "at once after a long rest"
    told.now_ns += SECOND
    told.table.ingest(row(packets=4), reaped=True)
    (last,) = told.due()
    assert (last.packets_sent, last.state) == (4, "closed")
    told.now_ns += 2 * INTERVAL
    assert told.sent() == []


def test_closed_is_told_at_once_and_its_end_only_when_it_differs() -> None:
    told = Told()
    told.table.ingest(row(packets=1))
    assert told.sent() == [1]
    told.table.ingest(row(packets=5, state=CLOSED))
    (closed,) = told.due()
    assert (closed.packets_sent, closed.state) == (5, "closed")
    told.table.ingest(row(packets=5, state=CLOSED), reaped=True)
    assert told.sent() == [], "the same was told as closed"
    told.table.ingest(row(1, packets=1, state=CLOSED))
    assert told.sent() == [1]
    told.table.ingest(row(1, packets=2, state=CLOSED))
    assert told.sent() == [], "the last acknowledgements wait"
    told.table.ingest(row(1, packets=2, state=CLOSED), reaped=True)
    assert told.sent() == [2], "but not beyond the end"


def test_reaped_without_a_change_is_told_when_it_was_told_as_open() -> None:
    told = Told()
    told.table.ingest(row(packets=1))
    assert told.sent() == [1]
    told.table.ingest(row(packets=1), reaped=True)
    (last,) = told.due()
    assert last.state == "closed"


def test_a_shorter_interval_counts_at_once() -> None:
    told = Told()
    told.table.ingest(row(packets=1))
    told.sent()
    told.table.ingest(row(packets=2))
    told.now_ns += 5 * SECOND
    assert told.sent() == []
    assert told.sent(interval_ns=5 * SECOND) == [2]


def test_slices_are_bounded_and_lose_nothing() -> None:
    told = Told(1024)
    told.table.ingest(b"".join(row(at, packets=at) for at in range(1000)))
    assert told.sent(most_items=7) == list(range(7))
    found = list(range(7))
    while more := told.due(most_bytes=3000):
        found += [one.packets_sent for one in more]
        assert len(more) < 25
    assert sorted(found) == list(range(1000))
    assert told.sent(most_bytes=1) == []
    told.table.ingest(row(2000, packets=1) + row(2001, packets=2))
    assert [told.sent(most_bytes=1), told.sent(most_bytes=1)] == [[1], [2]]


def test_what_a_look_up_raises_loses_nothing() -> None:
    told = Told()
    failing = True

    def owner_of(_owner: int) -> None:
        if failing:
            raise OSError("not now")

    told.encoder = FlowEncoder(owner_of, lambda _generation, _rule: None, {}.get)
    told.table.ingest(row(1, packets=1) + row(2, packets=2))
    with pytest.raises(OSError, match="not now"):
        told.due()
    failing = False
    assert sorted(told.sent()) == [1, 2]
    told.table.ingest(row(1, packets=3))
    told.now_ns += INTERVAL
    told.encoder.forget()
    failing = True
    with pytest.raises(OSError, match="not now"):
        told.due()
    failing = False
    assert told.sent() == [3]


def test_rows_dropped_before_they_were_told_are_counted() -> None:
    told = Told(2)
    told.table.ingest(row(1) + row(2) + row(3))
    assert told.table.untold == 1
    assert len(told.due()) == 2
    told.table.ingest(row(4) + row(5))
    assert told.table.untold == 1, "those dropped now were told"
    told.table.ingest(row(4, packets=2), reaped=True)
    told.table.next_harvest()
    told.table.next_harvest()
    assert told.table.forget(1) == 1
    assert told.table.untold == 2


class Reference:
    """When each flow is to be told, said plainly."""

    def __init__(self) -> None:
        self.now: dict[int, tuple[int, bool]] = {}  # packets, over
        self.told: dict[int, tuple[int, tuple[int, bool]]] = {}  # instant, what

    def due(self, now_ns: int) -> dict[int, int]:
        found = {}
        for number, (packets, over) in self.now.items():
            before = self.told.get(number)
            if before is None:
                wanted = True
            elif before[1] == (packets, over):
                wanted = False
            else:
                wanted = (over and not before[1][1]) or now_ns - before[0] >= INTERVAL
            if wanted:
                found[number] = packets
                self.told[number] = (now_ns, (packets, over))
        return found


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(1, 4),
            st.sampled_from((0, 0, 0, 1, 7)),
            st.sampled_from((0, 1, 20, 30, 70)),
        ),
        max_size=60,
    )
)
def test_flows_are_told_when_a_plain_model_says(steps: list[tuple[int, int, int, int]]) -> None:
    """Without reaping: a flow that closed stays closed."""
    told, model = Told(), Reference()
    state: dict[int, int] = {}
    for number, more, bits, seconds in steps:
        told.now_ns += seconds * SECOND
        packets = model.now.get(number, (0, False))[0] + more
        state[number] = state.get(number, 0) | bits
        told.table.next_harvest()
        told.table.ingest(row(number, packets=packets, state=state[number]))
        model.now[number] = (packets, state[number] == CLOSED)
        expected = model.due(told.now_ns)
        assert {
            int(one.dst.removeprefix("::") or "0", 16): one.packets_sent for one in told.due()
        } == expected


def test_of_a_forgotten_rule() -> None:
    told = Told()
    told.table.ingest(row(rule=3))
    (one,) = told.due()
    assert (one.policy, one.policy_reason) == (None, flows.RULE_FORGOTTEN)
