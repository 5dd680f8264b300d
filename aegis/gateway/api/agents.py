"""Routes about agents: lists, one agent, labels, note, status, and heartbeats taken over HTTP."""

from __future__ import annotations

from typing import Annotated

from litestar import get, post, put
from litestar.params import JSONBody, PathParameter, QueryParameter

from aegis.errors import AgentUnknown, QueryInvalid
from aegis.gateway.api.documents import (
    AgentsPage,
    AgentStatus,
    Heartbeat,
    Heartbeats,
    HeartbeatsTaken,
    HeartbeatTaken,
    Labels,
    LabelsChange,
    Note,
    NoteChange,
)
from aegis.gateway.api.instants import rfc3339_ns
from aegis.gateway.api.place import ThePlace
from aegis.gateway.api.problems import Refusal
from aegis.gateway.views import AgentView
from aegis.model.stamp import rfc3339
from aegis.runtime.clock import SystemClock

AHEAD_NS = 5 * 1_000_000_000  # how far the clock of who sends a heartbeat may be ahead

PathUid = Annotated[str, PathParameter(description="uid of an agent", max_length=64)]
Condition = Annotated[str | None, QueryParameter(max_length=256)]

_wall_ns = SystemClock().wall_ns


@get("/agents", operation_id="listAgents", summary="Agents, newest first.")
async def list_agents(
    place: ThePlace,
    label: Condition = None,
    hostname: Condition = None,
    host_id: Condition = None,
    ip: Annotated[str | None, QueryParameter(max_length=64, description="remote address")] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
    offset: Annotated[int, QueryParameter(ge=0, le=10_000_000)] = 0,
    include_detection_pack: Annotated[bool, QueryParameter(description="taken, not used")] = False,  # noqa: ARG001, FBT002
) -> AgentsPage:
    page, total = place.hub.agents(
        label=label, hostname=hostname, host_id=host_id, address=ip, limit=limit, offset=offset
    )
    return AgentsPage(agents=page, total=total)


@get("/agents/{uid:str}", operation_id="getAgent", summary="One agent.")
async def get_agent(place: ThePlace, uid: PathUid) -> AgentView:
    return place.hub.agent(uid)


@put("/agents/{uid:str}/labels", operation_id="changeLabels", summary="Add and remove labels.")
async def change_labels(place: ThePlace, uid: PathUid, data: JSONBody[LabelsChange]) -> Labels:
    return Labels(agent_uid=uid, labels=await place.hub.set_labels(uid, add=data.add, remove=data.remove))


@put("/agents/{uid:str}/note", operation_id="setNote", summary="Replace the note.")
async def set_note(place: ThePlace, uid: PathUid, data: JSONBody[NoteChange]) -> Note:
    await place.hub.set_note(uid, data.note)
    return Note(agent_uid=uid, note=data.note)


@get("/agents/{uid:str}/status", operation_id="agentStatus", summary="Whether an agent is connected.")
async def agent_status(place: ThePlace, uid: PathUid) -> AgentStatus:
    view = place.hub.agent(uid)
    expires = view.session_expires
    return AgentStatus(
        agent_id=view.agent_id,
        agent_uid=view.agent_uid,
        connected=view.connected,
        last_seen=view.last_seen,
        channels=[],
        session_expires=expires,
        **({} if expires else {"session_expires_reason": "the agent has no session"}),
        websocket_url=place.websocket_url,
        **({} if place.websocket_url else {"websocket_url_reason": "the gateway was given no --advertise"}),
        uptime=round(max(0, _wall_ns() - view.created_ns) / 1e9, 3),
    )


@post("/agents/heartbeat", status_code=200, operation_id="heartbeat", summary="An agent was heard of.")
async def heartbeat(place: ThePlace, data: JSONBody[Heartbeat]) -> HeartbeatTaken:
    """Only agents that registered are known; one that did not is not made by this."""
    return _taken(place, data, _wall_ns())


@post("/agents/heartbeats", status_code=200, operation_id="heartbeats", summary="Agents were heard of.")
async def heartbeats(place: ThePlace, data: JSONBody[Heartbeats]) -> HeartbeatsTaken:
    now_ns = _wall_ns()
    updated = 0
    for one in data.heartbeats:
        try:
            _taken(place, one, now_ns)
            updated += 1
        except (AgentUnknown, Refusal):  # counted below, as `failed`
            continue
    return HeartbeatsTaken(
        status="ok",
        updated=updated,
        registered=0,
        failed=len(data.heartbeats) - updated,
        accepted=updated,
    )


def _taken(place: ThePlace, beat: Heartbeat, now_ns: int) -> HeartbeatTaken:
    if not beat.agent_uid:
        raise Refusal(400, "heartbeat_invalid", "Agent UID required")
    try:
        last_seen_ns = rfc3339_ns(beat.last_seen, name="last_seen")
    except QueryInvalid:
        raise Refusal(400, "heartbeat_invalid", "Invalid timestamp format") from None
    if not 0 <= last_seen_ns <= now_ns + AHEAD_NS:
        raise Refusal(400, "heartbeat_invalid", "last_seen is in the future, or before 1970")
    view = place.hub.heard(beat.agent_uid, last_seen_ns=min(last_seen_ns, now_ns))
    return HeartbeatTaken(
        status="updated",
        agent_uid=view.agent_uid,
        last_seen=rfc3339(view.last_seen_ns),
        host_id=view.host_id,
        hostname=view.hostname,
    )


ROUTES = (
    list_agents,
    get_agent,
    change_labels,
    set_note,
    agent_status,
    heartbeat,
    heartbeats,
)
