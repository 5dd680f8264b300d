"""Who may begin a handshake now: token buckets, of all and of each address, and counts of sockets not authenticated.

All instants are monotonic nanoseconds given by the caller.
"""

from __future__ import annotations

from typing import Final

from aegis.gateway.limits import Limits

_MOST_ADDRESSES: Final = 20_000


class Bucket:
    """Holds `burst` tokens and gets `rate` a second."""

    __slots__ = ("_at_ns", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now_ns: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at_ns = now_ns

    def take(self, now_ns: int) -> float:
        """0.0 and a token less; or the seconds until there is one."""
        self._fill(now_ns)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate

    def is_full(self, now_ns: int) -> bool:
        self._fill(now_ns)
        return self._tokens >= self._burst

    def _fill(self, now_ns: int) -> None:
        self._tokens = min(self._burst, self._tokens + (now_ns - self._at_ns) * self._rate / 1e9)
        self._at_ns = now_ns


class Refusal:
    """Why a handshake is not begun, and in how many seconds it may."""

    __slots__ = ("reason", "retry_after_s")

    def __init__(self, reason: str, retry_after_s: float) -> None:
        self.reason = reason
        self.retry_after_s = retry_after_s


class Rates:
    """How often something may be begun: by all, and by one address (0: any number)."""

    def __init__(self, every: Bucket, of_address_s: float, of_address_burst: float) -> None:
        self._all = every
        self._rate = of_address_s
        self._burst = of_address_burst
        self._of_address: dict[str, Bucket] = {}

    def take(self, address: str, now_ns: int, what: str) -> Refusal | None:
        """None: go on."""
        wait = self._address(address, now_ns)
        if wait:
            return Refusal(f"{what}_of_address", wait)
        wait = self._all.take(now_ns)
        return Refusal(what, wait) if wait else None

    def _address(self, address: str, now_ns: int) -> float:
        if not self._rate:
            return 0.0
        bucket = self._of_address.get(address)
        if bucket is None:
            if len(self._of_address) >= _MOST_ADDRESSES:
                self._tidy(now_ns)
            bucket = Bucket(self._rate, self._burst, now_ns)
            self._of_address[address] = bucket
        return bucket.take(now_ns)

    def _tidy(self, now_ns: int) -> None:
        """Forget addresses whose bucket is full again: a new one would be no different. Else the oldest half."""
        kept = {address: each for address, each in self._of_address.items() if not each.is_full(now_ns)}
        if len(kept) >= _MOST_ADDRESSES:
            kept = dict(list(kept.items())[len(kept) // 2 :])
        self._of_address = kept


class Admission:
    """Sockets are kept from `arrived` to `settled` (authenticated or gone), by number, oldest first."""

    def __init__(self, limits: Limits, now_ns: int) -> None:
        self._limits = limits
        self._rates = Rates(
            Bucket(limits.handshakes_s, limits.handshakes_burst, now_ns),
            limits.handshakes_of_address_s,
            limits.handshakes_of_address_burst,
        )
        self._waiting: dict[int, str] = {}
        self._waiting_of: dict[str, dict[int, None]] = {}

    @property
    def unauthenticated(self) -> int:
        return len(self._waiting)

    def arrived(self, number: int, address: str) -> int | None:
        """A socket was accepted. Where there are too many that did not authenticate, the oldest has to go: its number.

        Who means it is done in milliseconds, so the oldest is not one of those; to refuse the newest would let
        whoever holds the most sockets keep everyone out.
        """
        own = self._waiting_of.get(address, {})
        oldest = None
        if len(own) >= self._limits.unauthenticated_of_address:
            oldest = next(iter(own))
        elif len(self._waiting) >= self._limits.unauthenticated:
            oldest = next(iter(self._waiting))
        self._waiting[number] = address
        self._waiting_of.setdefault(address, {})[number] = None
        if oldest is not None:
            self.settled(oldest)
        return oldest

    def settled(self, number: int) -> None:
        """The socket authenticated, or is gone. Twice is harmless."""
        address = self._waiting.pop(number, None)
        if address is None:
            return
        own = self._waiting_of[address]
        del own[number]
        if not own:
            del self._waiting_of[address]

    def handshake(self, address: str, now_ns: int) -> Refusal | None:
        """An upgrade is asked for; None: go on."""
        return self._rates.take(address, now_ns, "handshakes")
