"""The hub with the real sensors: loaded for the first listener, gone with the last, counted to the unit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from aegis._native.records import RecordBatch, decode
from aegis.errors import FeatureUnsupported, LoadRejected
from aegis.kernel import abi
from aegis.kernel.constants import SECTION, Constants
from aegis.kernel.hub import Hub, RecordTerms
from aegis.kernel.library import open_library
from aegis.kernel.object import BpfObject
from aegis.kernel.sensors import SENSORS, SHARED

pytestmark = pytest.mark.require("root", "bpf", "tracing", "ringbuf")

PATIENCE_S = 30.0
CONSTANTS = Constants(agent_tgid=0, ring_bytes=1 << 20, ring_reserved_bytes=1 << 17)
SIZES = {"aegis_ring": 1 << 20}


class Listener:
    """Takes what the hub publishes, and waits until a condition on it holds."""

    def __init__(self) -> None:
        self.records: list[tuple[str, tuple[object, ...]]] = []
        self._arrived = asyncio.Event()

    def take(self, topic: str, batch: RecordBatch) -> None:
        kinds = next(sensor.kinds for sensor in SENSORS if sensor.topic == topic)
        self.records += [(topic, record) for record in decode(batch, kinds)]
        self._arrived.set()

    def of(self, topic: str, kind: int, pids: frozenset[int]) -> list[int]:
        return [int(str(r[3])) for t, r in self.records if t == topic and r[0] == kind and r[3] in pids]

    async def until(self, topic: str, kind: int, pids: frozenset[int]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not set(self.of(topic, kind, pids)) >= pids:
                self._arrived.clear()
                await self._arrived.wait()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def hub(listener: Listener) -> Iterator[Hub]:
    made = Hub(publish=listener.take, constants=CONSTANTS, map_sizes=SIZES)
    yield made
    made.close()


async def run(count: int) -> frozenset[int]:
    """Execute `count` programs, one after the other; their process ids."""
    pids = set()
    for _ in range(count):
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()
        pids.add(process.pid)
    assert len(pids) == count
    return frozenset(pids)


def sums(terms: tuple[RecordTerms, ...]) -> list[RecordTerms]:
    """Those that do not add up."""
    return [
        each
        for each in terms
        if each.attempted != each.submitted + each.ring_full + each.filtered + each.rate_limited
        or each.read != each.submitted
    ]


async def test_execs_arrive_once_and_the_terms_add_up(hub: Hub, listener: Listener) -> None:
    hub.start(asyncio.get_running_loop())
    assert hub.record_counters() == ()
    hub.wanted("process")
    assert hub.sensors() == ("process",)
    pids = await run(31)
    await listener.until("process", abi.KIND_EXIT, pids)
    assert sorted(listener.of("process", abi.KIND_EXEC, pids)) == sorted(pids)
    assert sorted(listener.of("process", abi.KIND_EXIT, pids)) == sorted(pids)
    terms = hub.record_counters()
    assert sums(terms) == []
    executed = next(each for each in terms if each.kind == "exec")
    assert executed.submitted >= 31
    assert hub.map_bytes() > 1 << 20


async def test_a_planted_loss_of_one_record_is_seen(hub: Hub) -> None:
    """A reader that throws one record away without counting it makes the identity false."""
    hub.start(asyncio.get_running_loop())
    hub.wanted("process")
    await run(7)
    assert sums(hub.record_counters()) == []
    reader = hub._shared["aegis_reader"]
    value = reader.lookup(bytes(4))
    assert value is not None
    counts = abi.unpack("aegis_reader", bytearray(value))
    counts.read[abi.KIND_EXEC] -= 1
    reader.update(bytes(4), bytes(abi.buffer(counts)))
    assert [each.kind for each in sums(hub.record_counters())] == ["exec"]


async def test_no_listener_no_programs(hub: Hub, listener: Listener) -> None:
    hub.start(asyncio.get_running_loop())
    hub.wanted("process")
    hub.wanted("process")
    pids = await run(7)
    await listener.until("process", abi.KIND_EXIT, pids)
    hub.unwanted("process")
    hub.unwanted("process")
    assert hub.sensors() == ()
    before = hub.record_counters()
    await run(7)
    assert hub.record_counters() == before
    hub.wanted("process")
    pids = await run(7)
    await listener.until("process", abi.KIND_EXIT, pids)
    assert sums(hub.record_counters()) == []


async def test_topics_get_their_own_kinds_from_one_ring(hub: Hub, listener: Listener) -> None:
    hub.start(asyncio.get_running_loop())
    hub.wanted("process")
    hub.wanted("socket")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    await listener.until("socket", abi.KIND_CONNECT, frozenset({os.getpid()}))
    ours = [record for topic, record in listener.records if topic == "socket" and record[11] == port]
    assert [record[0] for record in ours if record[0] == abi.KIND_CONNECT] == [abi.KIND_CONNECT]
    assert {topic for topic, _ in listener.records} <= {"process", "socket"}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The programs of every load, sorted, in order."""
    seen: list[tuple[str, ...]] = []
    real = BpfObject.load

    def load(opened: BpfObject) -> None:
        _, lib = open_library()
        chosen = [name for name, each in opened.program_pointers() if lib.bpf_program__autoload(each)]
        seen.append(tuple(sorted(chosen)))
        real(opened)

    monkeypatch.setattr(BpfObject, "load", load)
    return seen


