"""The weights of a model that the destination already runs do not cross the wire."""

from __future__ import annotations

import pytest

from godwit.guests.corpus import questions, sentences
from godwit_protocol.events.migration import Outcome
from godwit_protocol.projections import MigrationSummary
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

EMBEDDER = "godwit.guests.embedder:Embedder"
ONE_THREAD = ("OPENBLAS_NUM_THREADS=1",)
MEMHOG = "godwit.guests.memhog:Memhog"
TENANT = "content"


async def start(operations: Operations, name: str, host: str) -> None:
    await operations.start(name, EMBEDDER, host, vgpus=["H100XM-4C"], env=ONE_THREAD, tenant=TENANT)


async def moved(operations: Operations, name: str, to: str) -> MigrationSummary:
    summary = await operations.migrate(name, to)
    assert summary.outcome is Outcome.COMPLETED, (summary.reason, summary.message)
    return summary


def size_bytes(summary: MigrationSummary) -> int:
    """What the machine holds: pages of the first round, whatever travelled of them."""
    return summary.rounds[0].figures.pages * 4096


def wire_bytes(summary: MigrationSummary) -> int:
    return sum(done.figures.wire_bytes for done in summary.rounds) + summary.final_bytes


async def test_a_model_that_the_destination_runs_stays_where_it_is(
    operations: Operations, name: str
) -> None:
    other, stranger = f"{name}-other", f"{name}-stranger"
    asked = {"op": "search", "text": questions()[0], "k": 3}
    await start(operations, name, "host-1")
    await operations.ask(name, {"op": "add", "text": sentences()[:16]})
    before = await operations.ask(name, asked)

    await operations.start(stranger, EMBEDDER, "host-2", vgpus=["H100XM-4C"], env=ONE_THREAD)
    alone = await moved(operations, name, "host-2")
    assert alone.rounds[0].figures.content_bytes == 0, "another tenant's content is not used"
    assert wire_bytes(alone) > 0.9 * size_bytes(alone)

    await start(operations, other, "host-1")
    back = await moved(operations, name, "host-1")
    figures = back.rounds[0].figures
    assert wire_bytes(back) <= 0.1 * size_bytes(back)
    assert figures.content_bytes >= 0.9 * size_bytes(back)
    assert 0 < figures.content_ns < figures.duration_ns
    assert all(done.figures.content_bytes == 0 for done in back.rounds[1:])
    assert await operations.ask(name, asked) == before
    for machine in (name, other, stranger):
        await operations.stop(machine)


async def test_a_machine_that_writes_while_its_chunks_are_offered_loses_nothing(
    operations: Operations, name: str
) -> None:
    """The destination fills what the source digested; the tracker has what was written since."""
    resident = f"{name}-resident"
    settings = ("GODWIT_MEMHOG_FILL=1", "GODWIT_MEMHOG_HOT=4194304", "GODWIT_MEMHOG_PATTERN=hot")
    for machine, host, rate in ((name, "host-1", 50_000_000), (resident, "host-2", 0)):
        env = (*settings, f"GODWIT_MEMHOG_RATE={rate}")
        await operations.start(machine, MEMHOG, host, ram="64MiB", env=env, tenant=TENANT)
    there = await moved(operations, name, "host-2")
    assert there.content_bytes >= 0.8 * size_bytes(there)
    for machine in (name, resident):
        checked = await operations.ask(machine, {"op": "check"})
        assert checked["bad"] == 0, checked
        await operations.stop(machine)


async def test_a_machine_is_filled_from_a_file_of_the_destination(
    operations: Operations, name: str
) -> None:
    env = ("GODWIT_MEMHOG_FILL=1", "GODWIT_MEMHOG_RATE=0", "GODWIT_MEMHOG_SEED=3")
    await operations.start(name, MEMHOG, ram="32MiB", env=env, tenant=TENANT)
    vmm = await operations.hypervisor("host-1").find(name)
    assert vmm is not None
    folder = operations.cluster.directory / "content" / TENANT
    folder.mkdir(parents=True)
    with await vmm.memory() as memory:
        (folder / "ram").write_bytes(memory["ram"].view)
    there = await moved(operations, name, "host-2")
    assert there.content_bytes >= 0.8 * size_bytes(there)
    assert (await operations.ask(name, {"op": "check"}))["bad"] == 0
    await operations.stop(name)
