"""`aegis config`: what the running agent has, or the daemon's own loader, run from here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aegis.cli.client import request
from aegis.cli.output import output_option, write_rows
from aegis.errors import ConnectFailed

_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=None,
    help="Configuration file instead of /etc/aegis/agent.toml.",
)


@click.group(epilog="\b\nExamples:\n  aegis config check\n  aegis config show -o json")
def config() -> None:
    """Check the configuration and show where each value comes from."""


@config.command()
@_CONFIG
@output_option("compact", ("compact", "json", "json-pretty", "yaml"))
def check(config_file: Path | None, output: str) -> None:
    """Load the configuration as the daemon would; every problem is named at once, and the exit code is 6."""
    from aegis.runtime.clock import stamp
    from aegis.runtime.config import load

    load(config_file)
    row = {"schema": "aegis.config_check", "version": 1, **stamp(), "ok": True}
    write_rows([row], output, compact=lambda _row: "configuration ok")


@config.command()
@_CONFIG
@output_option("table", ("table", "json", "json-pretty", "yaml", "csv"))
@click.pass_obj
def show(socket_path: str, config_file: Path | None, output: str) -> None:
    """Show each option's value and origin, as the running agent has them.

    Without an agent, or with --config, the files are read from here, as an agent would that starts now.
    """
    if config_file is not None:
        rows = local_rows(config_file)
    else:
        try:
            rows = list(request(socket_path, "config.show", timeout_s=30))
        except ConnectFailed as error:
            click.echo(f"aegis: {error}; reading the files from here", err=True)
            rows = local_rows(None)
    write_rows(rows, output, columns=("option", "value", "origin"))


def local_rows(config_file: Path | None) -> list[dict[str, Any]]:
    """The configuration loaded in this process, in the shape the agent answers. Raises ConfigError."""
    from aegis.agent.answers import setting_item
    from aegis.runtime.config import load

    return [setting_item(one) for one in load(config_file).values()]
