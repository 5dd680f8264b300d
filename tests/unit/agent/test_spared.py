"""What the WebSocket library would load and an agent never calls, in interpreters of their own."""

from __future__ import annotations

import subprocess
import sys

SPARED = (
    "importlib.metadata",
    "urllib.request",
    "http.client",
    "email.message",
    "zipfile",
    "csv",
    "tempfile",
)
HEAD = "import sys\nfrom aegis.agent import spared\n"
TELL = f"print(*[name for name in {SPARED} if name in sys.modules])"


def run(script: str) -> list[str]:
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_the_library_is_loaded_without_what_nobody_calls() -> None:
    loads = "import websockets.asyncio.server\n"
    assert "importlib.metadata" in run(HEAD + loads + TELL)
    assert run(HEAD + "spared.server()\n" + loads + TELL) == []
    loads += "import websockets.asyncio.client, aegis.agent.link.keeper, aegis.agent.control.server\n"
    assert "urllib.request" in run(HEAD + "spared.server()\n" + loads + TELL)
    assert run(HEAD + "spared.client()\n" + loads + TELL) == []


def test_who_wants_the_real_ones_later_has_them() -> None:
    told = run(
        HEAD
        + "spared.client()\nimport importlib.metadata, urllib.request\n"
        + "print(importlib.metadata.version('msgspec') != '', urllib.request.getproxies.__module__)"
    )
    assert told == ["True", "urllib.request"]


def test_what_is_loaded_already_stays() -> None:
    told = run(
        "import urllib.request, importlib.metadata\n" + HEAD + "before = sys.modules['urllib.request']\n"
        "spared.client()\nspared.client()\nprint(sys.modules['urllib.request'] is before)"
    )
    assert told == ["True"]


def test_a_part_that_calls_it_at_once_gets_the_real_one() -> None:
    told = run(
        HEAD + "import types, importlib\n"
        "def load(name):\n"
        "    import importlib.metadata\n"
        "    importlib.metadata.version('msgspec')\n"
        "spared.importlib = types.SimpleNamespace(import_module=load)\n"
        "spared.server()\n"
        "import importlib.metadata\n"
        "print(importlib.metadata.version('msgspec') != '')"
    )
    assert told == ["True"]
