"""Rows of a gateway: nothing twice, nothing left out, whatever is stored meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from aegis.cli import records
from aegis.cli.records import followed, history, latest_flows, newest


class Gateway:
    """Numbers as rows. `meanwhile` more are stored between the follower's place and its history."""

    def __init__(self, stored: int, meanwhile: int = 0, later: int = 0) -> None:
        self.rows = [{"n": number} for number in range(stored)]
        self.meanwhile, self.later = meanwhile, later
        self.asked: list[dict[str, Any]] = []

    def _grow(self, count: int) -> None:
        self.rows += [{"n": len(self.rows) + number} for number in range(count)]

    def get(self, path: str, query: Mapping[str, Any], *, wait_s: float = 0) -> dict[str, Any]:
        self.asked.append(dict(query))
        if query.get("after") == "now":
            place = len(self.rows)
            self._grow(self.meanwhile)
            return {"items": [], "next": str(place)}
        if query.get("after"):
            begin = int(query["after"])
            if begin == len(self.rows):
                self._grow(self.later)
            found = self.rows[begin:][: query["limit"]]
            return {"items": found, "next": str(begin + len(found))}
        end = len(self.rows) if query.get("cursor") is None else int(query["cursor"])
        found = self.rows[max(end - query["limit"], 0) : end][::-1]
        left = end - len(found)
        return {"items": found, "next": str(left) if left else None}

    def close(self) -> None:
        pass


def numbers(rows: Any, count: int | None = None) -> list[int]:
    return [row["n"] for row in islice(rows, count)]


def test_pages(monkeypatch: Any) -> None:
    monkeypatch.setattr(records, "PAGE", 4)
    gateway: Any = Gateway(10)
    assert numbers(newest(gateway, "/events", {}, None)) == list(range(9, -1, -1))
    assert [asked["limit"] for asked in gateway.asked] == [4, 4, 4]
    gateway.asked.clear()
    assert numbers(history(gateway, "/events", {}, 6)) == [4, 5, 6, 7, 8, 9]
    assert [asked["limit"] for asked in gateway.asked] == [4, 2]
    assert numbers(newest(gateway, "/events", {}, 0)) == []


def test_what_is_stored_while_the_history_is_read_comes_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(records, "PAGE", 4)
    gateway: Any = Gateway(5, meanwhile=6, later=3)
    assert numbers(followed(gateway, "/events", {}, None), 14) == list(range(14))
    gateway = Gateway(5, meanwhile=6, later=3)
    # Of those that came in between, the history has the last two; the others are not lost.
    assert numbers(followed(gateway, "/events", {}, 2), 9) == [9, 10, 5, 6, 7, 8, 11, 12, 13]


def test_following_alone_begins_now() -> None:
    gateway: Any = Gateway(5, later=2)
    assert numbers(followed(gateway, "/events", {"type": ["exec"]}, 0), 2) == [5, 6]
    assert all(asked["type"] == ["exec"] for asked in gateway.asked)


def test_of_each_flow_the_newest() -> None:
    rows = [
        {"agent_uid": uid, "src_port": port, "n": n}
        for n, (uid, port) in enumerate([("a", 1), ("b", 1), ("a", 1), ("a", 2)])
    ]
    assert numbers(latest_flows(iter(rows))) == [0, 1, 3]
