"""What a user sees of estimates, on a cluster of real processes: before, at and after a move."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from godwit_protocol.errors import RefusedError
from godwit_protocol.events.estimate import EstimateCompared, EstimateMade
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

GODWIT = str(Path(sys.executable).with_name("godwit"))
SAMPLED_S_MAX = 60


async def godwit(operations: Operations, *words: str, status: int = 0) -> str:
    """Run the command; standard output, or standard error if it must fail with ``status``."""
    process = await asyncio.create_subprocess_exec(
        GODWIT,
        *words,
        env={**os.environ, "GODWIT_DIR": str(operations.cluster.directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == status, (words, out.decode(), err.decode())
    return (err if status else out).decode()


async def estimates(operations: Operations, name: str) -> dict[str, dict[str, Any]]:
    """By destination, once the machine has been sampled and a link is known."""
    async with asyncio.timeout(SAMPLED_S_MAX):
        while True:
            shown = json.loads(await godwit(operations, "machine", "show", name, "--json"))
            found = {each["destination"]: each for each in shown["estimates"]}
            if all(each["lacking"] == "" for each in found.values()):
                return found


async def test_a_machine_is_sampled_estimated_and_compared(
    operations: Operations, name: str
) -> None:
    env = ("GODWIT_MEMHOG_RATE=20000000",)
    await operations.start(name, "godwit.guests.memhog:Memhog", ram="32MiB", env=env)
    await operations.migrate(name, "host-2")
    found = await estimates(operations, name)
    assert found.keys() == {"host-1", "host-3"}
    for each in found.values():
        assert 0 < each["stun_ms"]["median"] <= each["stun_ms"]["bound"]
        assert each["dirty_bytes_per_second"] > 1_000_000
    assert "move to host-1" in await godwit(operations, "machine", "show", name)
    migration = (await operations.migrate(name, "host-1")).id
    compared = await operations.event(migration, EstimateCompared)
    assert compared.stun_ns > 0
    told = json.loads(await godwit(operations, "estimates", "--json"))
    (mine,) = [each for each in told if each["id"] == migration]
    assert mine["stun_ms"]["actual"] == pytest.approx(compared.stun_ns / 1e6, abs=0.001)
    assert mine["within"] is compared.within
    assert "kept their bound" in await godwit(operations, "estimates")
    await a_limit_that_cannot_be_kept(operations, name)
    await operations.stop(name)


async def a_limit_that_cannot_be_kept(operations: Operations, name: str) -> None:
    """Refused before anything is reserved, unless the user wants only to be warned."""
    towards = ("migrate", name, "--to", "host-2", "--stun-limit")
    move = (*towards, "100us")
    # What others have moved over this link counts too, in whatever haste: ask for a wide limit.
    tried = json.loads(await godwit(operations, *towards, "60s", "--dry-run", "--json"))
    assert (tried["movable"], tried["admission"]["admission"]) == (True, "admitted")
    assert tried["estimate"]["stun_ms"]["bound"] >= tried["estimate"]["stun_ms"]["median"]
    dry = await godwit(operations, *move, "--dry-run", status=RefusedError.exit_code)
    assert "the limit is 100us" in dry
    told = await godwit(operations, *move, status=RefusedError.exit_code)
    assert "the limit is 100us" in told
    assert (await operations.record(name)).owner == "host-1"
    warned = await godwit(operations, *move, "--admission", "warn", "--no-wait")
    made = await operations.event(warned.strip(), EstimateMade)
    assert made.admission == "warned"
    await operations.ended(warned.strip())
