"""What the gateway of the demo has is looked for on all pages: a busy host has events of others on the first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aegis.cli.demo import center
from aegis.cli.demo.center import Center


class Paged(Center):
    """Answers by path; remembers what was asked."""

    def __init__(self, pages: dict[str, dict[str, Any]]) -> None:
        super().__init__(Path("/nowhere"), cast("Any", None), "192.0.2.1")
        self.pages, self.asked = pages, cast("list[str]", [])

    def ask(self, path: str) -> Any:
        self.asked.append(path)
        return self.pages[path]


def test_goes_on_to_the_next_page_and_not_further_than_needed() -> None:
    paged = Paged(
        {
            "/events?x=1": {"items": [1, 2], "next": "a b"},
            "/events?x=1&cursor=a%20b": {"items": [2, 2], "next": "c"},
        }
    )
    assert paged.count_until("/events?x=1", lambda item: item == 2, 3) == 3
    assert paged.asked == list(paged.pages)


def test_too_few_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(center, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    paged = Paged({"/events?x=1": {"items": [1, 2], "next": None}})
    assert paged.count_until("/events?x=1", lambda item: item == 2, 2) == 1
    assert len(paged.asked) > 1
