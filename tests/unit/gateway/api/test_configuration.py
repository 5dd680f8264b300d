"""`PUT /agents/{uid}/config` sends orders and tells what the agent said."""

from __future__ import annotations

import pytest

from aegis.gateway.views import Order
from tests.support.api import UID, Api, agent_view

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is answered is the same on both

CONFIG = f"/agents/{UID}/config"
SETTINGS = {"telemetry": {"period": "5s"}, "observability": {"flows": True}}


async def test_each_module_gets_an_order(api: Api) -> None:
    made = (await api.call("PUT", CONFIG, {"settings": SETTINGS})).json()
    assert (made["status"], made["config"]) == ("configuration_updated", {"settings": SETTINGS})
    assert [one["status"] for one in made["messages"]] == ["answered", "answered"]
    assert api.hub.sent == [
        (
            Order(
                uid=UID,
                channel="backend.modules",
                message={"type": "configure_module", "module_id": module, "settings": options},
            ),
            10.0,
        )
        for module, options in SETTINGS.items()
    ]


async def test_what_the_agent_refuses_is_not_called_updated(api: Api) -> None:
    def answers(order: Order) -> object:
        ok = order.message["module_id"] == "telemetry"
        return {"ok": ok, "code": "" if ok else "config_invalid", "text": "" if ok else "no such option"}

    api.hub.answers = answers
    made = (await api.call("PUT", CONFIG, {"settings": SETTINGS})).json()
    assert (made["status"], made["message"]) == ("refused", "no such option")


async def test_an_answer_that_says_nothing_is_no_yes(api: Api) -> None:
    for said in (None, [], {"ok": 1}, {}):
        api.hub.answers = lambda _order, said=said: said
        assert (await api.call("PUT", CONFIG, {"settings": SETTINGS})).json()["status"] == "refused"


async def test_an_agent_that_is_away_or_silent(api: Api) -> None:
    api.hub.views["away"] = agent_view("away", connected=False)
    api.hub.views["deployed"] = agent_view("deployed", ours=False)
    away = (await api.call("PUT", "/agents/away/config", {"settings": SETTINGS})).json()
    assert (away["status"], away["message"]) == ("queued", "the agent is away; the order waits for it")
    silent = (await api.call("PUT", "/agents/deployed/config?wait=50ms", {"settings": SETTINGS})).json()
    assert silent["status"] == "timeout"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "body_invalid"),
        ({"settings": {}}, "body_invalid"),
        ({"settings": {"telemetry": 5}}, "body_invalid"),
        ({"heartbeat_interval": 30}, "config_unsupported"),
        ({"settings": SETTINGS, "policies": []}, "config_unsupported"),
        ({"settings": SETTINGS, "channels": None}, "config_unsupported"),
    ],
)
async def test_what_cannot_be_changed_sends_nothing(api: Api, body: object, code: str) -> None:
    answer = await api.call("PUT", CONFIG, body)
    assert (answer.status, answer.json()["code"]) == (422, code)
    assert api.hub.sent == []
