"""`aegis --version`: package, ABI and libbpf; as text or JSON."""

from __future__ import annotations

import json

import click

from aegis.errors import AegisError


def versions() -> dict[str, object]:
    """Every version a report should name; what cannot be told is null with its reason."""
    import aegis

    found: dict[str, object] = {"aegis": aegis.__version__, "json": 1}
    try:
        from aegis.kernel.abi import ABI_VERSION
        from aegis.kernel.library import library_version

        found["abi"] = ABI_VERSION
        found["libbpf"] = library_version()
    except (ImportError, AegisError) as error:
        found["abi"] = found["libbpf"] = None
        found["abi_reason"] = found["libbpf_reason"] = str(error)
    return found


def print_version(output: str | None) -> None:
    """Print the versions on one line, or as one JSON object."""
    if output not in (None, "text", "table", "compact", "json", "json-pretty"):
        raise click.UsageError(f"--version has no format {output!r}; there are json, json-pretty and text")
    found = versions()
    if output in ("json", "json-pretty"):
        click.echo(json.dumps(found, indent=2 if output == "json-pretty" else None))
        return
    click.echo(f"aegis {found['aegis']}  abi {found['abi']}  libbpf {found['libbpf']}")
