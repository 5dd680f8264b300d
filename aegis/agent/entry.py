"""Takes SIGTERM, SIGINT and SIGHUP from the moment it is imported: the entry point's first statement.

The handlers stay the same for the whole life, so that there is no moment at which a signal meets the default action:
a signal sets a count, and tells the running loop once there is one. A signal before this import ends the process, which
holds nothing yet. Nothing heavy is imported here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_RESORT_S = 3.8  # after the first signal; an exit takes 5 s at most
PATIENCE = 4  # times the last resort waits for a release that is under way
PATIENCE_S = 0.25


class Signals:
    """How often each kind came, and who wants to know."""

    def __init__(self) -> None:
        self.stops = 0
        self.reloads = 0
        self.notify: Callable[[], object] | None = None
        self.before_last_resort: Callable[[], bool] | None = None  # False: a release is under way, let it end
        self._patience = PATIENCE

    @property
    def stopping(self) -> bool:
        return self.stops > 0

    def take(self, number: int, _frame: object) -> None:
        """The handler; runs on the main thread between two instructions."""
        if number == signal.SIGALRM:
            self._last_resort()
        elif number == signal.SIGHUP:
            self.reloads += 1
        else:
            self.stops += 1
            if self.stops == 1:
                signal.setitimer(signal.ITIMER_REAL, LAST_RESORT_S)
        if self.notify is not None:
            self.notify()

    def _last_resort(self) -> None:
        """The stop hangs, in a loop that never turns or a call that never ends: leave without it."""
        released = self.before_last_resort is None or self.before_last_resort()
        if not released and self._patience:
            self._patience -= 1
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
            return
        os._exit(0)

    def ignore(self) -> None:
        """The stop is done: a further signal must not turn a clean exit into a death by signal."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


SIGNALS = Signals()
for _number in (*STOP_SIGNALS, signal.SIGHUP, signal.SIGALRM):
    signal.signal(_number, SIGNALS.take)
signal.pthread_sigmask(
    signal.SIG_UNBLOCK, STOP_SIGNALS
)  # an agent that executes itself anew blocks them meanwhile
