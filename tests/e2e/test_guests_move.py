"""Each guest is moved there and back ten times, and loses nothing."""

from __future__ import annotations

import asyncio
import json

import pytest

from godwit.cli.guest_client import GuestClient
from godwit.guests.corpus import questions, sentences
from godwit_protocol.events.migration import Limits, Outcome
from godwit_protocol.projections import StunMarks
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

JOURNEYS = 10
AHEAD_STEPS = 2_000
"""Where it is told to stop, beyond where it is: some seconds of training on a busy machine."""
ONE_THREAD = ("OPENBLAS_NUM_THREADS=1",)


def assert_clocks_agree(marks: StunMarks) -> None:
    """Both hosts are this one: what was measured over the link is nothing, within its error."""
    assert marks.clock_offset_ns is not None
    assert abs(marks.clock_offset_ns) <= marks.clock_error_ns


async def journey(operations: Operations, name: str) -> None:
    """There and back."""
    for destination in ("host-2", "host-1"):
        summary = await operations.migrate(name, destination)
        assert summary.outcome is Outcome.COMPLETED, (summary.reason, summary.message)
        assert summary.stun_ns is not None
        assert sum(summary.marks.components_ns().values()) == summary.stun_ns
        assert_clocks_agree(summary.marks)
        assert (await operations.record(name)).owner == destination


async def test_the_embedder_answers_all_the_way(operations: Operations, name: str) -> None:
    corpus, asked = sentences()[:32], questions()
    await operations.start(
        name, "godwit.guests.embedder:Embedder", vgpus=["H100XM-4C"], env=ONE_THREAD
    )
    await operations.ask(name, {"op": "add", "text": corpus[:16]})
    await operations.ask(name, {"op": "add", "text": corpus[16:]})
    async with operations.client(name) as client:
        before = [await _search(client, question) for question in asked[:8]]
        over = asyncio.Event()
        asking = asyncio.create_task(_keep_asking(client, asked[:8], before, over))
        for _ in range(JOURNEYS):
            await journey(operations, name)
        over.set()
        assert await asking > JOURNEYS
        assert (client.lost, client.doubled) == (0, 0)
    assert (await operations.ask(name, {"op": "count"}))["count"] == len(corpus)
    await operations.stop(name)


async def _search(client: GuestClient, question: str) -> bytes:
    request = {"op": "search", "text": question, "k": 3}
    return await client.ask(json.dumps(request).encode())


async def _keep_asking(
    client: GuestClient, asked: list[str], expected: list[bytes], over: asyncio.Event
) -> int:
    rounds = 0
    while not over.is_set():
        for question, answer in zip(asked, expected, strict=True):
            assert await _search(client, question) == answer
        rounds += 1
    return rounds


async def test_the_trainer_equals_its_undisturbed_twin(operations: Operations, name: str) -> None:
    """Every parameter, moment and loss, bit for bit, after the same number of steps.

    The twin trains when the machine has stopped: two would take each other's time.
    """
    twin, trainer = f"{name}-twin", "godwit.guests.trainer:Trainer"
    env = (*ONE_THREAD, "GODWIT_TRAINER_SEED=7", "GODWIT_TRAINER_HIDDEN=64")
    await operations.start(name, trainer, env=env)
    for _ in range(JOURNEYS):
        await journey(operations, name)
    limit = (await operations.ask(name, {"op": "status"}))["step"] + AHEAD_STEPS
    await operations.ask(name, {"op": "limit", "steps": limit})
    moved = await _at_step(operations, name, limit)
    await operations.start(twin, trainer, env=(*env, f"GODWIT_TRAINER_LIMIT={limit}"))
    assert await _at_step(operations, twin, limit) == moved
    for machine in (name, twin):
        await operations.stop(machine)


async def _at_step(operations: Operations, name: str, step: int) -> dict[str, object]:
    """The status at a step that the trainer stops at; it answers between two of its steps."""
    async with asyncio.timeout(120):
        while (status := await operations.ask(name, {"op": "status"}))["step"] < step:
            pass
    return status


@pytest.mark.parametrize("pattern", ["uniform", "hot", "sequential", "silent", "zero"])
async def test_memhog_finds_no_page_lost_or_stale(
    operations: Operations, name: str, pattern: str
) -> None:
    env = ("GODWIT_MEMHOG_RATE=20000000", f"GODWIT_MEMHOG_PATTERN={pattern}")
    await operations.start(name, "godwit.guests.memhog:Memhog", ram="32MiB", env=env)
    for _ in range(JOURNEYS // 5):
        await journey(operations, name)
        checked = await operations.ask(name, {"op": "check"})
        assert checked["bad"] == 0, checked
        assert checked["table_whole"]
    await operations.stop(name)


async def test_without_pre_copy_the_machine_stands_still_while_all_of_it_is_sent(
    operations: Operations, name: str
) -> None:
    env = ("GODWIT_MEMHOG_FILL=1",)
    await operations.start(name, "godwit.guests.memhog:Memhog", ram="32MiB", env=env)
    limits = Limits(stun_limit_ns=5_000_000_000, rounds_max=0)
    summary = await operations.migrate(name, "host-2", limits)
    assert summary.outcome is Outcome.COMPLETED, (summary.reason, summary.message)
    assert summary.rounds == ()
    assert summary.final_bytes >= 31 << 20
    checked = await operations.ask(name, {"op": "check"})
    assert checked["bad"] == 0, checked
    await operations.stop(name)


async def test_one_that_writes_faster_than_the_link_is_slowed_and_moves(
    operations: Operations, name: str
) -> None:
    env = (*ONE_THREAD, "GODWIT_TRAINER_HIDDEN=1024")
    await operations.start(name, "godwit.guests.trainer:Trainer", ram="32MiB", env=env)
    limits = Limits(stun_limit_ns=1_000, stun_limit_max_ns=5_000_000_000, slow_percent_max=95)
    summary = await operations.migrate(name, "host-2", limits)
    assert summary.outcome is Outcome.COMPLETED, (summary.reason, summary.message)
    slowed = [done.slow_percent for done in summary.rounds]
    assert 0 < max(slowed) <= 95
    assert slowed == sorted(slowed)
    await operations.stop(name)
