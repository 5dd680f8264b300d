from __future__ import annotations

import math

import pytest

from aegis.runtime.settings import Option, Settings


@pytest.mark.parametrize(
    ("kind", "bounds", "good", "bad"),
    [
        ("bool", {}, [True, False], [1, "true", None]),
        ("int", {"minimum": 2, "maximum": 7}, [2, 7], [1, 8, 3.0, True, "3"]),
        ("float", {"minimum": 0.5}, [0.5, 3], [0.25, math.nan, True, "1"]),
        ("str", {}, ["", "x"], [1, [], {}]),
        ("str", {"choices": ("a", "b")}, ["a"], ["c", ""]),
        ("list", {}, [[], ["a"], ("b",)], ["a", [1], {}]),
    ],
)
def test_an_option_judges_a_value(kind: str, bounds: dict, good: list, bad: list) -> None:
    option = Option(name="x.y", kind=kind, default=None, help="h", **bounds)
    assert [option.problem(value) for value in good] == [None] * len(good)
    assert all(option.problem(value) for value in bad)


def test_an_option_may_judge_by_itself() -> None:
    option = Option(
        name="x", kind="str", default=None, help="h", wrong=lambda text: f"not {text}" if text else None
    )
    assert (option.problem(""), option.problem("y"), bool(option.problem(1))) == (None, "not y", True)


def test_settings_are_read_by_kind() -> None:
    settings = Settings(
        "t", {"flag": True, "count": 3, "ratio": 0.5, "name": "n", "many": ("a",), "none": None}
    )
    assert settings.boolean("flag") is True
    assert (settings.integer("count"), settings.number("count"), settings.number("ratio")) == (3, 3.0, 0.5)
    assert (settings.text("name"), settings.texts("many"), settings["none"]) == ("n", ("a",), None)
    for read, name in (
        (settings.boolean, "count"),
        (settings.integer, "flag"),
        (settings.number, "flag"),
        (settings.text, "none"),
        (settings.texts, "name"),
    ):
        with pytest.raises(TypeError, match=f"t.{name}"):
            read(name)
    with pytest.raises(LookupError, match=r"t\.absent"):
        settings.text("absent")
