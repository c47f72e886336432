"""One arena for the cells of a session: whoever leaves something behind fails the next."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aftermath
import pytest
import pytest_asyncio
from arena import Arena


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def arena(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Arena]:
    """A cluster of two hosts, and a machine that is asked all the time."""
    async with Arena.open(tmp_path_factory.mktemp("chaos") / "c", wired=False) as opened:
        yield opened
        await aftermath.look_once_more(opened, opened.subject)
