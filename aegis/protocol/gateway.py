"""The gateway's end of a v1 session, without a socket.

The driver checks the upgrade (`protocol.upgrade.check`), makes one object a connection, says `opened`, then after every
`receive`, `tick` and call of its own sends what `outgoing` gives. It calls `tick` no later than `next_deadline`, and
`gone` when the connection is. `push` and `acknowledge` give a sealed frame instead, for the driver's bounded queue.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import msgspec

from aegis.errors import EnvelopeInvalid, RegistrationRefused, SessionMisused
from aegis.model.block import BlockClass
from aegis.protocol import authentication, base64text, canonical, channels, envelope, payloads, v1
from aegis.protocol.channels import Up
from aegis.protocol.coverage import is_covered
from aegis.protocol.crypto import (
    KEY_BYTES,
    is_uid_of_another,
    seal,
    shared_key,
    uid_of,
)
from aegis.protocol.envelope import Envelope
from aegis.protocol.gateway_happenings import (
    Answer,
    Authenticated,
    Batch,
    Closed,
    GatewayHappening,
    Heartbeat,
    Ignored,
    Refused,
    RegistrationBegun,
    RegistrationProven,
    State,
)
from aegis.protocol.gateway_terms import GatewayKeys, GatewayLimits
from aegis.protocol.registration import Proven, Registrations
from aegis.protocol.replay import ReplayCache
from aegis.protocol.upgrade import Upgrade

__all__ = ["GatewayKeys", "GatewayLimits", "GatewaySession", "Phase", "push_text"]

SECOND = 1_000_000_000
POLICY_VIOLATION, TOO_BIG, GOING_IDLE, EXPIRED = 1008, 1009, 1001, 4003


_LIMITS = GatewayLimits()


class Phase(enum.StrEnum):
    NEW = "new"
    UNAUTHENTICATED = "unauthenticated"
    DECIDING = "deciding"  # the key is proven; the driver says accept or turn_away
    AUTHENTICATED = "authenticated"
    REGISTERED = "registered"
    CLOSED = "closed"


class GatewaySession:
    """`entropy(n)` gives n random bytes; `connection` is an id of the driver's that is never used twice.

    `replay` and `registrations` are shared by all sessions of a gateway.
    """

    def __init__(
        self,
        keys: GatewayKeys,
        upgrade: Upgrade,
        *,
        connection: str,
        entropy: Callable[[int], bytes],
        replay: ReplayCache,
        registrations: Registrations,
        limits: GatewayLimits = _LIMITS,
    ) -> None:
        self._keys = keys
        self._upgrade = upgrade
        self._connection = connection
        self._entropy = entropy
        self._replay = replay
        self._registrations = registrations
        self._limits = limits
        self._phase = Phase.NEW
        self._outgoing: list[str] = []
        self._deadline_ns: int | None = None
        self._expires_ns: int | None = None  # of the authentication that holds
        self._idle_ns = int(limits.idle_s * SECOND)
        self._attempts = self._errors = self._begun = self._held = 0
        self._agent_id = ""  # of the authentication that holds, or that is being decided
        self._uid: str | None = None
        self._proven: Proven | None = None
        self._ours = False
        self._shared = b""
        self._names: frozenset[str] = frozenset()
        self._closed: Closed | None = None

    # ---- what is known

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def key(self) -> bytes:
        """The key of the upgrade; proven only once the phase is `authenticated` or `registered`."""
        return self._upgrade.key

    @property
    def agent_id(self) -> str:
        """The id that was signed; empty before authentication."""
        return self._agent_id

    @property
    def uid(self) -> str | None:
        """None before registration."""
        return self._uid

    @property
    def ours(self) -> bool:
        """Whether the agent said that it is one of ours."""
        return self._ours

    @property
    def close_reason(self) -> Closed | None:
        return self._closed

    def outgoing(self) -> list[str]:
        """Text frames to send now, in order; each is given once. Those of a closed session too."""
        frames, self._outgoing = self._outgoing, []
        return frames

    def next_deadline(self) -> int | None:
        """Monotonic ns at which `tick` has something to do."""
        if self._expires_ns is None or self._deadline_ns is None:
            return self._deadline_ns
        return min(self._deadline_ns, self._expires_ns)

    # ---- what happens

    def opened(self, now_ns: int) -> None:
        """The upgrade is done: the time to authenticate runs. Raises SessionMisused the second time."""
        if self._phase is not Phase.NEW:
            raise SessionMisused("a session is opened once")
        self._phase = Phase.UNAUTHENTICATED
        self._deadline_ns = now_ns + int(self._limits.first_message_s * SECOND)

    def tick(self, now_ns: int) -> list[GatewayHappening]:
        """Close what did not authenticate in time, is silent for too long, or has been in for as long as it may."""
        if self._expires_ns is not None and now_ns >= self._expires_ns:
            return [self._close(EXPIRED, "the session expired")]
        if self._deadline_ns is None or now_ns < self._deadline_ns:
            return []
        if self._phase in {Phase.AUTHENTICATED, Phase.REGISTERED}:
            return [self._close(GOING_IDLE, "nothing heard for too long")]
        return [self._close(POLICY_VIOLATION, "not authenticated in time")]

    def alive(self, now_ns: int) -> None:
        """The peer answered or sent a ping: an authenticated connection that is healthy is not idle."""
        if self._phase in {Phase.AUTHENTICATED, Phase.REGISTERED}:
            self._deadline_ns = now_ns + self._idle_ns

    def gone(self) -> None:
        """The connection is over: what it had begun is forgotten."""
        self._registrations.forget(self._connection)
        self._phase, self._deadline_ns, self._expires_ns = Phase.CLOSED, None, None

    def receive(self, frame: str | bytes, now_ns: int, wall_s: int) -> list[GatewayHappening]:
        """Take a frame: text as str; bytes is a binary frame. Never raises for what a peer may send."""
        phase = self._phase
        if phase in {Phase.NEW, Phase.CLOSED}:
            return []
        up = phase in {Phase.AUTHENTICATED, Phase.REGISTERED}
        if up:
            self._deadline_ns = now_ns + self._idle_ns
        if isinstance(frame, bytes):
            return self._fault("binary_frame", "a binary frame", wall_s, tell=False)
        most = v1.FRAME_BYTES_AFTER if up else v1.FRAME_BYTES_BEFORE
        if len(frame) > most:
            return [self._close(TOO_BIG, f"a frame of more than {most} bytes")]
        try:
            message = envelope.read(frame, most)
        except EnvelopeInvalid as error:
            return self._fault(error.code, f"failed to parse message: {error}", wall_s)
        if up:
            return self._routed(message, now_ns, wall_s)
        if phase is Phase.UNAUTHENTICATED and message.channel == channels.AUTH:
            return self._authenticate(message, now_ns, wall_s)
        return self._fault("not_authenticated", v1.NOT_AUTHENTICATED, wall_s)

    def _routed(self, message: Envelope, now_ns: int, wall_s: int) -> list[GatewayHappening]:
        channel = message.channel
        to = channels.split_up(channel)
        if to is not None:
            return self._said(message, *to, wall_s)
        if channel == channels.REGISTRATION:
            return self._register(message, now_ns, wall_s)
        if channel == channels.COMPLETION or (
            channel == channels.COMPLETION_ALIAS and message.type == v1.TYPE_REQUEST
        ):
            return self._complete(message, now_ns, wall_s)
        if channel == channels.AUTH:
            return self._authenticate(message, now_ns, wall_s)
        return self._fault("unknown_channel", f"{v1.NO_HANDLER}{channel}", wall_s)

    # ---- authentication

    def _authenticate(self, message: Envelope, now_ns: int, wall_s: int) -> list[GatewayHappening]:
        if message.type != v1.TYPE_REQUEST:
            return self._fault("unexpected", "authentication must be a request", wall_s)
        try:
            request = payloads.read_auth(message.payload)
        except EnvelopeInvalid as error:
            return self._fault(error.code, f"failed to decrypt authentication request: {error}", wall_s)
        wrong = authentication.wrong(
            request,
            key=self._upgrade.key,
            skew_s=self._limits.skew_s,
            replay=self._replay,
            now_ns=now_ns,
            wall_s=wall_s,
        )
        if wrong is not None:
            return self._turned_away("authentication_failed", wrong, wall_s)
        if self._held >= self._limits.authentications:
            return [self._close(POLICY_VIOLATION, "too many authentications on one connection")]
        self._held += 1
        used = self._replay.remember(self._upgrade.key, request.nonce, now_ns)
        self._agent_id = request.agent_id
        self._phase = Phase.DECIDING
        return [Authenticated(key=self._upgrade.key, agent_id=request.agent_id, used=used)]

    def accept(self, uid: str | None, *, ours: bool, now_ns: int, wall_s: int) -> None:
        """Answer success. `uid` and `ours` as stored for the key; None where the key is not registered yet."""
        self._must_decide()
        self._phase = Phase.AUTHENTICATED if uid is None else Phase.REGISTERED
        self._uid, self._ours = uid, ours and uid is not None
        self._attempts = 0
        self._deadline_ns = now_ns + self._idle_ns
        self._expires_ns = now_ns + self._limits.session_s * SECOND
        claimed = (uid, self._agent_id, self._upgrade.agent_id)
        self._names = frozenset(
            each for each in claimed if each and not is_uid_of_another(each, self._upgrade.key)
        )
        self._shared = shared_key(self._upgrade.key, self._keys.public_key)
        self._answer_auth(
            payloads.AuthResponse(
                success=True,
                backend_key=self._keys.public_text,
                session_token=self._token(),
                expires_at=wall_s + self._limits.session_s,
                message=v1.AUTH_OK,
                aegis=msgspec.Raw(
                    payloads.encode(payloads.Mark(1, batches=True, shared=True, registered=uid is not None))
                ),
            ),
            wall_s,
        )

    def turn_away(self, text: str, wall_s: int) -> list[GatewayHappening]:
        """Answer that the peer may not in, though its key is proven, and close."""
        self._must_decide()
        self._answer_auth(_refusal(text), wall_s)
        return [self._close(POLICY_VIOLATION, text)]

    def _turned_away(self, code: str, text: str, wall_s: int) -> list[GatewayHappening]:
        """A failed authentication: stays unauthenticated, and is over after too many or where one held before."""
        self._answer_auth(_refusal(text), wall_s)
        self._attempts += 1
        happened: list[GatewayHappening] = [Refused(code=code, text=text)]
        if self._phase is not Phase.UNAUTHENTICATED or self._attempts >= self._limits.attempts:
            happened.append(self._close(POLICY_VIOLATION, "authentication failed"))
        return happened

    def _answer_auth(self, response: payloads.AuthResponse, wall_s: int) -> None:
        payload = payloads.packed(response)
        signature = self._keys.sign(canonical.authentication_answer(wall_s, payload))
        self._reply("auth_resp", channels.AUTH, payload, wall_s, base64text.encode(signature))

    # ---- registration

    def _register(self, message: Envelope, now_ns: int, wall_s: int) -> list[GatewayHappening]:
        self._begun += 1
        if self._begun > self._limits.registrations:
            return [self._close(POLICY_VIOLATION, "too many registrations on one connection")]
        if self._proven is not None:
            return self._registration_fault(_being_stored(), wall_s)
        try:
            init = payloads.read_init(message.payload)
            key = base64text.decode(init.key_text, "agent_pubkey", KEY_BYTES) if init.key_text else b""
        except EnvelopeInvalid as error:
            return self._fault(error.code, f"invalid JSON payload: {error}", wall_s, asked=True)
        if not key:
            text = "missing agent_pubkey in registration data"
            return self._fault("registration_refused", text, wall_s, asked=True)
        try:
            if key != self._upgrade.key:
                raise RegistrationRefused("bad pubkey", status=400)
            offer = self._registrations.begin(
                init, holder=self._connection, now_ns=now_ns, wall_s=wall_s, default_host=self._agent_id
            )
        except RegistrationRefused as error:
            return self._registration_fault(error, wall_s)
        self._reply("reg_resp", channels.REGISTRATION, payloads.encode(offer).decode(), wall_s)
        return [RegistrationBegun(init=init)]

    def _complete(self, message: Envelope, now_ns: int, wall_s: int) -> list[GatewayHappening]:
        if self._proven is not None:
            return self._registration_fault(_being_stored(), wall_s)
        try:
            completion = payloads.read_completion(message.payload)
        except EnvelopeInvalid as error:
            text = f"missing required fields: registration_id, host_id, or signature ({error})"
            return self._fault(error.code, text, wall_s, asked=True)
        try:
            proven = self._registrations.complete(completion, holder=self._connection, now_ns=now_ns)
        except RegistrationRefused as error:
            return self._registration_fault(error, wall_s)
        self._proven = proven
        return [
            RegistrationProven(
                key=proven.key,
                uid=proven.uid,
                host_id=proven.host_id,
                init=proven.init,
                ours=proven.init.is_ours,
            )
        ]

    def registered(self, wall_s: int) -> None:
        """The registration that was proven is durable: answer it. Raises SessionMisused where none is waiting."""
        proven = self._take_proven()
        self._uid, self._ours = proven.uid, proven.init.is_ours
        self._phase = Phase.REGISTERED
        self._names |= {proven.uid}
        reply = payloads.RegistrationReply(proven.uid, self._token())
        self._reply("reg_complete_resp", channels.COMPLETION, payloads.encode(reply).decode(), wall_s)

    def registration_failed(self, text: str, wall_s: int, *, status: int = 500) -> list[GatewayHappening]:
        """The registration that was proven cannot be stored, or may not be: answer that."""
        self._take_proven()
        return self._registration_fault(RegistrationRefused(text, status=status), wall_s)

    def _registration_fault(self, error: RegistrationRefused, wall_s: int) -> list[GatewayHappening]:
        text = f"Actions API error: {error.status} {error}"
        return self._fault(error.code, text, wall_s, asked=True)

    # ---- the session

    def _said(self, message: Envelope, who: str, kind: Up, wall_s: int) -> list[GatewayHappening]:
        if who not in self._names:
            return self._fault("other_agent", "the channel of another agent", wall_s)
        if kind is Up.HEARTBEAT:
            return [Heartbeat(self._uid)]
        if self._uid is None:
            return self._fault("not_registered", v1.NOT_REGISTERED, wall_s)
        if self._ours and not is_covered(message, self._upgrade.key):
            return self._fault("signature_invalid", "the signature over the envelope does not hold", wall_s)
        try:
            word, data = payloads.read_kind(message.payload)
            carriage = None if word is None else channels.carriage(kind, word)
            if carriage is None:
                return [Ignored(channel=message.channel)]
            if carriage.cls is not None:
                return [_batch(payloads.read_batch(data, carriage.kind), carriage.cls)]
            if carriage.kind == "state":
                return [State(state=payloads.read_state(data).state)]
            said = payloads.read_answer(data)
            return [
                Answer(
                    in_reply_to=said.in_reply_to, ok=said.ok, code=said.code, text=said.text, state=said.state
                )
            ]
        except EnvelopeInvalid as error:
            return self._fault(error.code, f"invalid JSON payload: {error}", wall_s)

    def refuse(self, code: str, text: str, wall_s: int) -> list[GatewayHappening]:
        """The driver does not take what the last frame brought; the peer is told where that is safe."""
        return self._fault(code, text, wall_s)

    # ---- frames down

    def push(
        self,
        channel: str,
        message: dict[str, Any] | bytes,
        *,
        message_id: str,
        wall_s: int,
        kind: str = v1.TYPE_EVENT,
    ) -> str:
        """The frame of a sealed message; bytes are what `push_text` made of one that goes to many.

        Raises SessionMisused before registration: nothing else may stand between the frames of the handshake.
        """
        if self._phase is not Phase.REGISTERED:
            raise SessionMisused(f"nothing is pushed while {self._phase}")
        text = message if isinstance(message, bytes) else push_text(message)
        nonce = self._entropy(v1.NONCE_BYTES)
        return envelope.write(
            identity=message_id,
            kind=kind,
            channel=channel,
            payload=base64text.encode(seal(self._shared, nonce, text)),
            timestamp=wall_s,
            nonce=base64text.encode(nonce),
        )

    def acknowledge(self, stream: int, cls: BlockClass, next_: int, wall_s: int) -> str:
        """The frame that says: everything of the class in the stream before `next_` is durable."""
        ack = payloads.Ack(type="ack", cls=cls, stream=stream, next_=next_)
        identity = f"ack_{stream}_{cls}_{next_}"
        return self.push(channels.ACK, push_text(ack), message_id=identity, wall_s=wall_s, kind=v1.TYPE_EVENT)

    def _reply(self, name: str, channel: str, payload: str, wall_s: int, signature: str = "") -> None:
        """A frame in the clear. A deployed agent dies of a nonce that is not 12 bytes, so each has one."""
        self._outgoing.append(
            envelope.write(
                identity=f"{name}_{self._entropy(8).hex()}",
                kind=v1.TYPE_RESPONSE,
                channel=channel,
                payload=payload,
                timestamp=wall_s,
                nonce=base64text.encode(self._entropy(v1.NONCE_BYTES)),
                signature=signature,
            )
        )

    def _fault(
        self, code: str, text: str, wall_s: int, *, tell: bool = True, asked: bool = False
    ) -> list[GatewayHappening]:
        """Refuse a frame. `asked`: it was a request for a registration; who has none waits for an answer."""
        happened: list[GatewayHappening] = [Refused(code=code, text=text)]
        before = self._phase in {Phase.UNAUTHENTICATED, Phase.DECIDING}
        asking = asked and self._uid is None
        if tell and (before or asking or self._ours or not self._settled()):
            body = payloads.ErrorBody(v1.ERROR_WORD, _shown(text))
            self._reply("error", channels.ERROR, payloads.encode(body).decode(), wall_s)
        if before:
            self._attempts += 1
            if self._attempts >= self._limits.attempts:
                happened.append(
                    self._close(POLICY_VIOLATION, "too many refused frames before authentication")
                )
        else:
            self._errors += 1
            if self._errors >= self._limits.errors:
                happened.append(self._close(POLICY_VIOLATION, "too many refused frames"))
        return happened

    def _settled(self) -> bool:
        """Whether the peer takes itself for registered. A deployed agent then dies of what is not sealed.

        One that is known by its uid in the header has registered before, here or elsewhere.
        """
        return self._uid is not None or self._upgrade.agent_id == uid_of(self._upgrade.key)

    # ---- states

    def _token(self) -> str:
        """Random text that opens nothing: deployed agents want one, and nobody asks for it."""
        return self._entropy(24).hex()

    def _must_decide(self) -> None:
        if self._phase is not Phase.DECIDING:
            raise SessionMisused(f"there is nothing to decide while {self._phase}")

    def _take_proven(self) -> Proven:
        if self._proven is None or self._phase is Phase.CLOSED:
            raise SessionMisused("no registration waits to be stored")
        proven, self._proven = self._proven, None
        return proven

    def _close(self, code: int, reason: str) -> Closed:
        self.gone()
        self._closed = Closed(code=code, reason=reason)
        return self._closed


def push_text(message: object) -> bytes:
    """What is sealed: base64 text of the JSON, as deployed agents open it."""
    return base64text.encode(payloads.encode(message)).encode()


def _being_stored() -> RegistrationRefused:
    return RegistrationRefused("a registration is being stored", status=409)


def _refusal(text: str) -> payloads.AuthResponse:
    return payloads.AuthResponse(success=False, expires_at=0, message=text)


def _shown(text: str) -> str:
    """At most 512 characters of a sentence that may quote the peer."""
    return text if len(text) <= 512 else text[:509] + "..."


def _batch(batch: payloads.Batch, cls: BlockClass) -> Batch:
    return Batch(
        cls=cls,
        kind=batch.kind,
        stream=batch.stream,
        first=batch.first,
        boot_id=batch.boot,
        items=batch.items,
        losses=tuple(batch.losses),
        shared=batch.shared,
    )
