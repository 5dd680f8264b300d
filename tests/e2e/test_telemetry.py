"""Every telemetry number is true: it lies between two readings of another, taken around it.

The cases are made from the table of metrics, so a new metric without a judge fails here.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from aegis.host.metrics import BY_NAME, METRICS, Metric
from aegis.host.reader import Host
from aegis.model.sample import Sample
from tests.support import testers
from tests.support.agent import running_agent
from tests.support.judges import JUDGES, WITNESSES, Bracket, within
from tests.support.world import World

READINGS = 10  # of each metric, and every one must be right
SECONDS = 45.0  # for so many brackets that tell something, on a host that is never quiet


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host(wall_ns=time.time_ns, monotonic_ns=time.monotonic_ns)
    yield made
    made.close()


def read(host: Host, metric: Metric) -> dict[tuple[str, ...], Sample]:
    """The samples of one metric, by label values."""
    return {
        tuple(value for _, value in sample.labels): sample
        for sample in host._group(metric.group)
        if sample.name == metric.name
    }


def verdict(metric: Metric, take: Callable[[], dict[tuple[str, ...], Sample]]) -> list[str]:
    """What is wrong with the metric now; nothing where all its samples lie between two readings of its judge.

    A bracket that tells nothing of what is inside is taken anew; one that does forgives nothing.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        with Bracket(metric) as bracket:
            samples = take()
        if bracket.tells:
            break
        assert time.monotonic() < deadline, f"{metric.name} never stood still between two readings"
    before, after = bracket.before, bracket.after
    wrong = [f"{metric.name} is not reported for {labels}" for labels in before if labels not in samples]
    for labels, sample in samples.items():
        if labels not in before:
            wrong.append(f"{metric.name} is reported for {labels}, which its judge does not know")
        elif sample.value is None:
            wrong.append(f"{metric.name} {labels} is absent: {sample.reason}")
        elif not within(metric, before[labels], sample.value, after[labels]):
            wrong.append(
                f"{metric.name} {labels} = {sample.value} is not between {before[labels]} and {after[labels]}"
            )
    return wrong


@pytest.mark.parametrize(
    ("readings", "tells"),
    [((5, 5), True), ((5, 7), False), ((7, 5), False), ((1000, 1009), True), ((1000, 1011), False)],
)
def test_a_gauge_that_moved_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, readings: tuple[float, float], tells: bool
) -> None:
    numbers = iter(readings)
    monkeypatch.setitem(JUDGES, "agent.threads", lambda: {(): next(numbers)})
    with Bracket(BY_NAME["agent.threads"]) as bracket:
        pass
    assert bracket.tells is tells


@pytest.mark.parametrize(("stood", "tells"), [((1, 1), True), ((1, 2), False)])
def test_a_witness_that_stood_still_tells(
    monkeypatch: pytest.MonkeyPatch, stood: tuple[int, int], tells: bool
) -> None:
    numbers, looks = iter((9, 4)), iter(stood)
    monkeypatch.setitem(JUDGES, "process.count", lambda: {(): next(numbers)})
    monkeypatch.setitem(WITNESSES, "process.count", lambda: next(looks))
    with Bracket(BY_NAME["process.count"]) as bracket:
        pass
    assert bracket.tells is tells
    assert (bracket.before, bracket.after) == ({(): 9}, {(): 4})


def test_every_metric_has_a_judge_and_every_judge_a_metric() -> None:
    assert set(JUDGES) == {metric.name for metric in METRICS}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_it_lies_between_two_readings(host: Host, metric: Metric) -> None:
    found = [verdict(metric, lambda: read(host, metric)) for _ in range(READINGS)]
    wrong = [sentence for each in found for sentence in each]
    assert not wrong, "\n".join(wrong)


OPTIONS = "[modules.telemetry]\ninterval_s = 1.0\nslow_interval_s = 1.0\n"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_lie_is_caught(host: Host, metric: Metric) -> None:
    """Every number moved by 3 % and three units is found wrong, whatever the host is doing."""

    def lie() -> dict[tuple[str, ...], Sample]:
        found = {}
        for labels, sample in read(host, metric).items():
            assert sample.value is not None
            shift = 3 * max(0.05, {"bytes": 1024, "seconds": 0.01, "percent": 0.05}.get(metric.unit, 1))
            value = sample.value * 1.03 + shift
            found[labels] = Sample(
                name=sample.name,
                labels=sample.labels,
                value=value,
                unit=sample.unit,
                kind=sample.kind,
                source=sample.source,
                time_ns=sample.time_ns,
            )
        return found

    if not JUDGES[metric.name]():  # in a container or a chroot: no file system of a disk, for one
        assert not read(host, metric), f"{metric.name} is reported, and its judge finds nothing to report"
        pytest.skip(f"{metric.name}: this host has nothing of the kind, as its judge says too")
    assert read(host, metric), f"{metric.name} has no sample here"
    assert all(verdict(metric, lie) for _ in range(5))


def test_counters_never_run_back(host: Host) -> None:
    """While the machine is kept busy in several ways."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            testers.execs(1)
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname()).close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        highest: dict[object, float] = {}
        for _ in range(211):
            for sample in host.samples():
                if sample.kind == "counter" and sample.value is not None:
                    assert sample.value >= highest.get(sample.key, 0), sample
                    highest[sample.key] = sample.value
    finally:
        stop.set()
        worker.join()
    assert len(highest) > 50


@pytest.mark.require("root")
def test_packets_of_a_known_workload_are_in_the_interfaces_numbers(world: World) -> None:
    with world.a.entered():
        host = Host(wall_ns=time.time_ns, monotonic_ns=time.monotonic_ns)
        host.samples()
    before = {sample.key: sample.value for sample in host.samples()}
    sent = world.b.run(testers.udp_datagrams, world.b.v4, world.a.v4, 9, 101, 313)
    after = {sample.key: sample.value for sample in host.samples()}
    host.close()
    labels = (("interface", world.a.interface), ("index", str(world.a.index)))
    grown = {
        name: (after[name, labels] or 0) - (before[name, labels] or 0)
        for name in ("interface.received_packets", "interface.received_bytes")
    }
    assert sent.done == 101
    assert grown["interface.received_packets"] == 101
    assert grown["interface.received_bytes"] == 101 * (14 + 20 + 8 + 313)


@pytest.mark.require("root", "bpf")
def test_the_agent_hands_out_what_it_measured(world: World) -> None:
    """The same numbers by the control socket, about the agent's own process."""
    with running_agent(world, options=OPTIONS) as agent:
        process = psutil.Process(agent.pid)
        before = process.memory_info().rss, process.num_threads()
        rows = agent.ask_until("samples", lambda found: len(found) > 100)
        after = process.memory_info().rss, process.num_threads()
    by_name = {row["name"]: row for row in rows if not row["labels"]}
    assert {row["name"] for row in rows} == {name for name, find in JUDGES.items() if find()}
    assert min(before[0], after[0]) * 0.9 <= by_name["agent.rss"]["value"] <= max(before[0], after[0]) * 1.1
    assert by_name["memory.total"]["value"] == psutil.virtual_memory().total
    for row in rows:
        assert (row["value"] is None) == ("value_reason" in row)
