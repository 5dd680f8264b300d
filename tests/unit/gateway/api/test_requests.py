"""How strictly requests are read: types, names, depth."""

from __future__ import annotations

import pytest

from aegis.gateway.api.requests import DEEPEST, MOST_BODY_BYTES
from tests.support.api import UID, Api

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is read is the same on both

SEND = f"/agents/{UID}/send"


def nested(levels: int) -> bytes:
    inside = b"[" * (levels - 2) + b"]" * (levels - 2)
    return b'{"channel":"backend.modules","message":{"a":' + (inside or b"1") + b"}}"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "json_invalid"),
        (b"{", 400, "json_invalid"),
        (b"nonsense", 400, "json_invalid"),
        (b'{"channel":"c","message":{}} x', 400, "json_invalid"),
        (b'{"channel":"c","message":{"a":"\xff"}}', 400, "json_invalid"),
        (b'{"channel":"c","message":{"a":"\\ud800"}}', 400, "json_invalid"),
        (b'{"channel":"c","message":{"a":NaN}}', 400, "json_invalid"),
        (b"[]", 422, "body_invalid"),
        (b'{"channel":"c"}', 422, "body_invalid"),
        (b'{"channel":5,"message":{}}', 422, "body_invalid"),
        (b'{"channel":"c","message":[]}', 422, "body_invalid"),
        (b'{"channel":"c","message":{},"ttl":"5"}', 422, "body_invalid"),
        (b'{"channel":"c","message":{},"ttl":0}', 422, "body_invalid"),
        (b'{"channel":"c","message":{},"ttl":1e99}', 422, "body_invalid"),
        (b'{"channel":"c","message":{},"more":1}', 422, "body_invalid"),
        (b'{"channel":"a b","message":{}}', 422, "body_invalid"),
        (nested(DEEPEST + 1), 422, "body_invalid"),
        (nested(100_000), 422, "body_invalid"),
        (b'{"channel":"c","message":' + b'{"a":' * 100_000, 422, "body_invalid"),
        (b"[" * 1_000_000, 422, "body_invalid"),
    ],
)
async def test_a_wrong_body_is_refused_and_nothing_is_sent(
    api: Api, body: bytes, status: int, code: str
) -> None:
    answer = await api.call("POST", SEND, raw=body)
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert api.hub.sent == []


async def test_a_body_as_deep_as_allowed_is_taken(api: Api) -> None:
    assert (await api.call("POST", SEND, raw=nested(DEEPEST))).status == 200


async def test_the_place_of_what_is_wrong_is_named(api: Api) -> None:
    problem = (await api.call("POST", SEND, {"channel": "c", "message": {}, "ttl": -5})).json()
    assert problem["errors"] == [{"at": "$.ttl", "detail": "Expected `int` >= 1"}]


async def test_a_body_over_the_limit_is_refused_unread(api: Api) -> None:
    answer = await api.call("POST", SEND, raw=b" " * (MOST_BODY_BYTES + 1))
    assert (answer.status, answer.json()["code"]) == (413, "body_too_large")


async def test_a_body_in_chunks_over_the_limit_is_refused(api: Api) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = await api.call(
        "POST", SEND, raw=chunk * 20 + b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked"}
    )
    assert answer.status in {400, 413}
    assert api.hub.sent == []


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "json", ""]
)
async def test_another_media_type_is_refused(api: Api, media: str) -> None:
    answer = await api.call(
        "POST", SEND, raw=b'{"channel":"c","message":{}}', headers={"Content-Type": media}
    )
    assert (answer.status, answer.json()["code"]) == (415, "media_type_unsupported")


async def test_a_charset_beside_the_media_type_is_taken(api: Api) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert (await api.call("POST", SEND, raw=b'{"channel":"c","message":{}}', headers=headers)).status == 200


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ("application/*", 200),
        ("application/json;q=0.1, text/html", 200),
        ("text/html", 406),
        ("application/json;q=0, */*", 406),
        ("", 200),
        ("nonsense", 406),
    ],
)
async def test_accept(api: Api, accept: str, status: int) -> None:
    assert (await api.call("GET", "/agents", headers={"Accept": accept})).status == status


@pytest.mark.parametrize(
    "query",
    [
        "nonsense=1",
        "limit=1&limit=2",
        "limit=",
        "limit=x",
        "limit=0",
        "limit=1001",
        "offset=-1",
        "Limit=1",
        "%00=1",
    ],
)
async def test_a_wrong_query_is_refused(api: Api, query: str) -> None:
    answer = await api.call("GET", f"/agents?{query}")
    assert (answer.status, answer.json()["code"]) == (400, "query_invalid")


async def test_null_is_only_a_word(api: Api) -> None:
    assert (await api.call("GET", "/agents?hostname=null")).json()["agents"] == []
    for query in ("last=null", "pid=NULL", "verdict=null"):
        answer = await api.call("GET", f"/events?{query}")
        assert (answer.status, answer.json()["code"]) == (400, "query_invalid"), query


async def test_what_may_be_repeated(api: Api) -> None:
    assert (await api.call("GET", "/events?type=exec&type=exit")).status == 200
