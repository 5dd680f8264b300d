"""Registration over HTTP: the statuses and plain texts that deployed agents read."""

from __future__ import annotations

import base64

import pytest

from aegis.gateway.api.registration import MOST_BYTES
from tests.support.api import Api, running_api

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is answered is the same on both

INIT = "/agents/register/init"
COMPLETE = "/agents/register/complete"


async def test_init_needs_no_credential_and_looks_at_none(api: Api) -> None:
    body = {"agent_pubkey": base64.b64encode(bytes(32)).decode(), "host_id": "h"}
    for token in (None, "wrong"):
        answer = await api.call("POST", INIT, body, token=token)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"registration_id", "nonce", "server_time"}


async def test_refusals_are_plain_text(api: Api) -> None:
    for path, raw, status, text in (
        (INIT, b"nonsense", 400, b"Invalid JSON\n"),
        (INIT, b'{"agent_pubkey":"AAAA"}', 400, b"bad pubkey\n"),
        (INIT, b"", 400, b"Invalid JSON\n"),
        (COMPLETE, b"{}", 404, b"unknown registration\n"),
        (INIT, b" " * (MOST_BYTES + 1), 413, b"body too large\n"),
    ):
        answer = await api.call("POST", path, raw=raw, token=None, headers={"Content-Type": "text/plain"})
        assert (answer.status, answer.body) == (status, text)
        assert answer.headers["content-type"].startswith("text/plain")


async def test_without_v1_both_are_refused() -> None:
    async with running_api(allow_v1=False) as api:
        for path in (INIT, COMPLETE):
            answer = await api.call("POST", path, {}, token=None)
            assert answer.status == 403
            assert b"--allow-v1" in answer.body
