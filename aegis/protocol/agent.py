"""The agent's end of a v1 session, without a socket: authenticate, register once, heartbeat, sealed orders in.

The driver connects with `headers()`, says `opened`, then after every `receive`, `tick` and call of its own sends what
`outgoing` gives. It calls `tick` no later than `next_deadline`. One object a connection.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from aegis.errors import EnvelopeInvalid, SealInvalid, SessionMisused
from aegis.model.block import BlockClass, Loss
from aegis.protocol import authentication, base64text, canonical, channels, envelope, payloads, v1
from aegis.protocol.agent_happenings import (
    Acknowledged,
    AgentHappening,
    Authenticated,
    Closed,
    GatewayUnproven,
    Order,
    PeerError,
    ReconnectWanted,
    Refused,
    Registered,
)
from aegis.protocol.agent_identity import AgentIdentity, Registration
from aegis.protocol.coverage import cover, covered_frame
from aegis.protocol.crypto import (
    KEY_BYTES,
    Signer,
    is_sound,
    shared_key,
    uid_of,
    unseal,
)
from aegis.protocol.envelope import Envelope

__all__ = ["AgentIdentity", "AgentSession", "Phase", "Registration"]

SECOND = 1_000_000_000
SHORTEST_SESSION_S = 5  # a gateway that grants less is asked again no more often
MARK = {"aegis": {"v": 1}}  # among the capabilities: this agent is one of ours


class Phase(enum.StrEnum):
    NEW = "new"
    AUTHENTICATING = "authenticating"
    DELAYED = "delayed"  # authenticated; registers in a moment, not together with all others
    REGISTERING = "registering"
    COMPLETING = "completing"
    UP = "up"
    CLOSED = "closed"


_WAITING = frozenset({Phase.AUTHENTICATING, Phase.REGISTERING, Phase.COMPLETING})


class AgentSession:
    """`entropy(n)` gives n random bytes. `reregister`: register again when the gateway has another key than at the last.

    That is for gateways that make a key and forget their agents at each start. One of ours says whether it knows the
    key of the agent, and then that decides. Registration at another is delayed by up to `registration_delay_s`, for it
    dies of many at once. `known_gateway_key`: the key of the last session, None at first.
    """

    def __init__(
        self,
        identity: AgentIdentity,
        *,
        entropy: Callable[[int], bytes],
        registration: Registration,
        heartbeat_s: float = v1.HEARTBEAT_S,
        reregister: bool = True,
        handshake_s: float = v1.HANDSHAKE_S,
        registration_delay_s: float = 0.5,
        known_gateway_key: bytes | None = None,
    ) -> None:
        self._signer = Signer(identity.seed)
        self._key_text = base64text.encode(self._signer.public_key)
        self._agent_id = identity.agent_id
        self._uid = identity.uid
        self._header_id = identity.uid or uid_of(self._signer.public_key)
        self._entropy = entropy
        self._registration = registration
        self._heartbeat_ns = int(heartbeat_s * SECOND)
        self._handshake_ns = int(handshake_s * SECOND)
        self._delay_s = registration_delay_s
        self._reregister = reregister
        self._known_key = known_gateway_key
        self._phase = Phase.NEW
        self._outgoing: list[str | bytearray] = []
        # Of the phase: an answer, the end of a delay, the next heartbeat.
        self._deadline_ns: int | None = None
        self._expires_ns: int | None = None
        self._shared = b""
        self._ours = False
        self._batches = False
        self._shares = False
        self._again = True  # may begin anew when the gateway knows nothing of it: once a connection

    # ---- what is known

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def uid(self) -> str | None:
        return self._uid

    @property
    def public_key(self) -> bytes:
        return self._signer.public_key

    def takes(self, cls: BlockClass) -> bool:
        """Whether a batch of this class may be sent now: findings to every gateway, others to those that said so."""
        return self._phase is Phase.UP and (self._batches or cls is BlockClass.FINDING)

    @property
    def shares(self) -> bool:
        """Whether items of a batch may name what they have in common."""
        return self._shares

    def headers(self) -> dict[str, str]:
        """Headers of the upgrade request, the user agent included."""
        return {
            v1.HEADER_ID: self._header_id,
            v1.HEADER_KEY: self._key_text,
            "User-Agent": v1.USER_AGENT,
        }

    def outgoing(self) -> list[str | bytearray]:
        """Text frames to send now, in order, long ones as UTF-8; each is given once."""
        frames, self._outgoing = self._outgoing, []
        return frames

    @property
    def waiting(self) -> bool:
        """Whether `outgoing` has a frame."""
        return bool(self._outgoing)

    def next_deadline(self) -> int | None:
        """Monotonic ns at which `tick` has something to do."""
        if self._phase in {Phase.NEW, Phase.CLOSED}:
            return None
        known = [each for each in (self._deadline_ns, self._expires_ns) if each is not None]
        return min(known, default=None)

    # ---- what happens

    def opened(self, now_ns: int, wall_s: int) -> None:
        """The upgrade is done: authentication goes out. Raises SessionMisused the second time."""
        if self._phase is not Phase.NEW:
            raise SessionMisused("a session is opened once")
        self._authenticate(now_ns, wall_s)

    def tick(self, now_ns: int, wall_s: int) -> list[AgentHappening]:
        """Do what is due: a heartbeat, a registration, or the end of a peer that does not answer."""
        happened: list[AgentHappening] = []
        if self._phase in {Phase.NEW, Phase.CLOSED}:
            return happened
        if self._deadline_ns is not None and now_ns >= self._deadline_ns:
            if self._phase in _WAITING:
                return [self._close("deadline", f"no answer while {self._phase}")]
            if self._phase is Phase.DELAYED:
                self._register(now_ns, wall_s)
            else:
                self._heartbeat(now_ns, wall_s)
        if self._expires_ns is not None and now_ns >= self._expires_ns:
            self._expires_ns = None
            happened.append(ReconnectWanted(reason="the session expires"))
        return happened

    def receive(self, frame: str | bytes, now_ns: int, wall_s: int) -> list[AgentHappening]:
        """Take a frame: text as str; bytes is a binary frame. Never raises for what a peer may send."""
        if self._phase in {Phase.NEW, Phase.CLOSED}:
            return []
        if isinstance(frame, bytes):
            return [Refused(code="binary_frame", text="a binary frame")]
        most = v1.FRAME_BYTES_BEFORE if self._phase is Phase.AUTHENTICATING else v1.FRAME_BYTES_AFTER
        try:
            message = envelope.read(frame, most)
            match message.channel:
                case channels.ERROR:
                    return self._error(message, now_ns, wall_s)
                case channels.AUTH:
                    return self._authenticated(message, now_ns, wall_s)
                case channels.REGISTRATION:
                    return self._offered(message, now_ns, wall_s)
                case channels.COMPLETION | channels.COMPLETION_ALIAS:
                    return self._completed(message, now_ns, wall_s)
                case channels.HEARTBEAT:  # a reply some documents show
                    return []
            return self._pushed(message)
        except (EnvelopeInvalid, SealInvalid) as error:
            return [Refused(code=error.code, text=str(error))]

    # ---- what is said

    def batch(
        self,
        cls: BlockClass,
        *,
        stream: int,
        first: int,
        boot_id: bytes,
        items_json: bytes,
        wall_s: int,
        losses: tuple[Loss, ...] = (),
        shared_json: bytes = b"",
    ) -> None:
        """Send items, a JSON array as it goes out, and the array of the objects they name, where they do.

        Raises SessionMisused where `takes` is false, and for objects that are named where `shares` is.
        """
        if not self.takes(cls) or (shared_json and not self._shares):
            raise SessionMisused(f"no {cls} can be sent now")
        carriage = channels.BATCHES[cls]
        content = payloads.batch_content(
            carriage.kind, stream, first, boot_id, items_json, losses, shared_json
        )
        if not self._ours:
            self._say(v1.TYPE_EVENT, carriage.channel, base64text.encode(content), wall_s)
            return
        channel, identity, nonce = self._marks(carriage.channel)
        self._outgoing.append(
            covered_frame(self._signer, identity, v1.TYPE_EVENT, channel, wall_s, nonce, content)
        )

    def answer(
        self,
        in_reply_to: str,
        *,
        ok: bool,
        wall_s: int,
        code: str = "",
        text: str = "",
        state: object = None,
        channel: channels.Up = channels.Up.STATUS,
    ) -> None:
        """Answer an order, after the thing happened; policy orders on `Up.POLICIES`. Raises SessionMisused."""
        self._must_be_up()
        said = payloads.Answer(in_reply_to, ok, code, text, state)
        self._say(v1.TYPE_RESPONSE, channel, payloads.packed(said), wall_s)

    def state(self, state: dict[str, Any], *, wall_s: int) -> None:
        """Tell of a change of state or a condition. Raises SessionMisused."""
        self._must_be_up()
        self._say(v1.TYPE_EVENT, channels.Up.STATUS, payloads.packed(payloads.State(state)), wall_s)

    # ---- the handshake

    def _authenticate(self, now_ns: int, wall_s: int) -> None:
        nonce = base64text.encode(self._entropy(v1.OWN_NONCE_BYTES))
        signed = canonical.authentication(self._agent_id, self._key_text, wall_s, nonce)
        request = payloads.AuthRequest(
            self._agent_id, self._key_text, wall_s, nonce, base64text.encode(self._signer.sign(signed))
        )
        self._ask("auth", channels.AUTH, request, wall_s)
        self._wait(Phase.AUTHENTICATING, now_ns)

    def _authenticated(self, message: Envelope, now_ns: int, wall_s: int) -> list[AgentHappening]:
        if self._phase is not Phase.AUTHENTICATING:
            return [Refused(code="unexpected", text="an authentication answer nobody waits for")]
        try:
            response, mark = payloads.read_auth_response(message.payload)
            if not response.success:
                reason = payloads.read_error(response.message) or "the gateway refused the authentication"
                return [self._close("refused", reason, message.timestamp)]
            key = base64text.decode(response.backend_key, "backend_key", KEY_BYTES)
        except EnvelopeInvalid as error:
            return [self._close("protocol", str(error))]
        if not is_sound(key):
            return [self._close("protocol", "backend_key: is not a sound key")]
        self._shared = shared_key(self._signer.public_key, key)
        self._ours = mark is not None
        self._batches = mark is not None and mark.batches
        self._shares = mark is not None and mark.shared
        expires_in_s = authentication.lifetime(response.expires_at, message.timestamp, wall_s)
        if expires_in_s is not None:
            self._expires_ns = now_ns + max(expires_in_s, SHORTEST_SESSION_S) * SECOND
        same = self._known_key == key
        happened: list[AgentHappening] = [
            GatewayUnproven(reason=reason, gateway_key=key) for reason in self._doubts(message, key)
        ]
        happened.append(
            Authenticated(gateway_key=key, ours=self._ours, batches=self._batches, expires_in_s=expires_in_s)
        )
        known = mark.registered if mark is not None else None
        # One that is not ours does not say whether it knows us. It forgets at its start, when it makes a new key, too.
        if self._uid is not None and (known or (known is None and (same or not self._reregister))):
            self._up(now_ns, wall_s)
            happened.append(Registered(uid=self._uid, fresh=False))
        elif self._ours or self._delay_s <= 0:
            self._register(now_ns, wall_s)
        else:
            share = int.from_bytes(self._entropy(4), "big") / (1 << 32)
            self._phase = Phase.DELAYED
            self._deadline_ns = now_ns + int(self._delay_s * share * SECOND)
        return happened

    def _doubts(self, message: Envelope, key: bytes) -> list[str]:
        """What speaks against the gateway's key; none of it is a reason to go, for deployed ones prove nothing."""
        doubts = []
        if not message.signature:
            doubts.append("unsigned")
        elif not authentication.answer_verifies(message, key):
            doubts.append("bad_signature")
        if self._known_key is not None and self._known_key != key:
            doubts.append("key_changed")
        self._known_key = key
        return doubts

    def _register(self, now_ns: int, wall_s: int) -> None:
        told = self._registration
        init = {
            "agent_pubkey": self._key_text,
            "host_id": told.host_id,
            "org_id": told.org_id,
            "agent_version": told.version,
            "machine_id_hash": told.machine_id_hash,
            "capabilities": told.capabilities | MARK,
            "platform": told.platform,
            "network": told.network,
        }
        self._ask("reg_init", channels.REGISTRATION, init, wall_s)
        self._wait(Phase.REGISTERING, now_ns)

    def _offered(self, message: Envelope, now_ns: int, wall_s: int) -> list[AgentHappening]:
        if self._phase is not Phase.REGISTERING:
            return [Refused(code="unexpected", text="a registration answer nobody waits for")]
        try:
            offer = payloads.read_offer(message.payload)
            nonce = base64text.decode(offer.nonce, "nonce", *sorted(v1.REGISTRATION_NONCE_BYTES))
            if not v1.SERVER_TIME.fullmatch(offer.server_time):
                raise EnvelopeInvalid("server_time: is not an RFC 3339 instant")
        except EnvelopeInvalid as error:
            return [self._close("protocol", str(error))]
        host_id = self._registration.host_id
        signature = self._signer.sign(canonical.registration(nonce, offer.server_time, host_id))
        completion = payloads.RegistrationCompletion(
            offer.registration_id, host_id, base64text.encode(signature)
        )
        self._ask("reg_complete", channels.COMPLETION, completion, wall_s)
        self._wait(Phase.COMPLETING, now_ns)
        return []

    def _completed(self, message: Envelope, now_ns: int, wall_s: int) -> list[AgentHappening]:
        if self._phase is not Phase.COMPLETING:
            return [Refused(code="unexpected", text="a completion nobody waits for")]
        try:
            reply = payloads.read_reply(message.payload)
        except EnvelopeInvalid as error:
            return [self._close("protocol", str(error))]
        if not v1.ID.fullmatch(reply.agent_uid):
            return [self._close("protocol", "agent_uid: is not 1 to 64 of A-Z a-z 0-9 _ -")]
        self._uid = reply.agent_uid
        self._up(now_ns, wall_s)
        return [Registered(uid=self._uid, fresh=True)]

    def _up(self, now_ns: int, wall_s: int) -> None:
        self._phase = Phase.UP
        self._heartbeat(now_ns, wall_s)

    # ---- the session

    def _error(self, message: Envelope, now_ns: int, wall_s: int) -> list[AgentHappening]:
        text = payloads.read_error(message.payload) or "an error without a text"
        happened: list[AgentHappening] = [PeerError(text=text)]
        if self._phase in _WAITING:
            return [*happened, self._close("refused", text, message.timestamp)]
        if self._phase is not Phase.UP:
            return happened
        heartbeat_refused = text.startswith(v1.NO_HANDLER) and text.endswith(f".{channels.HEARTBEAT}")
        nobody = v1.NOT_AUTHENTICATED in text
        if not (nobody or v1.NOT_REGISTERED in text or heartbeat_refused):
            return happened
        if not self._again:
            return [*happened, ReconnectWanted(reason=text)]
        self._again = False
        if nobody:
            self._authenticate(now_ns, wall_s)
        else:
            self._register(now_ns, wall_s)
        return happened

    def _pushed(self, message: Envelope) -> list[AgentHappening]:
        if self._phase is not Phase.UP:
            return [Refused(code="early_push", text="a push before the session is up")]
        to = channels.split_down(message.channel)
        if to is None:
            return [Refused(code="unknown_channel", text=f"channel {message.channel[:80]!r}")]
        identity, kind = to
        if identity is not None and identity not in {self._uid, self._agent_id, self._header_id}:
            return [Refused(code="other_agent", text="a push on the channel of another agent")]
        if kind is channels.Down.HEARTBEAT:
            return []
        nonce = base64text.decode(message.nonce or "", "nonce", v1.NONCE_BYTES)
        text = unseal(self._shared, nonce, base64text.decode(message.payload, "payload"))
        if kind is channels.Down.ACK:
            ack = payloads.read_ack(payloads.read_push_text(text))
            return [Acknowledged(stream=ack.stream, cls=ack.cls, next_=ack.next_)]
        body = payloads.read_push(text)
        named = body.get("command_id")
        command_id = named if isinstance(named, str) and 0 < len(named) <= 256 else message.id or ""
        return [Order(command_id=command_id, channel=kind, body=body)]

    # ---- frames

    def _heartbeat(self, now_ns: int, wall_s: int) -> None:
        self._deadline_ns = now_ns + self._heartbeat_ns
        self._say(v1.TYPE_HEARTBEAT, channels.Up.HEARTBEAT, "e30=", wall_s, covered=False)

    def _ask(self, name: str, channel: str, content: object, wall_s: int) -> None:
        """A request of the handshake: neither nonce nor signature around it."""
        self._outgoing.append(
            envelope.write(
                identity=f"{name}_{self._entropy(8).hex()}",
                kind=v1.TYPE_REQUEST,
                channel=channel,
                payload=payloads.packed(content),
                timestamp=wall_s,
            )
        )

    def _say(self, kind: str, up: channels.Up, payload: str, wall_s: int, *, covered: bool = True) -> None:
        """A message of the session: signed as deployed agents sign, or for our gateway over all of the envelope."""
        channel, identity, nonce = self._marks(up)
        headers, signature = {}, ""
        if covered and self._ours:
            headers = cover(self._signer, identity, kind, channel, wall_s, nonce, payload)
        else:
            signed = canonical.message(self._uid or self._agent_id, self._key_text, wall_s, nonce)
            signature = base64text.encode(self._signer.sign(signed))
        self._outgoing.append(
            envelope.write(
                identity=identity,
                kind=kind,
                channel=channel,
                payload=payload,
                timestamp=wall_s,
                nonce=nonce,
                signature=signature,
                headers=headers,
            )
        )

    def _marks(self, up: channels.Up) -> tuple[str, str, str]:
        """Channel, id and nonce of a message of the session."""
        fresh = self._entropy(v1.OWN_NONCE_BYTES - len(v1.MESSAGE_NONCE))
        nonce = base64text.encode(v1.MESSAGE_NONCE + fresh)
        return channels.up(self._uid or self._agent_id, up), f"{up}_{self._entropy(8).hex()}", nonce

    # ---- states

    def _wait(self, phase: Phase, now_ns: int) -> None:
        self._phase = phase
        self._deadline_ns = now_ns + self._handshake_ns

    def _must_be_up(self) -> None:
        if self._phase is not Phase.UP:
            raise SessionMisused(f"nothing can be said while {self._phase}")

    def _close(self, code: str, reason: str, gateway_time_s: int | None = None) -> Closed:
        self._phase = Phase.CLOSED
        self._outgoing.clear()
        return Closed(code=code, reason=reason, gateway_time_s=gateway_time_s)
