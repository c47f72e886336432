"""The compose file's own services, as local processes, and a migration through them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import compose_file
import pytest
import pytest_asyncio
from local_containers import LocalContainers

HOG = ("--guest", "godwit.guests.memhog:Memhog", "--ram", "16MiB")


@pytest_asyncio.fixture
async def containers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalContainers]:
    """All services of the file, healthy by their own checks."""
    directory = tmp_path_factory.mktemp("c")  # short: a Unix socket's address has 107 bytes
    async with LocalContainers(compose_file.load(), directory) as running:
        yield running


async def _json(containers: LocalContainers, *arguments: str) -> Any:
    return json.loads(await containers.run("godwit", *arguments, "--json"))


async def _check(containers: LocalContainers) -> dict[str, Any]:
    reply = await containers.run("godwit", "machine", "ask", "hog", '{"op":"check"}')
    checked: dict[str, Any] = json.loads(reply)
    return checked


@pytest.mark.e2e
async def test_a_machine_moves_there_and_back_between_restarts(containers: LocalContainers) -> None:
    await containers.run("godwit", "machine", "start", "hog", "--host", "host-1", *HOG)
    there = await _json(containers, "migrate", "hog", "--to", "host-2")
    assert (there["outcome"], there["destination"]) == ("completed", "host-2")

    # A host's services may be stopped and started again: its machines run on.
    for name in ("host-2-source", "host-2-destination"):
        assert await containers.stop(name) == 0, containers.log_of(name)
    assert (await _check(containers))["bad"] == 0
    for name in ("host-2-source", "host-2-destination"):
        await containers.start(name)

    # One move is all the estimate knows: on a busy machine its bound may be over the usual limit.
    back = await _json(containers, "migrate", "hog", "--to", "host-1", "--admission", "warn")
    assert (back["outcome"], back["destination"]) == ("completed", "host-1")
    shown = await _json(containers, "machine", "show", "hog")
    assert (shown["host"], shown["epoch"]) == ("host-1", 3)
    assert (await _check(containers))["bad"] == 0
