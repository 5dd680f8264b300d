"""What the agent's process must not load: 20 MB and 100 ms apiece, or a second stack for what it has."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = (
    "pydantic",
    "pydantic_settings",
    "typer",
    "click",
    "rich",
    "aiohttp",
    "httpx",
    "starlette",
    "litestar",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "aiosqlite",
    "asyncpg",
    "psycopg",
    "nats",
    "pyroute2",
    "stix2",
    "taxii2client",
    "pymisp",
    "sigma",
    "cyclonedx",
    "packageurl",
    "opentelemetry",
    "univers",
    "dns",
    "yara",
    "tuf",
    "textual",
    "jinja2",
    "cryptography",
    "attr",
    "greenlet",
    "orjson",
    "multiprocessing",
)

SCRIPT = """
import sys
import aegis.agent.main
import aegis.agent.arguments, aegis.agent.life, aegis.agent.answers, aegis.agent.control.server
import aegis.agent.control.follow
import aegis.agent.commands, aegis.agent.link.keeper, aegis.agent.link.room, aegis.agent.outgoing, aegis.agent.outbox.outbox
from aegis.runtime import modules_found
for name in modules_found.names():
    modules_found.options(name)
    modules_found.module_class(name)
import uvloop
print(*sorted({name.split(".")[0] for name, module in sys.modules.items() if module is not None}))
"""


def test_nothing_forbidden_is_loaded_by_the_whole_agent() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert {"aegis", "asyncio", "uvloop", "websockets", "msgspec", "structlog"} <= loaded
    assert sorted(loaded & set(FORBIDDEN)) == []
