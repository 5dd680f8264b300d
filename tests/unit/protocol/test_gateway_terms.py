"""Who a gateway is."""

from __future__ import annotations

import base64

from aegis.protocol.gateway_terms import GatewayKeys
from tests.support.sessions import GATEWAY_SEED


def test_keys() -> None:
    keys = GatewayKeys(GATEWAY_SEED)
    assert keys.public_text == base64.b64encode(keys.public_key).decode()
    assert keys.public_text == "Kay64UG8yvCyLhqU000LxzYeUm0L/hLIl5S8kyKWbdc="


def test_keys_say_nothing_of_their_seed() -> None:
    keys = GatewayKeys(GATEWAY_SEED)
    assert GATEWAY_SEED.hex() not in f"{keys!r}{keys}{vars(type(keys))}"
