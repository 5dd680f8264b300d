"""The table of measured things has no gap and no double."""

from __future__ import annotations

import re
from collections import Counter

from aegis.host.metrics import BY_NAME, GROUPS, METRICS

UNITS = {
    "seconds", "bytes", "packets", "percent", "operations", "inodes", "sockets", "threads", "processes",
    "descriptors", "cpus", "switches", "boolean",
}  # fmt: skip


def test_each_name_is_there_once_and_well_formed() -> None:
    assert [name for name, count in Counter(metric.name for metric in METRICS).items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z]+(\.[a-z_]+)+", metric.name) for metric in METRICS)
    assert set(BY_NAME) == {metric.name for metric in METRICS}


def test_units_are_base_units_and_each_row_says_what_it_is() -> None:
    assert {metric.unit for metric in METRICS} <= UNITS
    for metric in METRICS:
        assert metric.help[0].isupper(), metric.name
        assert not metric.help.endswith("."), metric.name
        assert metric.source, metric.name


def test_all_the_subjects_the_host_owes_are_there() -> None:
    assert {name.split(".")[0] for name in BY_NAME} == {
        "cpu", "memory", "swap", "pressure", "load", "disk", "filesystem", "interface", "tcp", "process", "agent",
    }  # fmt: skip
    assert len(GROUPS) == len(set(GROUPS))
