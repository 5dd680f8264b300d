"""The host as one: never raises for samples, keeps counters rising, says why a number is missing."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis.errors import HostError
from aegis.host import cgroups
from aegis.host.metrics import BY_NAME, METRICS
from aegis.host.reader import SLOW_GROUPS, Host
from aegis.model.process import Cgroup
from aegis.model.sample import Sample
from tests.support import hosttree
from tests.support.world import World

Make = Callable[[Path], Host]


REAL = cgroups.expect_hierarchy


@pytest.fixture(autouse=True)
def any_directory_is_a_hierarchy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trees of these tests are on no cgroup v2 file system."""
    monkeypatch.setattr(cgroups, "expect_hierarchy", lambda _directory: None)


@pytest.fixture
def host():
    made = []

    def make(root: Path) -> Host:
        instants = itertools.count(1_700_000_000_000_000_000)
        one = Host(
            wall_ns=lambda: next(instants),
            monotonic_ns=lambda: 0,
            cgroup_root=str(root / "cgroup"),
            proc=str(root / "proc"),
            sys=str(root / "sys"),
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def by_key(samples: tuple[Sample, ...]) -> dict[tuple[str, ...], Sample]:
    return {(sample.name, *(value for _, value in sample.labels)): sample for sample in samples}


def test_each_metric_has_a_sample_and_each_sample_a_metric(tmp_path: Path, host: Make) -> None:
    samples = host(hosttree.make(tmp_path)).samples()
    # The tree's only mount is a cgroup2: no file system to measure.
    assert {sample.name for sample in samples} == {m.name for m in METRICS if m.group != "filesystems"}
    for sample in samples:
        metric = BY_NAME[sample.name]
        assert (sample.unit, sample.kind, sample.source) == (metric.unit, metric.kind, metric.source)
        if sample.value is not None:
            assert tuple(name for name, _ in sample.labels) == metric.labels
        assert sample.time_ns >= 1_700_000_000_000_000_000


def test_no_two_samples_have_one_key(host: Make) -> None:
    real = host(Path("/"))
    real._proc = "/proc"
    samples = real.samples()
    assert len({sample.key for sample in samples}) == len(samples)


def test_slow_numbers_only_where_asked_for(tmp_path: Path, host: Make) -> None:
    one = host(hosttree.make(tmp_path))
    slow = {metric.name for metric in METRICS if metric.group in SLOW_GROUPS}
    assert {sample.name for sample in one.samples(slow=False)} & slow == set()
    assert {sample.name for sample in one.samples()} & slow == slow


def test_a_missing_file_makes_its_numbers_absent_and_no_other(tmp_path: Path, host: Make) -> None:
    root = hosttree.make(tmp_path)
    before = by_key(host(root).samples())
    (root / "proc/meminfo").unlink()
    after = by_key(host(root).samples())
    assert after["memory.total",].value is None
    assert "No such file" in str(after["memory.total",].reason)
    assert set(after) == set(before)
    absent = {key[0] for key, sample in after.items() if sample.value is None}
    assert absent == {metric.name for metric in METRICS if metric.group == "memory"}


def test_nothing_at_all_is_absent_with_reasons_and_no_crash(tmp_path: Path, host: Make) -> None:
    samples = host(tmp_path).samples()
    from_kernel = {"interface", "agent"}
    for sample in samples:
        if sample.name.split(".")[0] not in from_kernel:
            assert sample.value is None, sample
            assert sample.reason


def test_counters_rise_where_the_kernels_own_step_back(tmp_path: Path, host: Make) -> None:
    root = hosttree.make(tmp_path)
    one = host(root)
    stat = root / "proc/stat"
    key = ("cpu.time", "0", "iowait")
    seen = []
    for ticks in (20, 25, 23, 24, 26):
        stat.write_text(
            hosttree.FILES["proc/stat"].replace("cpu0 100 4 90 2000 20", f"cpu0 100 4 90 2000 {ticks}")
        )
        seen.append(by_key(one.samples())[key].value)
    assert seen == [0.20, 0.25, 0.25, 0.25, 0.26]


def test_counters_rise_where_the_kernel_prints_32_bits(tmp_path: Path, host: Make) -> None:
    root = hosttree.make(tmp_path)
    one = host(root)
    table = root / "proc/diskstats"
    seen = []
    for milliseconds in (4_294_967_000, 4_294_967_295, 4, 1_000, 4_294_967_200, 3):
        table.write_text(f"254 0 vda 1 1 1 {milliseconds} 1 1 1 1 1 1 1 0 0 0 0 0 0\n")
        value = by_key(one.samples())["disk.read_time", "vda"].value
        assert value is not None
        seen.append(round(value * 1000))
    turn = 1 << 32
    assert seen == [
        4_294_967_000, 4_294_967_295, turn + 4, turn + 1_000, turn + 4_294_967_200, 2 * turn + 3,
    ]  # fmt: skip


def test_very_many_sockets_are_not_listed(tmp_path: Path, host: Make) -> None:
    root = hosttree.make(tmp_path)
    (root / "proc/net/sockstat").write_text("TCP: inuse 1 orphan 0 tw 20000 alloc 30001 mem 250\n")
    sample = by_key(host(root).samples())["tcp.sockets",]
    assert sample.value is None
    assert "50001 TCP sockets" in str(sample.reason)


def test_a_socket_that_broke_is_opened_again(tmp_path: Path, host: Make) -> None:
    one = host(hosttree.make(tmp_path))
    assert by_key(one.samples())["tcp.sockets", "listen"].value is not None
    for opened in one._opened.values():
        opened.close()
    broken = by_key(one.samples())
    assert broken["tcp.sockets",].value is None
    assert "Bad file descriptor" in str(broken["tcp.sockets",].reason)
    assert by_key(one.samples())["tcp.sockets", "listen"].value is not None


JUNK = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [b"", b"\n", b"-1", b"1e309", b"9" * 400, b"cpu", b" ", b"0::/..", b"(", b")", b"=", b":", b"\0"]
    ),
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(hosttree.FILES)), junk=JUNK, seed=st.integers(0, 2**32))
def test_a_hostile_tree_gives_numbers_or_reasons(
    tmp_path_factory: pytest.TempPathFactory, name: str, junk: bytes, seed: int
) -> None:
    """Junk is put over, into or behind a file, anywhere; nothing but samples and HostError comes out."""
    root = hosttree.make(tmp_path_factory.mktemp("tree"))
    text = hosttree.FILES[name].encode()
    chance = random.Random(seed)
    start = chance.randrange(len(text) + 1)
    end = chance.choice([start, len(text), chance.randrange(start, len(text) + 1)])
    (root / name).write_bytes(text[:start] + junk + text[end:])
    host = Host(
        wall_ns=lambda: 1,
        monotonic_ns=lambda: 0,
        cgroup_root=str(root / "cgroup"),
        proc=str(root / "proc"),
        sys=str(root / "sys"),
    )
    try:
        for sample in host.samples():
            assert sample.value is None or 0 <= sample.value <= 2**64 * 1024
        host.processes()
        for read in (host.memory_bytes, lambda: host.process(42), lambda: host.process(1)):
            try:
                read()
            except HostError:
                continue
    finally:
        host.close()


