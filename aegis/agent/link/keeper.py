"""Keeps the link: connection after connection, with pauses between them that grow, and what each one said."""

from __future__ import annotations

import asyncio
import hashlib
import os
import traceback
from typing import TYPE_CHECKING

from aegis.agent import identity as identities
from aegis.agent.link.complaints import Complaints, escaped
from aegis.agent.link.dial import dial
from aegis.agent.link.drive import Drive
from aegis.agent.link.ends import BeginAnew, Replaced
from aegis.agent.link.window import Window
from aegis.errors import ConnectionLost, GatewayRefused, StorageError, TransportError
from aegis.model.link import LinkState
from aegis.protocol.agent import AgentIdentity, AgentSession, Registration
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
from aegis.protocol.backoff import Backoff
from aegis.protocol.crypto import Signer, uid_of
from aegis.runtime.module import Health, Settings

if TYPE_CHECKING:
    from aegis.agent.link.choice import Choice
    from aegis.agent.outbox.outbox import Outbox
    from aegis.agent.uplink import Uplink

UNREACHABLE, REFUSED = "gateway_unreachable", "gateway_refused"
KEY_CHANGED = "gateway_key_changed"
KEY_UNUSABLE, NOT_KEPT = "identity_unusable", "registration_not_kept"
CONFLICT = Replaced.code
BROKEN = "link_broken"
CLOCK_DIFFERS, SILENT = "clock_differs", "gateway_stores_nothing"
CLOCK_S = 60  # a clock this far off is learnt from a gateway that refuses for it
MOST_OFFSET_S = 86_400  # nobody signed that refusal: further, only a clock that was never set is helped by it
SET_S = 1_704_067_200  # 2024-01-01; a clock before it was never set
HEALTHY_NS = 15_000_000_000  # a session this long makes the next failure a first one
ALONE_NS = 180_000_000_000  # a session this long has no other one that takes its place
SILENT_NS = 60_000_000_000  # blocks that nobody acknowledges for so long are told of
FIRST_WRITE_S, LONGEST_WRITE_S = 1.0, 30.0  # pauses before a registration is written again
SECOND = 1_000_000_000


