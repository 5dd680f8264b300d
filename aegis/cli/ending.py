"""How a command that holds something ends early: by Ctrl-C, by SIGTERM, by the terminal that closes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """The first signal raises KeyboardInterrupt, so that clean-up runs; those after it must not cut that short."""

    def __init__(self) -> None:
        self._begun = False

    def begin(self) -> None:
        """Clean-up begins: no signal raises any more."""
        self._begun = True

    def take(self, _number: int, _frame: Any) -> None:
        """The handler."""
        if not self._begun:
            self._begun = True
            raise KeyboardInterrupt


@contextmanager
def orderly() -> Iterator[Ending]:
    """Take the ending signals while the block runs. What is ignored stays so: that is what nohup asks for."""
    ending = Ending()
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, ending.take)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
