"""Orders: from the body of a push to a typed command, or a typed refusal.

Module commands of the legacy guide, `configure_module` and policy commands of our own, and policy messages in the
shapes of `protocol.policy_variants`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aegis.errors import OrderInvalid, OrderUnknown, PolicyInvalid
from aegis.protocol import policy_variants
from aegis.protocol.channels import Down


class ListModules(msgspec.Struct, frozen=True):
    pass


class GetModuleStatus(msgspec.Struct, frozen=True):
    module_id: str


class StartModule(msgspec.Struct, frozen=True):
    module_id: str


class StopModule(msgspec.Struct, frozen=True):
    module_id: str


class EnableModule(msgspec.Struct, frozen=True):
    """Start, also at the next start of the agent."""

    module_id: str


class DisableModule(msgspec.Struct, frozen=True):
    """Stop, also at the next start of the agent."""

    module_id: str


class ConfigureModule(msgspec.Struct, frozen=True):
    """Other values for options of a module; names and types are the module's to check."""

    module_id: str
    settings: dict[str, Any]


class ApplyPolicy(msgspec.Struct, frozen=True):
    """Put `document` in force: JSON (or what our own tool sent) for `model.policy_document`.

    `variant` is the letter of the message's shape, `own` for one of ours; `name` None where only the document says it.
    """

    document: bytes
    variant: str
    name: str | None = None


class RemovePolicy(msgspec.Struct, frozen=True):
    name: str


class ListPolicies(msgspec.Struct, frozen=True):
    pass


Command = (
    ListModules
    | GetModuleStatus
    | StartModule
    | StopModule
    | EnableModule
    | DisableModule
    | ConfigureModule
    | ApplyPolicy
    | RemovePolicy
    | ListPolicies
)
POLICY_COMMANDS = (ApplyPolicy, RemovePolicy, ListPolicies)

MODULE_ALIASES = {"communication": "websocket_communication"}
# Handled by deployed agents inside of their process only.
IN_PROCESS = frozenset({
    "send_message", "broadcast_message", "get_connection_status", "get_metrics", "get_channel_stats",
    "subscribe_channel", "unsubscribe_channel", "create_channel", "enable_channel", "disable_channel",
})  # fmt: skip

_MODULE_ID = re.compile(r"[a-z0-9_]{1,64}")
_OF_ONE_MODULE: dict[str, Callable[[str], Command]] = {
    "get_module_status": GetModuleStatus,
    "start_module": StartModule,
    "stop_module": StopModule,
    "enable_module": EnableModule,
    "disable_module": DisableModule,
}
_CHANNELS = frozenset({Down.MODULES, Down.POLICIES})
_encode = msgspec.json.Encoder().encode
# JSON has them as they are, YAML only escaped; a document is read as both.
_YAML_ESCAPED = re.compile("[\x7f-\x84\x86-\x9f\ufffe\uffff]")


def is_policy(command: Command) -> bool:
    """Whether a command is about policies: those are answered on the channel of policies."""
    return isinstance(command, POLICY_COMMANDS)


def parse(channel: str, body: Mapping[str, Any], *, wall_s: int) -> Command:
    """The command in the body of an order that came on the last part `channel` of its name.

    Raises OrderUnknown, OrderInvalid, PolicyUnenforceable or PolicyInvalid.
    """
    if channel not in _CHANNELS:
        raise OrderUnknown(
            f"no orders are taken on {channel}", hint="backend.modules and backend.policies carry orders"
        )
    kind = body.get("type")
    if isinstance(kind, str):
        command = _own(kind, body)
        if command is not None:
            return command
    translated = policy_variants.translate(body, wall_s=wall_s)
    if translated is not None:
        return ApplyPolicy(_written(translated.document), translated.variant, translated.name)
    shown = kind if isinstance(kind, str) else body.get("action")
    raise OrderUnknown(f"there is no order {str(shown)[:80]!r}")


def _own(kind: str, body: Mapping[str, Any]) -> Command | None:
    """A command that is named by its type; None for any other body."""
    match kind:
        case "list_modules":
            return ListModules()
        case "list_policies":
            return ListPolicies()
        case "configure_module":
            settings = body.get("settings")
            if not isinstance(settings, dict) or not settings:
                raise OrderInvalid("settings: must be an object with at least one option")
            return ConfigureModule(_module_id(body), settings)
        case "apply_policy":
            return _apply(body)
        case "remove_policy":
            name = body.get("name")
            if not isinstance(name, str) or not 0 < len(name) <= 63:
                raise OrderInvalid("name: must be the name of a policy")
            return RemovePolicy(name)
    of_one = _OF_ONE_MODULE.get(kind)
    if of_one is not None:
        return of_one(_module_id(body))
    if kind in IN_PROCESS:
        raise OrderUnknown(f"{kind} is for inside of an agent's process, not for the link")
    return None


def _apply(body: Mapping[str, Any]) -> ApplyPolicy:
    document = body.get("document")
    if isinstance(document, str) and document:
        try:
            return ApplyPolicy(document.encode(), "own")
        except UnicodeEncodeError:
            raise PolicyInvalid("document", "holds half of a surrogate pair") from None
    if isinstance(document, dict):
        return ApplyPolicy(_written(document), "own")
    raise OrderInvalid("document: must be a policy document")


def _written(document: dict[str, Any]) -> bytes:
    """The document as JSON that is YAML too."""
    text = _encode(document).decode()
    return _YAML_ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _module_id(body: Mapping[str, Any]) -> str:
    identity = body.get("module_id")
    if not isinstance(identity, str) or not _MODULE_ID.fullmatch(identity):
        raise OrderInvalid("module_id: must be the name of a module")
    return MODULE_ALIASES.get(identity, identity)
