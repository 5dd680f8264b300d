"""`aegis config`: the daemon's own loader, run from here."""

from __future__ import annotations

from pathlib import Path

import click

from aegis.cli.output import output_option, write_rows

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
def check(config_file: Path | None) -> None:
    """Load the configuration as the daemon would; every problem is named at once, and the exit code is 6."""
    from aegis.runtime.config import load

    load(config_file)
    click.echo("configuration ok")


@config.command()
@_CONFIG
@output_option("table", ("table", "json", "json-pretty", "yaml", "csv"))
def show(config_file: Path | None, output: str) -> None:
    """Show each option's value and origin."""
    from aegis.runtime.clock import stamp
    from aegis.runtime.config import load

    settings = load(config_file)
    rows = [
        {
            "schema": "aegis.config",
            "version": 1,
            **stamp(),
            "option": one.path,
            "value": one.shown,
            "origin": one.origin,
        }
        for one in settings.values()
    ]
    write_rows(rows, output, columns=("option", "value", "origin"))
