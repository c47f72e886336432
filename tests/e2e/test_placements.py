"""What the command line says of places on a GPU: which are taken, and who is in the way."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

GODWIT = Path(sys.executable).with_name("godwit")
IDLE = "godwit.guests.memhog:Memhog"
SMALL, LARGE, FOURTH = "1g.10gb", "3g.40gb", "4g.40gb"


async def godwit(operations: Operations, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GODWIT_")}
    process = await asyncio.create_subprocess_exec(
        *(GODWIT, *words),
        env={**ours, "GODWIT_DIR": str(operations.cluster.directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("order", "starts", "in_the_way"),
    [
        ((SMALL, SMALL, LARGE), [6, 4, 0], "3g.40gb of {2} (from slot 0)"),
        (
            (LARGE, SMALL, SMALL),
            [4, 0, 1],
            "1g.10gb of {1} (from slot 0) and 1g.10gb of {2} (from slot 1)",
        ),
    ],
)
async def test_two_small_and_a_large_each_way_round(
    operations: Operations,
    name: str,
    order: tuple[str, ...],
    starts: list[int],
    in_the_way: str,
) -> None:
    names = [f"{name}-{number}" for number in range(3)]
    for machine, profile in zip(names, order, strict=True):
        await operations.start(machine, IDLE, "host-3", vgpus=[profile])
    fourth = f"{name}-fourth"
    status, out, said = await godwit(
        operations,
        *("machine", "start", fourth, "--guest", IDLE, "--vgpu", FOURTH, "--host", "host-3"),
    )
    assert (status, out) == (5, "")
    expected = (
        f"host-3 did not start machine {fourth}: no vGPU: {FOURTH} has no place on host host-3;"
        f" on GPU 0, {in_the_way.format(*names)} would have to move"
    )
    assert expected in " ".join(said.split())
    _, drawn, _ = await godwit(operations, "gpus", "--host", "host-3", "--json")
    (gpu,) = json.loads(drawn)
    assert {item["machine"]: item["start"] for item in gpu["holds"]} == dict(
        zip(names, starts, strict=True)
    )
    for machine in names:
        await operations.stop(machine)
