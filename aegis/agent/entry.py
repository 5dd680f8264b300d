"""Takes SIGTERM, SIGINT and SIGHUP from the moment it is imported: the entry point's first statement.

The handlers stay the same for the whole life, so that there is no moment at which a signal meets the default action:
a signal sets a count, and tells the running loop once there is one. The script `aegis-agent` starts Python with SIGTERM
and SIGINT blocked, as an agent that executes itself anew does; the last statement here lets them in, and what came
meanwhile is counted then. A signal before it has them blocked ends the script, which holds nothing; a SIGINT that the
parent had ignored is lost there, in some 3 ms. An agent that is started past the script (`python -m`) answers a SIGINT
before this import as Python does: with a traceback, or not at all. Nothing heavy is imported here.

From the first stop on the process ends in 5 s, whatever hangs. A loop that does not turn is left by the handler of an
alarm, which takes down what would outlive the process. Where that is not heard either (a deadlock in C, a wait without an
end while the interpreter is taken down), a thread that needs nothing of the interpreter writes `Timeout` and the stacks,
and exits with 1.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_RESORT_S = 3.8  # after the first signal; an exit takes 5 s at most
PATIENCE = 4  # times the last resort waits for a release that is under way
PATIENCE_S = 0.25
END_S = 4.9  # after the first signal, behind the last resort and its patience
LEFT = "aegis-agent: the stop did not end in time"  # begins what the last resort says


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
                _end_in(END_S)
        if self.notify is not None:
            self.notify()

    def _last_resort(self) -> None:
        """The stop hangs, in a loop that never turns or a call that never ends: leave without it, and say where."""
        failed = ""
        try:
            released = self.before_last_resort is None or self.before_last_resort()
        except BaseException as error:  # noqa: BLE001  it would be raised in whatever the main thread is at, and lost there
            released, failed, self._patience = False, repr(error), 0
        if not released and self._patience:
            self._patience -= 1
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
            return
        left = "" if released else f"; not released: {failed or 'a release under way did not end'}"
        _say(f"{LEFT}{left}; it hangs here:")
        os._exit(0 if released else 1)

    def ignore(self) -> None:
        """The stop is done: a further signal must not turn a clean exit into a death by signal."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def have_standard_streams() -> None:
    """Where the parent closed one, the null device takes its number, before a file or a table of the kernel gets it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  for the process's life


def _end_in(seconds: float) -> None:
    """The process exits with 1 then, by a thread of C that takes no lock. Nothing but its end cancels that."""
    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_stderr())
    except (OSError, RuntimeError, ValueError):
        return  # no thread can be had, or no descriptor; the last resort remains


def _say(line: str) -> None:
    """With the stacks of all threads; past the stream, which may be what hangs."""
    try:
        number = _stderr()
        os.write(number, f"{line}\n".encode())
        faulthandler.dump_traceback(file=number)
    except (OSError, RuntimeError, ValueError):
        return  # nobody to tell


def _stderr() -> int:
    """Standard error opened anew, so that who does not read it cannot hold the exit; itself where it is a socket."""
    try:
        return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return 2


have_standard_streams()
SIGNALS = Signals()
# SIGHUP first: to who sees that SIGTERM is caught, a reload must not be a death.
for _number in (signal.SIGHUP, signal.SIGALRM, *STOP_SIGNALS):
    signal.signal(_number, SIGNALS.take)
# Before there is a thread or a child that would inherit the mask.
signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
