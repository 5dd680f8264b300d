from __future__ import annotations

from pathlib import Path

import pytest

from aegis.agent.outbox.streams import FILE, TAKEN_AT_ONCE, UNRECORDED, Streams
from aegis.errors import StateFileRefused, StorageError


def test_no_number_is_used_twice(tmp_path: Path) -> None:
    used: list[int] = []
    for _ in range(3):  # lives
        streams = Streams(str(tmp_path))
        assert streams.next() is None
        for _ in range(5):
            if streams.low:
                streams.add(streams.take(1000))
            number = streams.next()
            assert number is not None
            used.append(number)
    assert sorted(set(used)) == used
    assert used[0] == 1000


def test_a_lost_or_spoiled_counter_goes_on_from_the_clock_and_beyond_what_is_stored(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for content in (b"", b"{", b'{"next": -3}', b'{"next": 99999999999999999999}'):
        path.write_bytes(content)
        path.chmod(0o600)
        assert Streams(str(tmp_path)).take(5000)[0] == 5000
    assert Streams(str(tmp_path)).take(5000, 70_000) == (70_001, 70_001 + TAKEN_AT_ONCE)
    assert Streams(str(tmp_path)).take(1, UNRECORDED + 5)[0] == 70_001 + TAKEN_AT_ONCE


def test_a_counter_that_cannot_be_trusted_or_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("{}")
    path.chmod(0o644)
    with pytest.raises(StateFileRefused):
        Streams(str(tmp_path)).take(1)
    with pytest.raises(StorageError):
        Streams(str(tmp_path / "gone")).take(1)


def test_numbers_without_a_counter_are_drawn() -> None:
    streams = Streams("/nowhere")
    drawn = {streams.unrecorded() for _ in range(100)}
    assert len(drawn) == 100
    assert all(UNRECORDED <= number < 1 << 53 for number in drawn)
