from __future__ import annotations

from aegis.runtime.clock import SystemClock
from aegis.runtime.conditions import CONDITIONS
from aegis.runtime.health import Conditions


def test_a_condition_holds_from_raise_to_clear_and_keeps_its_instant() -> None:
    changes: list[tuple[str, str]] = []
    table = Conditions(SystemClock(), lambda what, condition: changes.append((what, condition.code)))
    health = table.scoped("telemetry")
    health.raise_("slow", "first")
    since = table.all()[0].since_ns
    health.raise_("slow", "second")
    assert [(one.text, one.since_ns, one.source) for one in table.all()] == [("second", since, "telemetry")]
    assert health.raised() == ("slow",)
    table.raise_("agent", "slow", "another's")
    health.clear("slow")
    health.clear("slow")
    assert [one.source for one in table.all()] == ["agent"]
    table.clear_all("agent")
    assert table.all() == ()
    assert changes == [("raised", "slow"), ("raised", "slow"), ("cleared", "slow"), ("cleared", "slow")]


def test_the_tables_hint_is_used_where_none_is_given() -> None:
    table = Conditions(SystemClock())
    table.raise_("agent", "no_interface", "text")
    table.raise_("agent", "records_lost", "text", "own hint")
    assert {one.code: one.hint for one in table.all()} == {
        "no_interface": next(kind.hint for kind in CONDITIONS if kind.code == "no_interface"),
        "records_lost": "own hint",
    }


def test_the_table_has_no_gap_and_no_double() -> None:
    codes = [kind.code for kind in CONDITIONS]
    assert len(set(codes)) == len(codes)
    assert all(kind.code and kind.when and kind.hint for kind in CONDITIONS)
