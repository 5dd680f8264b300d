"""Whom a command asks: the agent of this host by its socket, or a gateway by --gateway and --token-file.

Both options may stand before the command or behind it. They are kept in the context all commands of one call share.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from aegis.cli.remote import Remote

Command = TypeVar("Command", bound=Callable[..., Any])
_KEY = "aegis.target"
TOKEN_FILE_VARIABLE = "AEGIS_TOKEN_FILE"  # noqa: S105  a name, not a token


def _keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta.setdefault(_KEY, {})[parameter.name] = value


def gateway_options(command: Command) -> Command:
    """--gateway and --token-file, for the tool itself and for each command that can ask a gateway."""
    token = click.option(
        "--token-file",
        expose_value=False,
        callback=_keep,
        help=f"File with the operator's token (or {TOKEN_FILE_VARIABLE}).",
    )
    url = click.option(
        "--gateway",
        metavar="URL",
        expose_value=False,
        callback=_keep,
        help="Ask this gateway's Actions API, e.g. http://127.0.0.1:8083, instead of this host's agent.",
    )
    return url(token(command))


def chosen_gateway() -> Remote | None:
    """The gateway that was named, or None: ask the agent of this host."""
    found = click.get_current_context().meta.get(_KEY, {})
    if "gateway" not in found:
        return None
    from aegis.cli.remote import Remote

    return Remote(found["gateway"], found.get("token_file") or os.environ.get(TOKEN_FILE_VARIABLE) or None)


def needed_gateway() -> Remote:
    """The gateway that was named. UsageError where none is."""
    remote = chosen_gateway()
    if remote is None:
        raise click.UsageError("this asks a gateway: name it with --gateway http://HOST:8083")
    return remote


def is_gateway_named(context: click.Context) -> bool:
    return "gateway" in context.meta.get(_KEY, {})


def columns_of(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of a table of rows; a gateway's rows tell first whose they are."""
    return ("agent_uid", *columns) if is_gateway_named(click.get_current_context()) else columns
