"""``godwit migrate --dry-run`` on a cluster: what it says is what happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from godwit_protocol import subjects
from godwit_protocol.events.migration import Outcome
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

GODWIT = Path(sys.executable).with_name("godwit")
MEMHOG = "godwit.guests.memhog:Memhog"


async def dry_run(operations: Operations, name: str, to: str) -> tuple[int, dict[str, Any]]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GODWIT_")}
    process = await asyncio.create_subprocess_exec(
        *(GODWIT, "migrate", name, "--to", to, "--dry-run", "--json"),
        env={**ours, "GODWIT_DIR": str(operations.cluster.directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out, err.decode()
    assert process.returncode is not None
    return process.returncode, json.loads(out)


async def migrations(operations: Operations) -> int:
    log = operations.log
    return len([1 async for _ in log.read(subjects.whole_migration("*"))])


async def test_a_dry_run_says_what_a_move_then_does(operations: Operations, name: str) -> None:
    await operations.start(name, MEMHOG, vgpus=["H100XM-20C"])
    big = f"{name}-big"
    await operations.start(big, MEMHOG, "host-3", vgpus=["7g.80gb"])
    before = await migrations(operations)
    status, fits = await dry_run(operations, name, "host-2")
    assert (status, fits["movable"]) == (0, True), fits
    refused, full = await dry_run(operations, name, "host-3")
    assert (refused, full["movable"]) == (5, False)
    assert [v["check"] for v in full["verdicts"] if v["status"] != "ok"] == ["profile_available"]
    assert len(full["verdicts"]) == len(fits["verdicts"])
    assert await migrations(operations) == before
    assert (await operations.record(name)).owner == "host-1"
    assert (await operations.migrate(name, "host-3")).outcome is Outcome.ABORTED
    moved = await operations.migrate(name, "host-2")
    assert moved.outcome is Outcome.COMPLETED, moved.message
    for machine in (name, big):
        await operations.stop(machine)


async def test_a_destination_that_does_not_answer_refuses_with_what_to_do(
    operations: Operations, name: str
) -> None:
    await operations.start(name, MEMHOG)
    await operations.cluster.kill("host-2-destination_host", signal.SIGSTOP)
    status, refused = await dry_run(operations, name, "host-2")
    await operations.cluster.kill("host-2-destination_host", signal.SIGCONT)
    (link,) = [v for v in refused["verdicts"] if v["check"] == "host_link"]
    assert (status, link["status"]) == (5, "unknown")
    assert "destination_host service of host-2 did not answer" in link["reason"]
    assert "destination_host runs on host-2" in link["hint"]
    status, fits = await dry_run(operations, name, "host-2")
    refusals = [v for v in fits["verdicts"] if v["status"] != "ok"]
    assert (status, fits["movable"]) == (0, True), (refusals, fits["admission"])
    (link,) = [v for v in fits["verdicts"] if v["check"] == "host_link"]
    assert "host-1 reaches host-2 at 127.0.0.1:" in link["reason"]
    await operations.stop(name)
