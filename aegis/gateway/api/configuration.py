"""`PUT /agents/{uid}/config`: options of modules, changed while they run. The answer comes after the change."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import put
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET

from aegis.gateway.api.agents import PathUid
from aegis.gateway.api.documents import ConfigBody, ConfigSent
from aegis.gateway.api.orders import wait_s
from aegis.gateway.api.place import ThePlace
from aegis.gateway.api.problems import FieldProblem, Refusal
from aegis.gateway.views import Order, Sent, SentStatus
from aegis.protocol.channels import MODULES

UPDATED = "configuration_updated"
REFUSED = "refused"
_UNSUPPORTED = ("channels", "policies", "heartbeat_interval", "reconnect_interval", "message_queue_size")


@put("/agents/{uid:str}/config", operation_id="configure", summary="Change options of an agent's modules.")
async def configure(
    place: ThePlace,
    uid: PathUid,
    data: JSONBody[ConfigBody],
    wait: Annotated[str, QueryParameter(description="how long to wait for the agent", max_length=16)] = "10s",
) -> ConfigSent:
    """One order a module, in the order given. A member with no option behind it refuses the whole request."""
    unsupported = [name for name in _UNSUPPORTED if getattr(data, name) is not UNSET]
    if unsupported:
        raise Refusal(
            422,
            "config_unsupported",
            "no option of a running agent is behind a member; nothing was sent",
            hint="give settings: {MODULE: {OPTION: VALUE}}",
            errors=tuple(
                FieldProblem(at=f"$.{name}", detail="cannot be changed from here") for name in unsupported
            ),
        )
    if not data.settings:
        raise Refusal(422, "body_invalid", "settings names no module: nothing is to be changed")
    seconds = wait_s(wait)
    place.hub.agent(uid)
    sent = await place.hub.send_many(
        [
            Order(
                uid=uid,
                channel=MODULES,
                message={"type": "configure_module", "module_id": module, "settings": options},
            )
            for module, options in data.settings.items()
        ],
        wait_s=seconds,
    )
    status, text = _told(sent)
    return ConfigSent(
        agent_uid=uid, config={"settings": data.settings}, status=status, message=text, messages=sent
    )


def _told(sent: list[Sent]) -> tuple[str, str]:
    """What became of all of them: the worst, and why."""
    for one in sent:
        answer: Any = one.answer
        if one.status is not SentStatus.ANSWERED:
            return one.status.value, one.error or _WORDS.get(one.status, "the order was not carried out")
        if not (isinstance(answer, dict) and answer.get("ok") is True):
            text = answer.get("text") if isinstance(answer, dict) else None
            return REFUSED, str(text or "the agent refused")
    return UPDATED, "the agent has changed its options"


_WORDS = {
    SentStatus.SENT: "sent; nobody waited for the answer",
    SentStatus.QUEUED: "the agent is away; the order waits for it",
    SentStatus.TIMEOUT: "sent, and not answered in time",
}

ROUTES = (configure,)