def test_processes_and_cgroups_of_the_tree(tmp_path: Path, host: Make) -> None:
    root = hosttree.make(tmp_path)
    one = host(root)
    process = one.process(42)
    assert process is not None
    identity = os.stat(root / "cgroup/system.slice/agent.service").st_ino
    assert getattr(process.cgroup, "id", None) == identity
    assert getattr(one.cgroup(identity), "unit", None) == "agent.service"
    assert one.cgroup_made(2**40, "/new.scope").unit == "new.scope"
    assert getattr(one.cgroup(2**40), "path", None) == "/new.scope"
    assert one.memory_bytes() == 1_000_000 * 1024


def test_a_root_inside_of_the_hierarchy_gives_the_same_paths(world: World) -> None:
    world.make_cgroup("tester.service")
    host = Host(wall_ns=lambda: 1, monotonic_ns=lambda: 0, cgroup_root=str(world.cgroup))
    found = host.cgroup((world.cgroup / "tester.service").stat().st_ino)
    assert getattr(found, "path", None) == f"/{world.cgroup.name}/tester.service"
    process = host.process(os.getpid())
    assert isinstance(getattr(process, "cgroup", None), Cgroup)


def test_a_root_that_is_no_hierarchy_is_never_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "expect_hierarchy", REAL)
    monkeypatch.setattr(cgroups.Cgroups, "walk", lambda _: pytest.fail("walked"))
    host = Host(wall_ns=lambda: 1, monotonic_ns=lambda: 0, cgroup_root=str(tmp_path))
    with pytest.raises(HostError, match="not on a cgroup v2 file system") as caught:
        host.cgroup(7)
    assert "--cgroup-root" in (caught.value.hint or "")
    process = host.process(os.getpid())
    assert "cgroup v2" in getattr(getattr(process, "cgroup", None), "reason", "")


def test_without_a_cgroup_hierarchy_processes_say_so(tmp_path: Path) -> None:
    root = hosttree.make(tmp_path)
    (root / "proc/self/mountinfo").write_text("22 27 0:21 / /proc rw - proc proc rw\n")
    host = Host(wall_ns=lambda: 1, monotonic_ns=lambda: 0, proc=str(root / "proc"))
    process = host.process(42)
    assert process is not None
    assert "no cgroup2 mount" in getattr(process.cgroup, "reason", "")
    with pytest.raises(HostError, match="no cgroup2 mount"):
        host.cgroup(1)


def test_the_boot_id(host: Make, tmp_path: Path) -> None:
    path = tmp_path / "proc/sys/kernel/random/boot_id"
    path.parent.mkdir(parents=True)
    path.write_text("00112233-4455-6677-8899-aabbccddeeff\n")
    assert host(tmp_path).boot_id() == bytes.fromhex("00112233445566778899aabbccddeeff")
    path.write_text("none\n")
    with pytest.raises(HostError, match="no UUID"):
        host(tmp_path).boot_id()
