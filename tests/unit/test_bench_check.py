"""The judge of `./dev bench`."""

from __future__ import annotations

import json

import pytest

from benchmarks import check
from benchmarks.rows import Row, median, quantile

RATIO = check.Budget(row="a", bench="x", what="", on="ratio", must_max=2.0, toward=1.2)
VALUE = check.Budget(row="b", bench="x", what="", on="value", must_min=10.0)


@pytest.mark.parametrize(("ratio", "holds"), [(1.0, True), (2.0, True), (2.01, False), (None, False)])
def test_a_ratio_budget_judges_the_ratio(ratio: float | None, holds: bool) -> None:
    row = Row(name="a", value=1e9, unit="s", peer=1.0, ratio=ratio)
    assert RATIO.holds(row) is holds
    text, wrong = check.judge({"x": [row]}, {"a": RATIO}, ["x"])
    assert bool(wrong) is not holds
    assert ("NO" in text) is not holds


@pytest.mark.parametrize(("value", "peer"), [(-300.0, 33.0), (-294.0, -248.0), (143.0, -182.0), (3.0, 0.0)])
def test_what_noise_made_of_a_cost_holds_nothing(value: float, peer: float) -> None:
    row = Row(name="a", value=value, unit="us", peer=peer, ratio=value / peer if peer else 0.0)
    assert not RATIO.holds(row)


@pytest.mark.parametrize(("value", "holds"), [(10.0, True), (9.9, False)])
def test_a_value_budget_judges_the_value(value: float, holds: bool) -> None:
    assert VALUE.holds(Row(name="b", value=value, unit="x")) is holds


def test_a_budget_without_its_row_is_wrong() -> None:
    _, wrong = check.judge({"x": []}, {"a": RATIO}, ["x"])
    assert wrong == ["a: has a budget, but bench_x.py returned no such row"]
    _, wrong = check.judge({"x": []}, {"a": RATIO}, [])
    assert wrong == []


def test_a_row_measured_twice_is_wrong() -> None:
    row = Row(name="c", value=1.0, unit="s")
    _, wrong = check.judge({"x": [row, row]}, {}, ["x"])
    assert wrong == ["c: measured twice"]


def test_the_committed_budgets_are_read() -> None:
    budgets = check.read_budgets(check.BUDGETS.read_text())
    assert {budget.bench for budget in budgets.values()} == set(check.names())
    for budget in budgets.values():
        if budget.toward is not None:
            assert budget.must_max is None or budget.toward <= budget.must_max
            assert budget.must_min is None or budget.toward >= budget.must_min


@pytest.mark.parametrize(
    "text", ["[a]\nbench='x'\nwhat=''\non='ratio'", "[a]\nbench='x'\nwhat=''\non='x'\nmust_max=1"]
)
def test_a_budget_that_binds_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"budgets\.toml: a"):
        check.read_budgets(text)


def test_the_facts_of_machine_and_commit_can_be_stored() -> None:
    facts = json.loads(json.dumps({**check.commit(), **check.machine()}))
    assert facts["cpus"] >= 1
    assert facts["commit"] or facts["commit_reason"]


def test_an_unknown_name_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["no_such_bench"]) == 2
    assert "there is no no_such_bench" in capsys.readouterr().err


def test_quantiles() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert quantile([0.0, 10.0], 0.25) == 2.5
    with pytest.raises(ValueError, match="no samples"):
        median([])
