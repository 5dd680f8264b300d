from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from aegis.gateway.message import Message
from aegis.gateway.store.base import MessageRow


def message(status: str = "queued", *, error: str = "", expires_ns: int = 100) -> Message:
    row = MessageRow(
        id="m", uid="u", command_id="c", channel="x", type="x", body="{}", status=status, error=error,
        created_ns=0, expires_ns=expires_ns,
    )  # fmt: skip
    return Message(row, b"text")


@pytest.mark.parametrize(
    ("status", "waited", "told"),
    [
        ("queued", True, "queued"),
        ("sent", True, "timeout"),
        ("sent", False, "sent"),
        ("answered", True, "answered"),
        ("expired", True, "failed"),
        ("failed", False, "failed"),
    ],
)
def test_what_is_told_of_it(status: str, waited: bool, told: str) -> None:
    assert message(status).result(waited=waited).status == told


def test_an_answer_that_is_not_stored_yet_shows_that_it_was_sent() -> None:
    one = message()
    assert one.is_under_way
    one.is_answered = True
    assert not one.is_under_way
    assert one.result(waited=False).status == "sent"
    assert one.result(waited=True).status == "timeout"
    one.row = msgspec.structs.replace(one.row, error="why")
    assert one.result(waited=True).error == "why"


async def test_waking_twice_is_harmless() -> None:
    one = message()
    one.wake()
    waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    one.waiter = waiter
    one.wake()
    one.wake()
    assert await waiter is None
