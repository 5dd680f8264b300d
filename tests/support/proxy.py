"""A TCP proxy that is a bad network: latency, little bandwidth, stalls, resets. In user space, for the whole of a test.

with Proxy(listener, dial) as proxy:            # `dial()` gives a connected socket to the real peer
    proxy.up.bytes_s = 64_000                   # towards the peer; `down` is the way back
    proxy.up.latency_s = 0.2
    proxy.down.stalled = True                   # takes no more bytes: its sender's buffers fill
    proxy.reset()                               # every connection, both sides, with a reset
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

BUFFER_BYTES = 16 << 10  # of the kernel's buffers on each side, so that a throttled peer feels it soon
PIECE_BYTES = 8 << 10
TICK_S = 0.002
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Way:
    """One direction, of all connections. `bytes_s` None: as quick as it goes."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self.bytes_s: float | None = None
        self.stalled = False
        self.carried = 0


class _Pump:
    """One direction of one connection."""

    def __init__(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        self.way, self.source, self.target = way, source, target
        self.waiting: deque[tuple[float, bytes]] = deque()  # when it is due, and what
        self.allowed = 0.0
        self.last = time.monotonic()
        self.ended = False

    def turn(self, now: float) -> bool:
        """Move what may be moved. False when the connection is over."""
        way = self.way
        rate = way.bytes_s
        self.allowed = min(self.allowed + (now - self.last) * (rate or 0), max((rate or 0) / 10, PIECE_BYTES))
        self.last = now
        if way.stalled:
            return True
        held = sum(len(piece) for _, piece in self.waiting)
        room = PIECE_BYTES if rate is None else int(min(self.allowed, PIECE_BYTES))
        if not self.ended and held < BUFFER_BYTES and room > 0:
            try:
                piece = self.source.recv(room)
            except BlockingIOError:
                pass
            except OSError:
                return False
            else:
                self.ended = not piece
                self.allowed -= len(piece)
                if piece:
                    self.waiting.append((now + way.latency_s, piece))
        while self.waiting and self.waiting[0][0] <= now:
            due, piece = self.waiting.popleft()
            try:
                sent = self.target.send(piece)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False
            way.carried += sent
            if sent < len(piece):
                self.waiting.appendleft((due, piece[sent:]))
                break
        if self.ended and not self.waiting:
            with contextlib.suppress(OSError):
                self.target.shutdown(socket.SHUT_WR)
            return False
        return True


class Proxy:
    """One thread carries all connections; `dial` is called on it."""

    def __init__(self, listener: socket.socket, dial: Callable[[], socket.socket]) -> None:
        self.up, self.down = Way(), Way()
        self.connections = 0
        self._listener, self._dial = listener, dial
        self._pairs: list[tuple[_Pump, _Pump]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._listener.setblocking(False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.reset()
        self._listener.close()

    def reset(self) -> int:
        """End every connection with a reset to both sides; how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            for up, _ in pairs:
                for end in (up.source, up.target):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    end.close()
        return len(pairs)

    def _run(self) -> None:
        while not self._over.is_set():
            self._accept()
            with self._lock:
                now = time.monotonic()
                turned = [(pair, [pump.turn(now) for pump in pair]) for pair in self._pairs]
                for pair in (pair for pair, goes_on in turned if not all(goes_on)):
                    self._pairs.remove(pair)
                    for pump in pair:
                        pump.source.close()
                busy = [pump.source for pair in self._pairs for pump in pair if not self._limited(pump)]
            self._wait(busy)

    @staticmethod
    def _limited(pump: _Pump) -> bool:
        return pump.way.stalled or pump.ended or bool(pump.waiting) or pump.way.bytes_s is not None

    def _wait(self, sources: list[socket.socket]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            with self._lock:
                for one in sources:
                    if one.fileno() >= 0:
                        selector.register(one, selectors.EVENT_READ)
            limited = len(sources) < sum(len(pair) for pair in self._pairs)
            selector.select(TICK_S if limited else 0.05)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        self.connections += 1
        try:
            peer = self._dial()
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            return
        for end in (client, peer):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.append((_Pump(self.up, client, peer), _Pump(self.down, peer, client)))
