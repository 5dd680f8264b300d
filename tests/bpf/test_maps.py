from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from aegis._native import _system
from aegis.errors import MapAccessFailed, MapFull
from aegis.kernel.maps import Map, map_bytes, possible_cpus
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")

NOEXIST = 1
MMAPABLE = 1024


@pytest.fixture
def table() -> Iterator[Map]:
    made = Map.create("HASH", "test_table", key_size=8, value_size=8, max_entries=1009)
    yield made
    made.close()


def word(number: int) -> bytes:
    return struct.pack("Q", number)


def test_update_lookup_delete(table: Map) -> None:
    assert table.lookup(word(1)) is None
    table.update(word(1), word(11))
    assert table.lookup(word(1)) == word(11)
    table.update(word(1), word(13))
    assert table.lookup(word(1)) == word(13)
    with pytest.raises(MapAccessFailed):
        table.update(word(1), word(17), flags=NOEXIST)
    assert table.delete(word(1))
    assert not table.delete(word(1))


def test_a_full_table_says_so(table: Map) -> None:
    for number in range(1009):
        table.update(word(number), word(0))
    with pytest.raises(MapFull, match="1009 entries"):
        table.update(word(1009), word(0))
    table.update(word(7), word(1))


def test_keys_and_values_must_have_their_size(table: Map) -> None:
    with pytest.raises(MapAccessFailed, match="key of 4 bytes"):
        table.lookup(bytes(4))
    with pytest.raises(MapAccessFailed, match="value of 9 bytes"):
        table.update(word(1), bytes(9))


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_batches_give_every_entry_once(table: Map, size: int) -> None:
    """Also where a batch is smaller than one bucket of the hash."""
    entries = {word(number * 7919): word(number) for number in range(997)}
    for key, value in entries.items():
        table.update(key, value)
    found = [
        (bytes(keys[at * 8 : at * 8 + 8]), bytes(values[at * 8 : at * 8 + 8]))
        for keys, values, count in table.batches(size)
        for at in range(count)
    ]
    assert len(found) == 997
    assert dict(found) == entries
    assert dict(table.items_batch()) == entries
    assert set(table.keys()) == set(entries)


def test_an_empty_table_has_no_batches(table: Map) -> None:
    assert list(table.items_batch()) == []
    assert list(table.keys()) == []


def test_per_cpu_values() -> None:
    made = Map.create("PERCPU_ARRAY", "test_cpus", key_size=4, value_size=16, max_entries=2)
    try:
        assert made.is_per_cpu
        values = made.lookup_percpu(bytes(4))
        assert values is not None
        assert len(values) == possible_cpus()
        assert made.sum_u64(bytes(4)) == (0, 0)
        with pytest.raises(MapAccessFailed, match="per CPU"):
            made.lookup(bytes(4))
        assert len(list(made.items_batch())) == 2
    finally:
        made.close()


def test_shared_memory_is_the_map_itself() -> None:
    made = Map.create("ARRAY", "test_words", key_size=4, value_size=16, max_entries=3, flags=MMAPABLE)
    try:
        with made.mmap(writable=True) as memory:
            made.update(struct.pack("I", 2), struct.pack("QQ", 5, 7))
            assert struct.unpack_from("QQ", memory, 32) == (5, 7)
            address = _system.ffi.from_buffer(memory)
            _system.lib.aegis_store64(address + 40, 1 << 63)
            assert _system.lib.aegis_load64(address + 40) == 1 << 63
            assert made.lookup(struct.pack("I", 2)) == struct.pack("QQ", 5, 1 << 63)
            _system.ffi.release(address)
        with made.mmap(writable=False) as memory, pytest.raises(TypeError):
            memory[0] = 1
    finally:
        made.close()


def test_a_table_without_the_flag_cannot_be_mapped() -> None:
    made = Map.create("ARRAY", "test_words", key_size=4, value_size=8, max_entries=1)
    try:
        with pytest.raises(MapAccessFailed, match="map into memory"):
            made.mmap(writable=True)
    finally:
        made.close()


def test_memory_is_what_the_kernel_charges(table: Map) -> None:
    with open(f"/proc/self/fdinfo/{table.fd}") as file:
        charged = next(int(line.split()[1]) for line in file if line.startswith("memlock"))
    assert table.memory_bytes == charged
    assert charged >= 1009 * 16
    again = table.duplicate()
    assert map_bytes([table, again]) == charged, "one table counts once"
    again.close()


def test_a_pin_is_the_same_table(world: World) -> None:
    made = Map.create("HASH", "a_name_longer_than_the_kernel_keeps", key_size=8, value_size=8, max_entries=7)
    made.update(word(3), word(31))
    path = world.bpffs / made.name
    made.pin(path)
    with pytest.raises(MapAccessFailed, match="File exists"):
        made.pin(path)
    made.close()
    found = Map.from_pin(path)
    assert found.name == "a_name_longer_than_the_kernel_keeps"
    assert found.lookup(word(3)) == word(31)
    found.close()
    os.unlink(path)
    with pytest.raises(MapAccessFailed, match="No such file"):
        Map.from_pin(path)
