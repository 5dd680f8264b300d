"""Orders through a gateway: one message, and the agent's answer to it, which comes after the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from aegis.cli.client import AgentError
from aegis.cli.remote import Remote
from aegis.cli.selection import Row

WAIT_S = 30
MODULES = "backend.modules"
# What the tool asks for, as the agent's commands are called.
_TYPES = {
    "list": "list_modules",
    "start": "start_module",
    "stop": "stop_module",
    "enable": "enable_module",
    "disable": "disable_module",
    "set": "configure_module",
    "config": "get_module_status",
}
_MEMBERS = {
    "list": "modules",
    "config": "options",
}  # of the answer's state; of the others it is the module itself


def module_rows(remote: Remote, uid: str, verb: str, args: Mapping[str, object]) -> list[Row]:
    """The items of one module command, as the agent's own socket gives them.

    Raises AgentError with the agent's code, or `agent_away`; TimeoutError when it does not answer.
    """
    changes = args.get("set")
    message: dict[str, object] = {"type": _TYPES["set" if changes else verb]}
    if "name" in args:
        message["module_id"] = args["name"]
    if changes:
        message["settings"] = changes
    try:
        state = ask(remote, uid, MODULES, message)
    finally:
        remote.close()
    member = _MEMBERS.get(verb)
    found = state.get(member) if member and isinstance(state, dict) else state
    rows: list[Row] = [
        row for row in (found if isinstance(found, list) else [found]) if isinstance(row, dict)
    ]
    if not rows and found != []:
        raise AgentError(
            {"code": "answer_invalid", "text": f"agent {uid} answered without {member or 'the module'}"}
        )
    return rows


def ask(remote: Remote, uid: str, channel: str, message: Mapping[str, object]) -> Any:
    """The `state` of the agent's answer. The order is dropped where the agent is away: nothing happens later."""
    body = {"channel": channel, "message": message, "ttl": 1}
    sent = remote.send("POST", f"/agents/{quote(uid, safe='')}/send?wait={WAIT_S}s", body, wait_s=WAIT_S)
    status, answer = sent.get("status"), sent.get("answer")
    if status == "timeout":
        raise AgentError(
            {
                "code": "no_answer",
                "text": f"agent {uid} took the order and did not answer within {WAIT_S} s",
                "hint": f"GET /messages/{sent.get('message_id')} says whether it did later",
            }
        )
    if status == "queued":
        raise AgentError(
            {
                "code": "agent_away",
                "text": f"agent {uid} is not connected to the gateway",
                "hint": "aegis gateway agents shows who is; the order is dropped unless it is back within a second",
            }
        )
    if status != "answered" or not isinstance(answer, dict):
        raise AgentError({"code": "order_failed", "text": str(sent.get("error") or f"the order is {status}")})
    if answer.get("ok") is not True:
        raise AgentError(
            {"code": answer.get("code") or "order_refused", "text": answer.get("text") or "refused"}
        )
    return answer.get("state")
