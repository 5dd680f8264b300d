"""Every route of the OpenAPI document x credential, asked by Schemathesis of a whole gateway on a loopback port.

Nothing a request holds may make a 5xx; without the operator's token nothing that is not open answers 2xx; with it,
answers are what the document says. A route that is opened by mistake is found, or the test would prove nothing.
"""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import nacl.signing
import pytest
import requests
import schemathesis
import uvloop
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aegis.gateway.api import gate
from aegis.gateway.options import GatewayOptions
from aegis.gateway.wiring import Gateway
from tests.support import scale

EXAMPLES = scale.scaled(10, 400)  # a route and way of making data, with the right credential
REFUSED = scale.scaled(2, 40)  # and with each of the others
PATIENCE_S = 20
OPEN = frozenset(gate.OPEN)
OURS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
# They ask for an id, a key, a signature or an instant that nobody makes up.
UNREACHABLE = {
    "GET /messages/{message_id}",
    "POST /agents/register/init",
    "POST /agents/register/complete",
    "POST /agents/heartbeat",
}
CREDENTIALS = ("none", "wrong", "expired", "an agent's")


class Running:
    """A gateway on a loop of its own, in a thread: Schemathesis asks as any client does."""

    def __init__(self, data_dir: str) -> None:
        self._options = GatewayOptions(
            data_dir=data_dir, listen=("127.0.0.1", 0), actions_listen=("127.0.0.1", 0), allow_v1=True
        )
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Gateway(self._options) as gateway:
            assert gateway.actions_address is not None
            self.url = f"http://127.0.0.1:{gateway.actions_address[1]}"
            self._up.set()
            await self._stop.wait()


class Place:
    """The running gateway, the operator's token, and what each of the wrong credentials sends."""

    def __init__(self, url: str, token: str, expired: str) -> None:
        self.url = url
        self.right = {"Authorization": f"Bearer {token}"}
        self.uid, agents = register(url)
        self.wrong: dict[str, dict[str, str]] = {
            "none": {},
            "wrong": {"Authorization": f"Bearer aegis-operator-{'x' * 43}"},
            "expired": {"Authorization": f"Bearer {expired}"},
            "an agent's": {"Authorization": f"Bearer {agents}"},
        }
        document = requests.get(f"{url}/openapi.json", headers=self.right, timeout=PATIENCE_S).json()
        _credentials_are_ours(document)
        self.schema = schemathesis.openapi.from_dict(document)
        self.operations = [found.ok() for found in self.schema.get_all_operations()]


def _credentials_are_ours(document: dict[str, Any]) -> None:
    """Schemathesis is not to make up or leave out credentials: that is the other half of the matrix."""
    document.pop("security")
    document["components"].pop("securitySchemes")
    for item in document["paths"].values():
        for operation in item.values():
            operation.pop("security", None)


def register(url: str) -> tuple[str, str]:
    """uid and bootstrap token of a new agent."""
    key = nacl.signing.SigningKey.generate()
    body = {"agent_pubkey": base64.b64encode(bytes(key.verify_key)).decode(), "host_id": "host-1"}
    offer = requests.post(f"{url}/agents/register/init", json=body, timeout=PATIENCE_S).json()
    signed = base64.b64decode(offer["nonce"]) + offer["server_time"].encode() + b"host-1"
    complete = {
        "registration_id": offer["registration_id"],
        "host_id": "host-1",
        "signature": base64.b64encode(key.sign(signed).signature).decode(),
    }
    made = requests.post(f"{url}/agents/register/complete", json=complete, timeout=PATIENCE_S).json()
    return made["agent_uid"], made["bootstrap_token"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    data_dir = tmp_path_factory.mktemp("gateway")
    data_dir.chmod(0o700)
    token_file: Path = data_dir / "operator.token"
    with Running(str(data_dir)):
        expired = token_file.read_text().strip()
    os.unlink(token_file)  # what an operator does whose token is known to others
    with Running(str(data_dir)) as running:
        yield Place(running.url, token_file.read_text().strip(), expired)


def asked(
    operation: Any,
    check: Callable[[Any, Any], None],
    *,
    url: str,
    headers: Mapping[str, str],
    examples: int,
    uid: str,
) -> int:
    """Ask a route with made-up requests of both kinds; how many. The right ones are about an agent that is there."""
    count = 0
    for mode in schemathesis.GenerationMode:
        known = mode is schemathesis.GenerationMode.POSITIVE and "{uid}" in operation.path

        @seed(scale.seed())
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=operation.as_strategy(generation_mode=mode, path_parameters={"uid": uid} if known else None)
        )
        def ask(case: Any) -> None:
            nonlocal count
            count += 1
            with requests.Session() as session:
                session.trust_env = False
                answer = case.call(base_url=url, session=session, headers=dict(headers), timeout=PATIENCE_S)
            check(case, answer)

        try:
            ask()
        except schemathesis.errors.InvalidSchema:
            raise
        except Exception as error:
            if type(error).__name__ in {"Unsatisfiable", "InvalidArgument"}:
                continue  # nothing of that kind can be made: a route without parameters takes no wrong ones
            raise
    return count


def is_open(operation: Any) -> bool:
    return (operation.method.upper(), operation.path) in OPEN


@pytest.mark.timeout(600)
def test_with_the_token_answers_are_as_described(place: Place) -> None:
    reached: set[str] = set()

    def check(case: Any, answer: Any) -> None:
        if answer.status_code == 200:
            reached.add(case.operation.label)
        # 414 is a refusal too, which Schemathesis does not count among them.
        checks = OURS if answer.status_code == 414 else [*OURS, negative_data_rejection]
        case.validate_response(answer, checks=checks, headers=place.right)

    total = 0
    for operation in place.operations:
        total += asked(operation, check, url=place.url, headers=place.right, examples=EXAMPLES, uid=place.uid)
    assert total > len(place.operations) * EXAMPLES
    # Not vacuous: what made-up data can reach was reached.
    labels = {operation.label for operation in place.operations}
    assert labels - reached <= UNREACHABLE


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CREDENTIALS)
def test_without_it_nothing_answers(place: Place, name: str) -> None:
    assert unexpected(place, place.url, place.wrong[name]) == []


def unexpected(place: Place, url: str, headers: Mapping[str, str]) -> list[str]:
    """Routes that are not open and answered anything but 401 (or that the address is too long), or any that failed."""
    found: set[str] = set()

    def check(case: Any, answer: Any) -> None:
        allowed = answer.status_code < 500 if is_open(case.operation) else answer.status_code in {401, 414}
        if not allowed:
            found.add(f"{case.operation.label}: {answer.status_code}")

    for operation in place.operations:
        asked(operation, check, url=url, headers=headers, examples=REFUSED, uid=place.uid)
    return sorted(found)


@pytest.mark.timeout(600)
def test_a_route_opened_by_mistake_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: one row too many in the table of the gate that is running."""
    monkeypatch.setitem(gate.OPEN, ("GET", "/agents"), False)  # type: ignore[arg-type]
    found = unexpected(place, place.url, {})
    assert "GET /agents: 200" in found
    assert {line.partition(":")[0] for line in found} == {"GET /agents"}
