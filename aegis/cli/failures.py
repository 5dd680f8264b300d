"""How a failure looks on the terminal: one line on stderr, and what to do about it on the next."""

from __future__ import annotations

import click

from aegis.errors import AegisError


def show_error(error: AegisError) -> None:
    """Print `error: code: text` and, where there is one, the hint, to stderr."""
    click.echo(f"aegis: {error.code}: {error}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