OBSERVE = {each.topic: tuple(sorted(each.programs)) for each in SENSORS if each.object == "observe"}
EVERY = tuple(sorted(name for programs in OBSERVE.values() for name in programs))


def test_the_object_is_loaded_once_for_all_topics(hub: Hub, loads: list[tuple[str, ...]]) -> None:
    for topic in OBSERVE:
        hub.wanted(topic)
    assert loads == [EVERY]
    objects = {id(each.object) for each in hub._sensors.values()}
    assert len(objects) == 1
    hub.unwanted("socket")
    hub.wanted("socket")
    assert loads == [EVERY, OBSERVE["socket"]], "nothing that the programs noted before is met again"
    opened = hub._sensors["process"].object
    assert opened is not None
    for topic in OBSERVE:
        hub.unwanted(topic)
    assert opened.maps() == (), "unloaded with the last topic"
    hub.wanted("cgroup")
    assert loads[2:] == [EVERY]


async def test_one_refused_program_takes_only_its_topic_along(
    hub: Hub, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BpfObject.load

    def load(opened: BpfObject) -> None:
        _, lib = open_library()
        if any(
            name == "tp_sock_state" and lib.bpf_program__autoload(each)
            for name, each in opened.program_pointers()
        ):
            raise LoadRejected("load", "observe: tp_sock_state")
        real(opened)

    monkeypatch.setattr(BpfObject, "load", load)
    hub.start(asyncio.get_running_loop())
    hub.wanted("process")
    with pytest.raises(LoadRejected):
        hub.wanted("socket")
    hub.wanted("cgroup")
    assert hub.sensors() == ("process", "cgroup")
    pids = await run(3)
    await listener.until("process", abi.KIND_EXIT, pids)


def test_a_ring_of_another_size_gets_constants_that_fit(listener: Listener) -> None:
    """As after a restart with a smaller ring in the configuration: the pinned one stays."""
    with BpfObject.open("core", constants=CONSTANTS, map_sizes={"aegis_ring": 1 << 21}, autoload=()) as core:
        core.load()
        hub = Hub(publish=listener.take, constants=CONSTANTS, map_sizes=SIZES, shared=core.maps())
        try:
            hub.wanted("cgroup")
            opened = hub._sensors["cgroup"].object
            assert opened is not None
            stored = opened.map(SECTION).lookup(bytes(4))
            assert stored is not None
            constants = abi.unpack("aegis_constants", stored)
            assert constants.ring_bytes == opened.map("aegis_ring").max_entries == 1 << 21
            assert constants.ring_reserved_bytes == 1 << 18
        finally:
            hub.close()


def test_a_topic_without_its_object_is_refused(hub: Hub) -> None:
    with pytest.raises(FeatureUnsupported, match="object core is not loaded"):
        hub.wanted("verdict")
    with pytest.raises(FeatureUnsupported, match="no sensor"):
        hub.wanted("weather")
    assert hub.sensors() == ()


async def test_tables_of_the_core_are_shared(listener: Listener) -> None:
    with BpfObject.open("core", constants=CONSTANTS, map_sizes=SIZES, autoload=()) as core:
        core.load()
        hub = Hub(publish=listener.take, constants=CONSTANTS, map_sizes=SIZES, shared=core.maps())
        try:
            hub.start(asyncio.get_running_loop())
            hub.wanted("verdict")
            hub.wanted("process")
            pids = await run(7)
            await listener.until("process", abi.KIND_EXIT, pids)
            assert sums(hub.record_counters()) == []
            mine = {table.name: table.id for table in hub.maps()}
            theirs = {table.name: table.id for table in core.maps() if table.name in SHARED}
            assert mine.items() >= theirs.items()
        finally:
            hub.close()


def test_the_table_of_sensors_has_no_gap_and_no_double() -> None:
    """Every kind but the tests' own has one topic, every program of the object one sensor."""
    kinds = [kind for sensor in SENSORS for kind in sensor.kinds]
    known = {
        number
        for name, number in abi.enum("aegis_kind").items()
        if name not in ("AEGIS_KIND_NONE", "AEGIS_KIND_SYNTHETIC", "AEGIS_KINDS")
    }
    assert sorted(kinds) == sorted(known)
    with BpfObject.open("observe") as opened:
        named = [name for sensor in SENSORS if sensor.object == "observe" for name in sensor.programs]
        assert sorted(named) == sorted(opened.program_names())
