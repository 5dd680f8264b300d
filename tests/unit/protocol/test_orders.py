"""From the body of a push to a command, or to the reason why there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aegis.errors import OrderInvalid, OrderUnknown, PolicyInvalid, PolicyUnenforceable
from aegis.model.policy_document import parse_document
from aegis.protocol import orders
from aegis.protocol.channels import Down
from tests.support.sessions import WALL

OF_ONE = {
    "get_module_status": orders.GetModuleStatus,
    "start_module": orders.StartModule,
    "stop_module": orders.StopModule,
    "enable_module": orders.EnableModule,
    "disable_module": orders.DisableModule,
}


def parsed(body: dict[str, Any], channel: str = "modules") -> orders.Command:
    return orders.parse(channel, body, wall_s=WALL)


@pytest.mark.parametrize("name", OF_ONE)
def test_commands_of_one_module(name: str) -> None:
    assert parsed({"type": name, "module_id": "telemetry", "command_id": "x"}) == OF_ONE[name]("telemetry")


@pytest.mark.parametrize("name", OF_ONE)
@pytest.mark.parametrize("module_id", [None, 1, "", "a/b", "../x", "A", "x" * 65, ["telemetry"]])
def test_the_name_of_a_module(name: str, module_id: object) -> None:
    with pytest.raises(OrderInvalid, match="module_id"):
        parsed({"type": name, "module_id": module_id})


def test_a_module_has_another_name_in_the_documents() -> None:
    assert parsed({"type": "stop_module", "module_id": "communication"}) == orders.StopModule(
        "websocket_communication"
    )


def test_lists() -> None:
    assert parsed({"type": "list_modules"}) == orders.ListModules()
    assert parsed({"type": "list_policies"}, "policies") == orders.ListPolicies()


def test_settings_of_a_module() -> None:
    said = {"type": "configure_module", "module_id": "telemetry", "settings": {"interval_s": 5}}
    assert parsed(said) == orders.ConfigureModule("telemetry", {"interval_s": 5})
    for settings in (None, {}, [], "x", 1):
        with pytest.raises(OrderInvalid, match="settings"):
            parsed(said | {"settings": settings})


@pytest.mark.parametrize("name", sorted(orders.IN_PROCESS))
def test_commands_for_inside_of_a_process_are_refused_by_name(name: str) -> None:
    with pytest.raises(OrderUnknown, match=name):
        parsed({"type": name})


@pytest.mark.parametrize(
    "body",
    [{}, {"type": "x"}, {"action": "ping"}, {"type": 5}, {"type": None, "action": None}, {"policy_id": "x"}],
)
def test_what_is_no_order(body: dict[str, Any]) -> None:
    with pytest.raises(OrderUnknown, match="there is no order"):
        parsed(body)


@pytest.mark.parametrize("channel", [each for each in Down if each not in {Down.MODULES, Down.POLICIES}])
def test_channels_that_carry_no_orders(channel: Down) -> None:
    with pytest.raises(OrderUnknown, match=f"no orders are taken on {channel}"):
        parsed({"type": "list_modules"}, channel)


@pytest.mark.parametrize(
    ("document", "text"),
    [({"kind": "HostNetworkPolicy"}, b'{"kind":"HostNetworkPolicy"}'), ("a: 1\n", b"a: 1\n")],
)
def test_policies_of_our_own(document: object, text: bytes) -> None:
    found = parsed({"type": "apply_policy", "document": document}, "policies")
    assert found == orders.ApplyPolicy(text, "own")
    assert orders.is_policy(found)


@pytest.mark.parametrize("document", [None, "", 1, [], True])
def test_a_policy_without_a_document(document: object) -> None:
    with pytest.raises(OrderInvalid, match="document"):
        parsed({"type": "apply_policy", "document": document})


def test_a_document_that_is_no_text() -> None:
    with pytest.raises(PolicyInvalid, match="surrogate"):
        parsed({"type": "apply_policy", "document": "\ud800"})


@pytest.mark.parametrize("name", [None, "", 1, "x" * 64])
def test_a_policy_is_removed_by_name(name: object) -> None:
    assert parsed({"type": "remove_policy", "name": "a.b"}) == orders.RemovePolicy("a.b")
    with pytest.raises(OrderInvalid, match="name"):
        parsed({"type": "remove_policy", "name": name})


def test_a_variant_becomes_a_policy() -> None:
    body = {"action": "deploy_policy", "policy_id": "p", "policy_config": {"target": "10.0.0.1"}}
    found = parsed(body, "policies")
    assert isinstance(found, orders.ApplyPolicy)
    assert (found.variant, found.name, json.loads(found.document)["metadata"]["name"]) == ("a", "p", "p")


def test_a_variant_that_cannot_be_said_is_refused() -> None:
    with pytest.raises(PolicyUnenforceable, match="variant c"):
        parsed({"action": "deploy", "policy_id": "p", "artifact": {}})


def test_modules_are_no_policies() -> None:
    assert not orders.is_policy(orders.ListModules())
    assert all(orders.is_policy(each) for each in (orders.ListPolicies(), orders.RemovePolicy("x")))


@pytest.mark.parametrize(
    "letter", ["\x7f", "\x80", "\x9f", "\x85", "\ufeff", "\ufffe", "\uffff", "\U0001f600"]
)
def test_letters_that_yaml_has_only_escaped_reach_the_language(letter: str) -> None:
    """JSON has them as they are. It is the name that is refused, not the whole document."""
    snapshot = {"deny_cidr_v4": ["10.0.0.0/8"]}
    made = parsed({"bundle_id": f"b{letter}2", "mode": "block", "snapshot": snapshot}, "policies")
    assert isinstance(made, orders.ApplyPolicy)
    assert json.loads(made.document)["metadata"]["name"] == f"b{letter}2"
    own = parsed({"type": "apply_policy", "document": json.loads(made.document)})
    assert isinstance(own, orders.ApplyPolicy)
    for document in (made.document, own.document):
        with pytest.raises(PolicyInvalid, match=r"^metadata\.name"):
            parse_document(document)
