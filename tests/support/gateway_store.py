"""A gateway's database with its tables made, copied for each test: to run the migrations takes a quarter of a second."""

from __future__ import annotations

import asyncio
import functools
import shutil
import tempfile
from pathlib import Path

from aegis.gateway.store.sqlite import FILE, SqliteStore


@functools.cache
def _template() -> bytes:
    directory = Path(tempfile.mkdtemp())

    async def make() -> None:
        store = SqliteStore(str(directory))
        await store.open()
        await store.close()

    runner = asyncio.new_event_loop()
    try:
        runner.run_until_complete(make())
    finally:
        runner.close()
    content = (directory / FILE).read_bytes()
    shutil.rmtree(directory)
    return content


def prepared(directory: Path) -> Path:
    """The directory, made where missing, with an empty database in it where there is none."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / FILE
    if not path.exists():
        path.write_bytes(_in_thread())
        path.chmod(0o600)
    return directory


def _in_thread() -> bytes:
    """The template is made on a loop of its own, and a test has one already on its thread."""
    import threading

    if not _template.cache_info().currsize:
        maker = threading.Thread(target=_template)
        maker.start()
        maker.join()
    return _template()