class Keeper:
    """One life of the link, from the module's start to its stop."""

    def __init__(
        self, uplink: Uplink, choice: Choice, outbox: Outbox, settings: Settings, health: Health
    ) -> None:
        self._uplink = uplink
        self._choice = choice
        self._outbox = outbox
        self._settings = settings
        self._health = health
        self._clock = uplink.clock
        self._backoff = Backoff(entropy=os.urandom, cap_s=settings.number("longest_pause_s"))
        self._identity: identities.Identity | None = None
        self._offset_s = 0  # the gateway's clock minus this host's, where that was refused
        self._told_offset_s = 0  # that of the condition
        self._complaints = Complaints(uplink.log.warning, uplink.clock.monotonic_ns)
        self._faults = Complaints(uplink.log.error, uplink.clock.monotonic_ns)
        self._gateway_key = b""
        self._proven = False  # this connection authenticated: what it refuses now is not for the time
        self._window = Window(0)
        self._drive: Drive | None = None
        self._connected_ns: int | None = None
        self._writing: asyncio.Task[None] | None = None  # of a registration that the disk did not take
        self._heard_ns = 0  # when the last block was acknowledged, or none was in flight

    async def keep(self) -> None:
        """Until cancelled."""
        self._outbox.on_ready = self._wake
        self._uplink.wake = self._wake
        try:
            while True:
                try:
                    await self._attempt()
                except BeginAnew as error:
                    pause_s = self._anew(error)
                except (TransportError, StorageError) as error:
                    pause_s = self._failed(error)
                except Exception as error:  # noqa: BLE001  whatever it is: no peer may end who keeps the link
                    pause_s = self._broke(error)
                else:
                    pause_s = self._failed(ConnectionLost("the connection ended"))
                await self._clock.sleep(pause_s)
        finally:
            self._stop_writing()

    def _wake(self) -> None:
        if self._drive is not None:
            self._drive.wake()

    def _anew(self, error: BeginAnew) -> float:
        """At once; but a gateway that ends every session so is met with pauses from the second on."""
        self._uplink.log.info("link begins anew", reason=str(error))
        first = self._pauses_so_far() == 0
        pause_s = self._backoff.next_s()
        return 0.0 if first else pause_s

    def _pauses_so_far(self) -> int:
        """Since a session that lasted."""
        begun_ns, self._connected_ns = self._connected_ns, None
        if begun_ns is not None and self._clock.monotonic_ns() - begun_ns >= HEALTHY_NS:
            self._backoff.reset()
        return self._backoff.failures

    def _failed(self, error: TransportError | StorageError) -> float:
        """Say what went wrong and give the pause until the next try."""
        self._pauses_so_far()
        pause_s = self._backoff.next_s(error.retry_s if isinstance(error, TransportError) else None)
        if isinstance(error, StorageError):
            self._health.raise_(KEY_UNUSABLE, str(error), error.hint or "")
            self._uplink.is_now(LinkState.REFUSED, str(error))
        elif isinstance(error, GatewayRefused):
            self._health.clear(UNREACHABLE)
            self._health.raise_(REFUSED, str(error), error.hint or "the gateway's log says why")
            self._uplink.is_now(LinkState.REFUSED, f"{error}; tries again in {pause_s:.0f} s")
        elif isinstance(error, Replaced):
            hint = "has another host a copy of this one's agent.key? each needs its own"
            self._health.raise_(CONFLICT, str(error), hint)
            self._uplink.is_now(LinkState.BACKOFF, f"{error}; tries again in {pause_s:.0f} s")
        else:
            self._health.raise_(UNREACHABLE, str(error), error.hint or "it is tried again by itself")
            self._uplink.is_now(LinkState.BACKOFF, f"{error}; tries again in {pause_s:.0f} s")
        self._uplink.log.warning("link failed", code=error.code, error=str(error))
        return pause_s

    def _broke(self, error: Exception) -> float:
        """A mistake of ours, or a failure nobody thought of: told with its place, and tried again like any other."""
        self._pauses_so_far()
        pause_s = self._backoff.next_s()
        text = escaped(f"{type(error).__name__} at {_place(error)}: {error}")
        self._health.raise_(
            BROKEN, text, "a mistake of the agent's own: tell its makers the text and the place"
        )
        self._uplink.is_now(LinkState.BACKOFF, f"{BROKEN}: {text}; tries again in {pause_s:.0f} s")
        self._faults.add("link broken", type(error).__name__, text)
        return pause_s

    # ---- one connection

    async def _attempt(self) -> None:
        session = self._session()
        self._proven = False
        self._uplink.is_now(LinkState.CONNECTING)
        connection = await dial(self._choice.url, session.headers(), self._choice.ca)
        self._uplink.is_now(LinkState.AUTHENTICATING)
        self._window = Window(self._settings.integer("in_flight_bytes"))
        self._drive = drive = Drive(
            connection,
            session,
            clock=self._clock,
            wall_s=self._wall_s,
            took=self._took,
            count=self._uplink.count,
            beat=self._beat,
            source=self._outbox,
            unsaid=self._uplink.unsaid,
            window=self._window,
            log=self._uplink.log,
        )
        try:
            await drive.run()
        finally:
            self._drive = None
            self._uplink.unsaid.forget_changes()
            self._outbox.disconnected()
            self._health.clear(SILENT)
            await drive.close(self._uplink.ending)

    def _session(self) -> AgentSession:
        """Raises StorageError: without a key that is on disk nothing is said."""
        identity = self._identity
        if identity is None:
            identity = self._identity = identities.load_or_make(self._uplink.state_dir, os.urandom)
            self._health.clear(KEY_UNUSABLE)
        known = identity.registration(self._choice.url.text)
        self._uplink.is_called(known.uid if known else uid_of(Signer(identity.seed).public_key))
        self._gateway_key = known.gateway_key if known else b""
        reregister = self._choice.reregister
        return AgentSession(
            AgentIdentity(identity.seed, self._uplink.agent_id, known.uid if known else None),
            entropy=os.urandom,
            registration=Registration(**self._uplink.facts()),
            heartbeat_s=self._settings.number("heartbeat_interval_s"),
            reregister=reregister is not False,
            known_gateway_key=self._gateway_key or None,
        )

    def _wall_s(self) -> int:
        now_s = self._clock.wall_ns() // SECOND
        if not _credible(now_s, self._offset_s):  # the clock was set meanwhile
            self._offset_s = 0
        return now_s + self._offset_s

    # ---- what it said

    def _took(self, one: AgentHappening) -> None:
        match one:
            case Acknowledged():
                self._acknowledge(one)
            case Order():
                self._uplink.on_order(one)
            case Authenticated():
                self._proven = True
                self._outbox.confine(to_findings=not one.batches)
                self._uplink.authenticated()
                if one.gateway_key == self._gateway_key:  # the one that is kept since it was warned of
                    self._health.clear(KEY_CHANGED)
                self._gateway_key = one.gateway_key
            case Registered():
                self._registered(one)
            case GatewayUnproven():
                self._doubt(one)
            case PeerError():
                self._complaints.add("gateway reports an error", "", escaped(one.text))
            case Refused():
                self._complaints.add("frame of the gateway refused", one.code, escaped(one.text))
            case Closed():
                self._learn_time(one)
            case ReconnectWanted():
                pass  # the connection ends with it, and says so

    def _registered(self, one: Registered) -> None:
        """The uid is on disk before anybody is told of success; until then the link works, and is `registering`."""
        self._uplink.is_called(one.uid)
        kept = identities.Registration(uid=one.uid, url=self._choice.url.text, gateway_key=self._gateway_key)
        self._stop_writing()  # of what another connection said
        why = self._remember(kept)
        if why is None:
            self._uplink.is_now(LinkState.CONNECTED)
        else:
            reason = f"the gateway knows this agent, which is not written down: {why}"
            self._uplink.is_now(LinkState.REGISTERING, reason, up=True)
            self._writing = asyncio.get_running_loop().create_task(self._write(kept))
        self._connected_ns = self._heard_ns = self._clock.monotonic_ns()
        for code in (UNREACHABLE, REFUSED, BROKEN):
            self._health.clear(code)
        for change in self._uplink.standing():
            self._uplink.unsaid.change(change)

    def _remember(self, kept: identities.Registration) -> str | None:
        """Why it could not be written down; None where it is on disk."""
        assert self._identity is not None
        try:
            self._identity.remember(kept)
        except StorageError as error:
            self._health.raise_(
                NOT_KEPT, str(error), "it is tried again by itself; nothing else waits for it"
            )
            return str(error)
        self._health.clear(NOT_KEPT)
        return None

    async def _write(self, kept: identities.Registration) -> None:
        """Until it is on disk, whatever becomes of the connection meanwhile."""
        backoff = Backoff(entropy=os.urandom, first_s=FIRST_WRITE_S, cap_s=LONGEST_WRITE_S)
        while True:
            await self._clock.sleep(backoff.next_s())
            if self._remember(kept) is None:
                break
        if self._uplink.up and not self._uplink.connected:
            self._uplink.is_now(LinkState.CONNECTED)

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _acknowledge(self, one: Acknowledged) -> None:
        self._heard_ns = self._clock.monotonic_ns()
        self._health.clear(SILENT)
        self._outbox.acknowledged(one.stream, one.cls, one.next_)
        waits = not self._window.room
        if self._window.acknowledged(one.stream, one.cls, one.next_) and waits:
            self._wake()

    def _beat(self) -> None:
        """A gateway whose store is away acknowledges nothing and is not left: what it has waits there as well as here."""
        now = self._clock.monotonic_ns()
        if self._connected_ns is not None and now - self._connected_ns >= ALONE_NS:
            self._health.clear(CONFLICT)
        if not self._window.bytes:
            self._heard_ns = now
        elif now - self._heard_ns >= SILENT_NS:
            text = f"{self._window.bytes} bytes of records wait for the gateway to store them"
            self._health.raise_(
                SILENT, text, "the gateway's log says why; nothing is lost while the outbox has room"
            )

    def _doubt(self, one: GatewayUnproven) -> None:
        """v1 trusts the first key and can only warn of another: deployed gateways make a new one at every start."""
        if one.reason != "key_changed":
            self._uplink.log.info("gateway unproven", reason=one.reason)
            return
        text = f"{self._choice.url.text}: its key was {_print(self._gateway_key)}, and now is {_print(one.gateway_key)}"
        self._uplink.log.warning("gateway key changed", text=text)
        self._health.raise_(
            KEY_CHANGED, text, "a deployed v1 gateway changes it at every start; another must not"
        )

    def _learn_time(self, one: Closed) -> None:
        """v1 refuses who signs with a time far off; a host whose clock was never set must not be locked out by that."""
        if self._proven or one.code != "refused" or one.gateway_time_s is None:
            return
        now_s = self._clock.wall_ns() // SECOND
        offset_s = one.gateway_time_s - now_s
        if abs(offset_s) < CLOCK_S:
            self._offset_s = self._told_offset_s = 0
            self._health.clear(CLOCK_DIFFERS)
        elif abs(offset_s - self._told_offset_s) >= CLOCK_S:
            self._told_offset_s = offset_s
            if _credible(now_s, offset_s):
                self._offset_s = offset_s
                used = "the gateway's is used towards it"
            else:
                used = "more than a day, so this host's is used"
            text = f"this host's clock is {-offset_s} s ahead of the gateway's; {used}"
            self._health.raise_(CLOCK_DIFFERS, text, "set the clock of this host")


def _credible(now_s: int, offset_s: int) -> bool:
    """Whether to go by a gateway's time that nobody signed: what is signed for a later day can be used on that day."""
    return now_s < SET_S or abs(offset_s) <= MOST_OFFSET_S


def _place(error: Exception) -> str:
    """FILE:LINE of the innermost frame of the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        "/".join(frames[-1].filename.split(os.sep)[-2:]) + f":{frames[-1].lineno}" if frames else "no place"
    )


def _print(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]
