"""Loads the WebSocket library without the parts of the standard library that it imports and an agent never calls.

`websockets` asks for its own version, and for the host's proxies, only in cases that are not the agent's; what it imports
to be able to (`importlib.metadata`, `urllib.request`, and behind them e-mail, archives and HTTP) stays for good: 3 MB and
15 ms. An empty module stands in for each while the part that imports it is loaded.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def server() -> None:
    """Before the first import of `websockets`."""
    _load("websockets.version", "importlib.metadata")


def client() -> None:
    """Before `websockets.asyncio.client` is imported. No proxy can be asked for then: `dial` asks for none."""
    server()
    _load("websockets.proxy", "urllib.request")


def _load(name: str, spared: str) -> None:
    """Import `name` while `spared` is an empty module, where it is not loaded already."""
    if spared in sys.modules or name in sys.modules:
        return
    sys.modules[spared] = stand_in = ModuleType(spared)
    try:
        importlib.import_module(name)
    except AttributeError:  # another version of the library, that calls it at once: then it has it
        pass
    finally:
        if sys.modules.get(spared) is stand_in:
            del sys.modules[spared]
