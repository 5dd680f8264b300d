"""An API of its own for each test, over a hub that does what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.api import Api, running_api


@pytest_asyncio.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as made:
        yield made
