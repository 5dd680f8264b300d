"""`aegis gateway run`: a gateway in this process, until it is told to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import asyncio

    from aegis.gateway.options import GatewayOptions
    from aegis.gateway.wiring import Gateway

EXIT_MISSING = 4
EXIT_DIRECTORY = 77
EXIT_CONFIG = 78
STOP_S = 4.5
_MODULES = ("sqlalchemy", "alembic", "litestar", "uvicorn", "prometheus_client")


class _Address(click.ParamType):  # type: ignore[type-arg]
    """ADDR:PORT; an IPv6 address in brackets."""

    name = "ADDR:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        if not isinstance(value, str):
            return value
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not ADDR:PORT, such as 127.0.0.1:8080 or [::1]:8080", param, ctx)
        return host.strip("[]"), int(port)


@click.command(
    epilog="\b\nExit codes: 0 clean stop, 2 usage, 3 address in use, 4 refused, or not built, or the extra is missing,\n"
    "77 data directory unusable, 78 configuration invalid.\n\n\b\nExample:\n"
    "  aegis gateway run --data-dir /var/lib/aegis-gateway --allow-v1"
)
@click.option(
    "--listen",
    type=_Address(),
    default="127.0.0.1:8080",
    show_default=True,
    help="Where agents connect.",
)
@click.option(
    "--actions-listen",
    type=_Address(),
    default="127.0.0.1:8083",
    show_default=True,
    help="Where the Actions API answers.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    default="/var/lib/aegis-gateway",
    show_default=True,
    help="Keys, operator token and database; one gateway's at a time.",
)
@click.option("--store", default=None, metavar="URL", help="Database; postgresql:// is not built yet.")
@click.option("--bus", default=None, metavar="URL", help="Bus to other gateways; nats:// is not built yet.")
@click.option(
    "--allow-v1", is_flag=True, help="Let agents in that speak protocol v1, and register over HTTP."
)
@click.option("--any-user-agent", is_flag=True, help="Take v1 agents that call themselves something else.")
@click.option(
    "--most-agents",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Register no agent that is new once there are N.  [default: 100000]",
)
@click.option("--tls-cert", type=click.Path(dir_okay=False), default=None, help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(dir_okay=False), default=None, help="Its key, PEM.")
@click.option("--insecure", is_flag=True, help="Let the Actions API answer on a network without TLS.")
@click.option(
    "--advertise", default=None, metavar="URL", help="How agents reach it: ws://HOST:PORT or wss://HOST:PORT."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least level that is logged.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    default="auto",
    show_default=True,
    help="console on a terminal, else json.",
)
def run(log_level: str, log_format: str, **given: object) -> None:
    """Run a gateway and its Actions API until SIGTERM or SIGINT."""
    asked = _Asked()
    _need_extra()
    import msgspec

    from aegis.cli.exits import exit_code_of
    from aegis.cli.failures import show_error
    from aegis.errors import AegisError, ConfigError, NotBuilt, StorageError
    from aegis.gateway.options import GatewayOptions
    from aegis.host.seclusion import seclude
    from aegis.runtime import log

    log.set_up(log_level, log_format)
    if problem := seclude():
        log.logger(source="gateway").warning("core dumps stay possible", error=problem)
    options = msgspec.convert(given, GatewayOptions)
    try:
        _new_loop_run(options, asked)
    except StorageError as error:
        show_error(error)
        raise click.exceptions.Exit(EXIT_DIRECTORY) from None
    except ConfigError as error:
        show_error(error)
        raise click.exceptions.Exit(EXIT_CONFIG) from None
    except NotBuilt as error:
        show_error(error)
        raise click.exceptions.Exit(EXIT_MISSING) from None
    except AegisError as error:
        show_error(error)
        raise click.exceptions.Exit(exit_code_of(error)) from None
    finally:
        asked.ignore()


class _Asked:
    """Takes the signals from the first moment, so that none finds the default action while the rest is imported."""

    def __init__(self) -> None:
        self.stop = False
        self.notify: Callable[[], object] = _nothing
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: object) -> None:
        if not self.stop:
            signal.signal(signal.SIGALRM, _leave)
            signal.setitimer(signal.ITIMER_REAL, STOP_S)
        self.stop = True
        self.notify()

    def ignore(self) -> None:
        """The stop is done: a further signal must not turn a clean exit into a death by signal."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _nothing() -> object:
    return None


def _leave(_number: int, _frame: object) -> None:
    """The stop hangs: leave without it. What was acknowledged is on the disk."""
    import os

    os._exit(0)


def _need_extra() -> None:
    import importlib.util

    from aegis.cli.extras import line_for

    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        click.echo(
            f"aegis: missing_extra: the gateway needs {', '.join(missing)}\n  hint: {line_for('gateway')}",
            err=True,
        )
        raise click.exceptions.Exit(EXIT_MISSING)


def _new_loop_run(options: GatewayOptions, asked: _Asked) -> None:
    import asyncio

    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(_live(options, asked))
    finally:
        asked.notify = _nothing
        loop.close()


async def _live(options: GatewayOptions, asked: _Asked) -> None:
    import asyncio
    import gc

    from aegis.gateway.wiring import Gateway

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    asked.notify = lambda: loop.call_soon_threadsafe(stop.set)
    with _woken_by_signals(loop):
        if asked.stop:  # what came before there was a loop
            stop.set()
        _more_descriptors()
        async with Gateway(options) as gateway:
            _say(options, gateway)
            gc.collect()
            gc.freeze()
            await stop.wait()


@contextlib.contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Python's handler runs between two instructions; a loop that waits in the kernel needs a byte to wake."""
    import socket

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    loop.add_reader(ours, ours.recv, 64)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        loop.remove_reader(ours)
        ours.close()
        theirs.close()


def _more_descriptors() -> None:
    """A socket an agent: take what the host lets us have."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(options: GatewayOptions, gateway: Gateway) -> None:
    import os
    import sys

    from aegis.gateway.keys import KEY_FILE, TOKEN_FILE
    from aegis.gateway.options import agent_command

    host, port = gateway.agent_address
    lines = [f"agents: {'wss' if options.tls_cert else 'ws'}://{host}:{port}/ws/agent"]
    if gateway.actions_address is not None:
        host, actions_port = gateway.actions_address
        lines.append(f"actions: {'https' if options.tls_cert else 'http'}://{host}:{actions_port}")
    lines += [
        f"key: {gateway.key_text} ({os.path.join(gateway.data_dir, KEY_FILE)})",
        f"operator token: {os.path.join(gateway.data_dir, TOKEN_FILE)}",
    ]
    if options.allow_v1:
        lines.append("run on an agent's host:")
        lines.append(f"  {agent_command(options, port)}")
    else:
        lines.append(
            "no agent is let in: protocol v1 is the only one that is built, and it is not allowed; start with --allow-v1"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
