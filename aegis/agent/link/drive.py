"""One connection to a gateway, from the upgrade to its end: bytes and time into the session, its frames out.

It wakes for frames, for the session's next deadline, for a pong that stays away, and when there is something to send.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed

from aegis._native.transcode import to_json, to_shared_json
from aegis.agent.link.complaints import escaped
from aegis.agent.link.dial import Connection
from aegis.agent.link.ends import BeginAnew, lost
from aegis.agent.link.unsaid import Change, Reply, Unsaid
from aegis.agent.link.window import Window
from aegis.errors import ConnectionLost, GatewayRefused, TransportError
from aegis.model.block import Block, BlockClass
from aegis.model.event import LossEvent
from aegis.model.event import encode as encode_event
from aegis.protocol import v1
from aegis.protocol.agent import AgentSession, Phase
from aegis.protocol.agent_happenings import AgentHappening, Closed, PeerError, ReconnectWanted, Refused
from aegis.protocol.channels import Up
from aegis.runtime.module import Clock, Log

PONG_S = 10.0
FRAMES_A_TURN = 32
MOST_COMPLAINTS = (
    1000  # frames of one connection that were refused or errors; then it is a broken or hostile peer
)
ANSWER_TEXT, ANSWER_CODE = 8192, 256  # characters a gateway of ours takes
GOODBYE, NONSENSE, OWN_FAULT = 1000, 1002, 1011  # the close codes of RFC 6455 that this end gives
REASON_BYTES = 123  # of a close frame
SECOND = 1_000_000_000


class Source(Protocol):
    """What this needs of the outbox."""

    def sendable(self, most_bytes: int) -> list[Block]: ...
    def ready(self) -> bool: ...


class Drive:
    """Made for one open connection. `took` hears every happening, `wall_s` tells the time the gateway goes by.

    `count` gets what came of each frame, `beat` is called with each heartbeat, for what is to be looked at now and then.
    """

    def __init__(
        self,
        connection: Connection,
        session: AgentSession,
        *,
        clock: Clock,
        wall_s: Callable[[], int],
        took: Callable[[AgentHappening], None],
        count: Callable[[Sequence[AgentHappening]], None],
        beat: Callable[[], None],
        source: Source,
        unsaid: Unsaid,
        window: Window,
        log: Log,
    ) -> None:
        self._connection = connection
        self._session = session
        self._clock = clock
        self._wall_s = wall_s
        self._took = took
        self._count = count
        self._beat = beat
        self._source = source
        self._unsaid = unsaid
        self._window = window
        self._log = log
        self._something = asyncio.Event()
        self._rests = False  # the writing task waits for something
        self._taken: deque[Block] = deque()  # given by the source, not written yet
        self._ahead: list[
            tuple[int, bytes, bytes]
        ] = []  # the parts of the first of them, where they were made
        self._frames: list[str | bytearray] = []  # sealed, and there was no room to write them
        self._phase = session.phase
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0  # when the timer is for
        self._pong_timer: asyncio.TimerHandle | None = None
        self._ping_due = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._complaints = 0
        self._farewell: tuple[int, str] | None = (
            None  # code and reason of the close frame, where this end chose the end
        )
        self.batches_sent = 0

    def wake(self) -> None:
        """There may be something to send: the session was told to say something, or the outbox has a block.

        A block that nothing is in the way of is written before this returns: a turn of its own costs a busy host more
        than what is done in it. The rest is the writing task's.
        """
        if self._rests and not self._something.is_set() and not self._over.done():
            try:
                if not self._write_one():
                    return
            except Exception as error:  # noqa: BLE001  as with a tick
                self._broke(error)
        self._something.set()

    async def run(self) -> None:
        """Until the connection is over: raises ConnectionLost, GatewayRefused or BeginAnew."""
        loop = asyncio.get_running_loop()
        self._session.opened(self._clock.monotonic_ns(), self._wall_s())
        self._settle()
        tasks = {
            loop.create_task(self._read(), name="link read"),
            loop.create_task(self._write(), name="link write"),
        }
        for task in tasks:
            task.add_done_callback(self._ended)
        try:
            await self._over
        finally:
            for timer in (self._timer, self._pong_timer):
                if timer is not None:
                    timer.cancel()
            self._session_over()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _session_over(self) -> None:
        """No timer may be set again by what still comes in."""
        self._timer = self._pong_timer = None
        if not self._over.done():
            self._over.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self._broke(error or ConnectionLost("the connection ended"))

    def _broke(self, error: BaseException) -> None:
        """A task or callback of this end raised it; what is no end of a connection is a mistake of ours."""
        self._end(error)
        if not isinstance(error, TransportError | BeginAnew):
            self._farewell = OWN_FAULT, "an error of the agent's own"

    def _end(self, error: BaseException, code: int | None = None) -> None:
        """`code`: that of the close frame, whose reason is the error's text; None where nothing is to be said of it."""
        if self._over.done():
            return
        if code is not None:
            self._farewell = code, str(error)
        self._over.set_exception(error)

    # ---- in

    async def _read(self) -> None:
        """Frames that are there already are received without a pause, so the others get their turn here."""
        frames = 0
        try:
            while True:
                frames += 1
                if not frames % FRAMES_A_TURN:
                    await asyncio.sleep(0)
                frame = await self._connection.recv()
                happened = self._session.receive(frame, self._clock.monotonic_ns(), self._wall_s())
                self._count(happened)
                self._take(happened)
        except ConnectionClosed as error:
            raise lost(error) from error

    def _take(self, happened: list[AgentHappening]) -> None:
        for one in happened:
            self._took(one)
            match one:
                case Closed(code="refused"):
                    self._end(GatewayRefused(f"the gateway refused: {escaped(one.reason)}"), GOODBYE)
                case Closed():
                    code = NONSENSE if one.code == "protocol" else GOODBYE
                    self._end(ConnectionLost(f"{one.code}: {escaped(one.reason)}"), code)
                case ReconnectWanted():
                    self._end(BeginAnew(escaped(one.reason)), GOODBYE)
                case Refused() | PeerError():
                    self._complaints += 1
                    if self._complaints == MOST_COMPLAINTS:
                        self._end(ConnectionLost(f"{MOST_COMPLAINTS} of its frames were errors"), NONSENSE)
        self._settle()

    def _settle(self) -> None:
        """After anything the session did: its frames go out, and its next deadline is waited for."""
        phase = self._session.phase
        if self._session.waiting or self._ping_due or phase is not self._phase:
            self._phase = phase
            self._something.set()
        due = self._session.next_deadline()
        if self._timer is not None:
            if due == self._due_ns:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and not self._over.done():
            self._due_ns = due
            left_s = max(due - self._clock.monotonic_ns(), 0) / SECOND
            self._timer = asyncio.get_running_loop().call_later(left_s, self._tick)

    def _tick(self) -> None:
        """A callback of the loop: what it raised would otherwise leave a link that never ticks again."""
        self._timer = None
        try:
            happened = self._session.tick(self._clock.monotonic_ns(), self._wall_s())
            if self._session.phase is Phase.UP:  # a heartbeat: an idle agent wakes once for all of these
                self._ping_due = True
                self._beat()
            self._take(happened)
        except Exception as error:  # noqa: BLE001  it ends the connection, and who keeps the link tells of it
            self._broke(error)

    # ---- out

    async def _write(self) -> None:
        try:
            while True:
                self._rests = True
                await self._something.wait()
                self._rests = False
                self._something.clear()
                await self._write_all()
        except ConnectionClosed as error:
            raise lost(error) from error

    async def _write_all(self) -> None:
        """What is said goes before any block, also between two blocks of many."""
        await self._write_said()
        while self._taken or self._take_blocks():
            await self._write_said()
            await self._write_block(self._taken.popleft())

    def _take_blocks(self) -> bool:
        """See whether the source has any that there is room for."""
        room = self._room()
        if not room:
            return False
        blocks = self._source.sendable(room)
        if self._session.takes(BlockClass.EVENT):  # who takes findings alone acknowledges nothing
            for block in blocks:
                self._window.take(block)
        self._taken.extend(blocks)
        return bool(blocks)

    def _write_one(self) -> bool:
        """The next block, where it is one batch and first in turn. Whether there is more to do, for the writing task."""
        if self._session.waiting or self._ping_due or self._unsaid.next() is not None:
            return True
        if not self._take_blocks():
            return False
        parts = self._parts(self._taken[0])
        if len(parts) > 1:
            self._ahead = parts
            return True
        self._seal(self._taken.popleft(), parts[0], first=True)
        self._frames = [frame for frame in self._session.outgoing() if not self._connection.offer(frame)]
        self.batches_sent += 1
        return bool(self._frames or self._taken or (self._room() and self._source.ready()))

    async def _write_said(self) -> None:
        await self._write_frames()
        if self._ping_due:
            self._ping_due = False
            await self._ping()
        while self._session.phase is Phase.UP and (one := self._unsaid.next()) is not None:
            self._say(one)
            await self._write_frames()
            self._unsaid.said(one)

    def _say(self, one: Reply | Change) -> None:
        if isinstance(one, Change):
            self._session.state(legible(one.state), wall_s=self._wall_s())
            return
        self._session.answer(
            one.in_reply_to,
            ok=one.ok,
            code=legible(one.code)[:ANSWER_CODE],
            text=legible(one.text)[:ANSWER_TEXT],
            state=legible(one.state),
            wall_s=self._wall_s(),
            channel=Up.POLICIES if one.policy else Up.STATUS,
        )

    def _room(self) -> int:
        return self._window.room if self._session.takes(BlockClass.FINDING) else 0

    async def _write_frames(self) -> None:
        frames, self._frames = [*self._frames, *self._session.outgoing()], []
        for frame in frames:
            if not self._connection.offer(frame):
                await self._connection.send(frame, text=True)

    async def _write_block(self, block: Block) -> None:
        """As one batch or, where the JSON is larger, as some."""
        parts, self._ahead = self._ahead or self._parts(block), []
        for index, part in enumerate(parts):
            self._seal(block, part, first=not index)
            await self._write_frames()
            self.batches_sent += 1
            await asyncio.sleep(0)  # a send that finds room does not let anybody else in

    def _parts(self, block: Block) -> list[tuple[int, bytes, bytes]]:
        """As `parts_of`; of a block that cannot be read one item in the place of all of them."""
        try:
            return parts_of(block, shares=self._session.shares)
        except ValueError as error:
            self._log.error("block not sent", cls=block.cls.value, first=block.first, error=str(error))
            # The next block's acknowledgement stands for this one too.
            told = LossEvent(
                time_ns=block.base_ns,
                stage="link",
                kind=block.cls.value,
                reason="unreadable",
                count=block.count,
            )
            return [(0, b"[" + encode_event(told) + b"]", b"")]

    def _seal(self, block: Block, part: tuple[int, bytes, bytes], *, first: bool) -> None:
        if not self._session.takes(block.cls):
            # A later block's acknowledgement would stand for this one too: it is sent again on a connection anew.
            raise BeginAnew("the gateway forgot this agent in the middle of a block")
        offset, items, shared = part
        self._session.batch(
            block.cls,
            stream=block.stream,
            first=block.first + offset,
            boot_id=block.boot_id,
            items_json=items,
            shared_json=shared,
            losses=block.losses if first else (),
            wall_s=self._wall_s(),
        )

    async def _ping(self) -> None:
        if self._pong_timer is not None:
            return
        pong = asyncio.ensure_future(await self._connection.ping(b"aegis"))
        timer = asyncio.get_running_loop().call_later(PONG_S, self._no_pong)
        self._pong_timer = timer

        def came(waiter: asyncio.Future[float]) -> None:
            timer.cancel()
            if self._pong_timer is timer:
                self._pong_timer = None
            if not waiter.cancelled():
                waiter.exception()  # of a connection that ends: the reader tells

        pong.add_done_callback(came)

    def _no_pong(self) -> None:
        self._pong_timer = None
        self._end(ConnectionLost(f"the gateway answered no ping for {PONG_S:g} s"), GOODBYE)

    # ---- the end

    async def close(self, reason: str) -> None:
        """Say that it is over and why, by `reason` where nothing ended it; a peer that does not listen is left."""
        code, why = self._farewell or (GOODBYE, reason)
        try:
            with contextlib.suppress(OSError):
                await self._connection.close(
                    code, legible(why).encode()[:REASON_BYTES].decode(errors="ignore")
                )
        finally:
            self._connection.transport.abort()


def parts_of(block: Block, *, shares: bool) -> list[tuple[int, bytes, bytes]]:
    """A batch each: the place of its first item, the items, and what they name. Raises ValueError: no records."""
    if shares:
        parts = to_shared_json(
            block.records,
            block.base_ns,
            most_items=v1.BATCH_ITEMS,
            most_bytes=v1.BATCH_BYTES,
            most_expanded=v1.BATCH_EXPANDED_BYTES,
        )
        return [(first, items, shared) for first, _, items, shared in parts]
    plain = to_json(block.records, block.base_ns, most_items=v1.BATCH_ITEMS, most_bytes=v1.BATCH_BYTES)
    return [(first, items, b"") for first, _, items in plain]


def legible(value: Any) -> Any:
    """The same for JSON: bytes of a host's names that are no UTF-8 are surrogates in Python, which JSON has not."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {legible(key): legible(one) for key, one in value.items()}
    return [legible(one) for one in value] if isinstance(value, list | tuple) else value
