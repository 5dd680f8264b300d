"""Two documents compared by what they say."""

from __future__ import annotations

import pytest

from aegis.errors import PolicyInvalid
from aegis.model.policy_differences import MOST, differences

OLD = b"{metadata: {name: a, version: 1}, spec: {mode: observe, egressDeny: [{toPorts: [1, 2]}]}}"


def test_the_form_makes_no_difference() -> None:
    same = b"""
# the same
spec:
  egressDeny:
  - toPorts: [1, 2]
  mode: observe
metadata: {version: 1, name: a}
"""
    assert differences(OLD, same) == []


def test_changed_added_and_gone() -> None:
    new = b"{metadata: {name: a, version: 2}, spec: {egressDeny: [{toPorts: [1]}], priority: 5}}"
    assert differences(OLD, new) == [
        {"path": "metadata.version", "before": 1, "after": 2},
        {"path": "spec.mode", "before": "observe", "after": None},
        {"path": "spec.egressDeny[0].toPorts[1]", "before": 2, "after": None},
        {"path": "spec.priority", "before": None, "after": 5},
    ]


def test_a_new_one_is_all_difference() -> None:
    assert [each["after"] for each in differences(None, b"{a: 1, b: [2]}")] == [1, 2]


def test_many_are_counted() -> None:
    new = ("{a: [" + ", ".join(["1"] * (MOST + 7)) + "]}").encode()
    found = differences(None, new)
    assert len(found) == MOST + 1
    assert found[-1]["path"] == "and 7 more"


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(PolicyInvalid):
        differences(OLD, b"{a: 1, a: 2}")
