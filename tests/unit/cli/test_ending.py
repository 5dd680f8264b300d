"""A signal ends a command by way of its clean-up, and no second one cuts that short."""

from __future__ import annotations

import os
import signal

import pytest

from aegis.cli.ending import orderly

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_raises_and_later_ones_do_not(number: int) -> None:
    before = [signal.getsignal(each) for each in NUMBERS]
    cleaned: list[int] = []

    def command() -> None:
        with orderly():
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            finally:
                for each in NUMBERS:
                    os.kill(os.getpid(), each)
                    cleaned.append(each)

    with pytest.raises(KeyboardInterrupt):
        command()
    assert cleaned == list(NUMBERS)
    assert [signal.getsignal(each) for each in NUMBERS] == before


def test_none_raises_once_clean_up_began() -> None:
    with orderly() as ending:
        ending.begin()
        os.kill(os.getpid(), signal.SIGHUP)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with orderly():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
