"""Headers of the upgrade, in the order they are checked."""

from __future__ import annotations

import base64

import pytest

from aegis.protocol import v1
from aegis.protocol.crypto import Signer
from aegis.protocol.upgrade import Upgrade, UpgradeRefused, check

KEY = Signer(bytes(range(32))).public_key
TEXT = base64.b64encode(KEY).decode()
GOOD = {"X-Agent-ID": "host-1", "X-Agent-Public-Key": TEXT, "User-Agent": "Aegis-Agent/1.0"}


def asked(
    full: bool = False, any_user_agent: bool = False, **changed: str | None
) -> Upgrade | UpgradeRefused:
    headers = GOOD | {name.replace("_", "-"): value for name, value in changed.items()}
    return check(
        [(k, v) for k, v in headers.items() if v is not None], full=full, any_user_agent=any_user_agent
    )


def test_headers_that_hold() -> None:
    assert asked() == Upgrade(agent_id="host-1", key=KEY)


def test_names_without_case() -> None:
    assert check([(name.lower(), value) for name, value in GOOD.items()]) == asked()
    assert check([(name.upper(), value) for name, value in GOOD.items()]) == asked()


def test_the_names_of_the_design_document() -> None:
    found = check([("agentID", "host-1"), ("publicKey", TEXT), ("User-Agent", v1.USER_AGENT)])
    assert found == asked()


def test_of_a_repeated_header_the_first_counts() -> None:
    assert check([*GOOD.items(), ("X-Agent-ID", "other")]) == asked()


@pytest.mark.parametrize("name", ["X_Agent_ID", "X_Agent_Public_Key"])
@pytest.mark.parametrize("value", [None, ""])
def test_missing_headers(name: str, value: str | None) -> None:
    text = "Missing required headers: X-Agent-ID and X-Agent-Public-Key"
    assert asked(**{name: value}) == UpgradeRefused(status=400, text=text)


@pytest.mark.parametrize(
    "value", [None, "", "curl/8", "Aegis-Agent/1.0.0", "aegis-agent/1.0", "Aegis-Agent/1.0 "]
)
def test_the_user_agent_is_exact_unless_any_may_come(value: str | None) -> None:
    assert asked(User_Agent=value) == UpgradeRefused(status=400, text="Invalid user agent")
    assert isinstance(asked(User_Agent=value, any_user_agent=True), Upgrade)


@pytest.mark.parametrize(
    "value",
    [TEXT[:-1], TEXT.replace("/", "_"), base64.b64encode(KEY[:31]).decode(), base64.b64encode(KEY + b"x").decode(), "x", "=",
     base64.b64encode(bytes(32)).decode(), base64.b64encode(b"\xee" + b"\xff" * 30 + b"\x7f").decode()],
)  # fmt: skip
def test_a_key_that_is_none(value: str) -> None:
    assert asked(X_Agent_Public_Key=value) == UpgradeRefused(status=400, text="Invalid public key format")


@pytest.mark.parametrize("value", ["a.b", "a b", "x" * 65, "a:b", "../a", "\u00e4", "a\n"])
def test_an_id_that_is_none(value: str) -> None:
    assert asked(X_Agent_ID=value) == UpgradeRefused(status=400, text="Invalid agent ID")


def test_capacity() -> None:
    assert asked(full=True) == UpgradeRefused(status=503, text="Maximum connections reached")


def test_the_order_of_the_checks() -> None:
    wrong = {"X_Agent_ID": "", "User_Agent": "x", "X_Agent_Public_Key": "x"}
    right = {"X_Agent_ID": "host-1", "User_Agent": v1.USER_AGENT, "X_Agent_Public_Key": TEXT}
    texts = []
    for name in [None, *wrong]:
        if name is not None:
            wrong[name] = right[name]
        found = asked(full=True, **wrong)
        assert isinstance(found, UpgradeRefused)
        texts.append(found.text)
    assert texts == [v1.MISSING_HEADERS, v1.INVALID_USER_AGENT, v1.INVALID_KEY, v1.AT_CAPACITY]
