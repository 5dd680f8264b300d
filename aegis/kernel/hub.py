"""The hub: attaches a sensor while its topic has a listener, and hands the ring's batches to the topics they belong to.

An object's sensors are loaded together with the first of them: most of the time a load takes is for opening the object
and reading the kernel's type information, once instead of for every topic. They leave together with the last listener.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aegis._native.records import RecordBatch
from aegis.errors import FeatureUnsupported, KernelError
from aegis.kernel import abi
from aegis.kernel.constants import Constants
from aegis.kernel.links import Link, attach_tracing
from aegis.kernel.maps import Map, map_bytes
from aegis.kernel.object import BpfObject, Program
from aegis.kernel.pins import close_all
from aegis.kernel.rings import RingPump
from aegis.kernel.sensors import KIND_NAMES, READER, RECORD_COUNTERS, RING, SENSORS, SHARED, Sensor

SNAPSHOT_TRIES = 32
COUNTERS = abi.struct("aegis_record_counters").size // 8

Publish = Callable[[str, RecordBatch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTerms:
    """One kind's counts since the tables were made. The first five: map aegis_record_counters, summed over the CPUs;
    `read`: map aegis_reader. attempted = submitted + ring_full + filtered + rate_limited, and read = submitted."""

    kind: str
    attempted: int
    submitted: int
    ring_full: int
    filtered: int
    rate_limited: int
    read: int


class Loaded:
    """A sensor in the kernel. Its object may serve other sensors too."""

    def __init__(self, opened: BpfObject | None, links: list[Link]) -> None:
        self.object = opened
        self._links = links

    def detach(self) -> None:
        for link in self._links:
            link.close()
        self._links.clear()


class Together:
    """An object loaded with the programs of all its sensors, and the topics that have not been attached from it."""

    def __init__(self, opened: BpfObject, fresh: set[str]) -> None:
        self.object = opened
        self.fresh = fresh


class Hub:
    """Owner of the ring's reader and of the sensors. All calls on the loop's thread.

    `shared` are the core object's tables; without them (no core) the first sensor makes its own. Give `wanted` and
    `unwanted` to the bus.
    """

    def __init__(
        self,
        *,
        publish: Publish,
        constants: Constants,
        map_sizes: Mapping[str, int],
        shared: Iterable[Map] = (),
        btf: Path | None = None,
    ) -> None:
        self._publish = publish
        self._constants = constants
        self._map_sizes = map_sizes
        self._btf = btf
        self._has_core = False
        self._shared: dict[str, Map] = {}
        try:
            for table in shared:
                if table.name in SHARED:
                    self._shared[table.name] = table.duplicate()
                    self._has_core = True
        except BaseException:
            close_all(self._shared.values())
            raise
        if RING in self._shared:
            # A ring that was pinned keeps its size, whatever the configuration says now.
            self._constants = constants.for_ring(self._shared[RING].max_entries)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pump: RingPump | None = None
        self._sensors: dict[str, Loaded] = {}
        self._together: dict[str, Together] = {}  # by the object's name
        self._alone: set[str] = set()  # objects of which this kernel does not take every program
        self._routes: tuple[tuple[str, int], ...] = ()  # topic, and a bit for each of its kinds

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read the ring on `loop` from now on."""
        self._loop = loop
        self._open_ring()

    def _open_ring(self) -> None:
        if self._pump is None and self._loop is not None and RING in self._shared:
            self._pump = RingPump(self._shared[RING], self._shared[READER], self._deliver)
            self._pump.start(self._loop)

    def wanted(self, topic: str) -> None:
        """A topic got its first listener. Raises KernelError when its programs cannot be loaded or attached."""
        if topic in self._sensors:
            return
        sensor = find_sensor(topic)
        self._sensors[topic] = self._load(sensor)
        self._open_ring()
        self._route()

    def unwanted(self, topic: str) -> None:
        """A topic lost its last listener: its programs go. What they left in the ring is read and dropped."""
        loaded = self._sensors.pop(topic, None)
        if loaded is not None:
            loaded.detach()
            self._release(loaded.object)
        self._route()

    def _route(self) -> None:
        self._routes = tuple(
            (sensor.topic, sum(1 << kind for kind in sensor.kinds))
            for sensor in SENSORS
            if sensor.topic in self._sensors
        )

    def _load(self, sensor: Sensor) -> Loaded:
        if not sensor.programs:
            if not self._has_core:
                raise FeatureUnsupported(
                    "listen to",
                    sensor.topic,
                    detail=f"object {sensor.object} is not loaded: aegis status says why (kernel_unavailable)",
                )
            return Loaded(None, [])
        opened = self._open(sensor)
        with contextlib.ExitStack() as undo:
            undo.callback(self._release, opened)
            links = [undo.enter_context(attach_tracing(opened.program(name))) for name in sensor.programs]
            undo.pop_all()
        for table in opened.maps():
            if table.name in SHARED and table.name not in self._shared:
                self._shared[table.name] = table.duplicate()
        return Loaded(opened, links)

    def _open(self, sensor: Sensor) -> BpfObject:
        """A loaded object with the sensor's programs and no trace of what they saw before, shared where that is so."""
        together = self._together.get(sensor.object)
        if together is None and sensor.object not in self._alone:
            every = [each for each in SENSORS if each.object == sensor.object]
            try:
                opened = self._loaded(sensor.object, [name for each in every for name in each.programs])
            except KernelError:
                self._alone.add(sensor.object)
            else:
                together = Together(opened, {each.topic for each in every})
                self._together[sensor.object] = together
        if together is None or sensor.topic not in together.fresh:
            # A sensor that comes back: what its programs noted before they left must not be taken for news.
            return self._loaded(sensor.object, sensor.programs)
        together.fresh.remove(sensor.topic)
        return together.object

    def _loaded(self, name: str, programs: Collection[str]) -> BpfObject:
        opened = BpfObject.open(
            name,
            constants=self._constants,
            map_sizes=self._map_sizes,
            autoload=programs,
            reuse=self._shared,
            btf=self._btf,
        )
        try:
            opened.load()
        except BaseException:
            opened.close()
            raise
        return opened

    def _release(self, opened: BpfObject | None) -> None:
        """Unload an object that no sensor uses any more."""
        if opened is None or any(each.object is opened for each in self._sensors.values()):
            return
        together = self._together.get(opened.name)
        if together is not None and together.object is opened:
            del self._together[opened.name]
        opened.close()

    def _deliver(self, batch: RecordBatch) -> None:
        there = batch.kind_bits()
        for topic, kinds in self._routes:
            if there & kinds:
                self._publish(topic, batch)

    def sensors(self) -> tuple[str, ...]:
        """Topics whose programs are attached."""
        return tuple(self._sensors)

    def drain_now(self) -> int:
        """Read the ring until it is empty; returns the records read."""
        return self._pump.drain_now() if self._pump is not None else 0

    def swept(self) -> int:
        """Records no wake-up announced, found by the sweep."""
        return self._pump.swept if self._pump is not None else 0

    def map_bytes(self) -> int:
        """Kernel memory of the hub's tables and its sensors' own."""
        own = [table for each in self._sensors.values() if each.object for table in each.object.maps()]
        return map_bytes([*self._shared.values(), *own])

    def maps(self) -> tuple[Map, ...]:
        """The hub's tables and its sensors' own, each once, for one sum with the core's."""
        own = [table for each in self._sensors.values() if each.object for table in each.object.maps()]
        return tuple({table.id: table for table in (*self._shared.values(), *own)}.values())

    def programs(self) -> tuple[Program, ...]:
        """Of the sensors that are attached."""
        objects = {id(each.object): each.object for each in self._sensors.values() if each.object}
        return tuple(program for each in objects.values() for program in each.programs())

    def record_counters(self) -> tuple[RecordTerms, ...]:
        """Terms of the kinds that occurred, as of one instant.

        CPUs count while this reads them, so the ring is drained and the tables are read until two readings agree; on a
        host that never pauses the last reading stands, and may be off by the records under way.
        """
        if RECORD_COUNTERS not in self._shared:
            return ()
        read: tuple[int, ...] = ()
        before = self._read_counters()
        for _ in range(SNAPSHOT_TRIES):
            self.drain_now()
            read = self._read_counts()
            after = self._read_counters()
            if after == before:
                break
            before = after
        return tuple(
            RecordTerms(
                kind=KIND_NAMES.get(kind, str(kind)),
                attempted=terms[0],
                submitted=terms[1],
                ring_full=terms[2],
                filtered=terms[3],
                rate_limited=terms[4],
                read=read[kind],
            )
            for kind, terms in enumerate(before)
            if any(terms) or read[kind]
        )

    def _read_counts(self) -> tuple[int, ...]:
        if self._pump is not None:
            return self._pump.read_counts()
        value = self._shared[READER].lookup(bytes(4)) or bytes(abi.struct("aegis_reader").size)
        return tuple(abi.unpack("aegis_reader", value).read)

    def ring_full(self) -> dict[str, int]:
        """Records lost to a full ring so far, by kind that lost any: one reading, cheap enough for every second."""
        if RECORD_COUNTERS not in self._shared:
            return {}
        return {
            KIND_NAMES.get(kind, str(kind)): terms[2]
            for kind, terms in enumerate(self._read_counters())
            if terms[2]
        }

    def _read_counters(self) -> tuple[tuple[int, ...], ...]:
        """attempted, submitted, ring_full, filtered, rate_limited of each kind, summed over the CPUs."""
        totals = [(0,) * COUNTERS] * abi.KINDS
        for key, value in self._shared[RECORD_COUNTERS].items_batch(abi.KINDS):
            words = memoryview(value).cast("Q")
            totals[int.from_bytes(key, "little")] = tuple(sum(words[at::COUNTERS]) for at in range(COUNTERS))
        return tuple(totals)

    def close(self) -> None:
        """Unload the sensors, leave the loop, free the ring."""
        for topic in tuple(self._sensors):
            self.unwanted(topic)
        if self._pump is not None:
            self._pump.close()
            self._pump = None
        for table in self._shared.values():
            table.close()
        self._shared.clear()


def find_sensor(topic: str) -> Sensor:
    """The sensor of a topic. Raises FeatureUnsupported where there is none."""
    for sensor in SENSORS:
        if sensor.topic == topic:
            return sensor
    raise FeatureUnsupported("listen to", topic, detail="no sensor of that name")
