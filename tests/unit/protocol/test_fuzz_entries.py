"""Each fuzz entry holds for its corpus and for seeded mutations of it; and a planted bug is found by them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from aegis.protocol import payloads
from tests.fuzz import entry

MUTATIONS = 2000
NAMES = ["auth", "batch", "envelope", "error", "orders", "push", "registration"]


def test_the_entries_and_their_corpora() -> None:
    assert [name for name in entry.names() if name in NAMES] == NAMES
    assert all(len(entry.corpus(name)) >= 3 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_holds(name: str) -> None:
    one, seeds = entry.load(name), entry.corpus(name)
    for data in [b"", *seeds, *entry.mutations(seeds, MUTATIONS, seed=len(name))]:
        one(data)


def _unchecked(data: bytes, kind: str) -> payloads.Batch:
    return payloads._read_batch.decode(data)


def _careless(payload: str) -> str:
    import json

    return str(json.loads(payload)["message"])


@pytest.mark.parametrize(
    ("name", "function", "bug"), [("batch", "read_batch", _unchecked), ("error", "read_error", _careless)]
)
def test_a_planted_bug_is_found(name: str, function: str, bug: Any) -> None:
    one, seeds = entry.load(name), entry.corpus(name)
    with mock.patch.object(payloads, function, bug), pytest.raises(Exception):  # noqa: B017, PT012  any finding will do
        for data in entry.mutations(seeds, MUTATIONS, seed=1):
            one(data)
