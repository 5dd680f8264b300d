"""How to get an extra of the package that is not installed: the line to type, by where this package came from."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import sys
import urllib.parse

IN_A_CHECKOUT = "./dev setup"


def line_for(extra: str) -> str:
    """The line that installs what `extra` brings into this environment.

    A bare name would be looked up in an index of packages, where it may be somebody else's.
    """
    try:
        package = importlib.metadata.distribution("aegis")
    except importlib.metadata.PackageNotFoundError:
        return IN_A_CHECKOUT
    try:
        url = urllib.parse.urlsplit(str(json.loads(package.read_text("direct_url.json") or "{}")["url"]))
        wheel = urllib.parse.unquote(url.path) if url.scheme == "file" else url.geturl()
    except (ValueError, TypeError, KeyError):
        wheel = f"WHEEL_OF_AEGIS_{package.version}"
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(f'{wheel}[{extra}]')}"
