"""More than one of those of which one would do: three nats-servers, two coordinators."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from arena import LIMITS, REACHED_S_MAX, Arena, send, until
from cells import Cell, Fault, Party, Result, run_cell
from nats_cluster import SERVERS, NatsCluster
from steps import step

from godwit.cli.supervised import Program, Supervised, answers_healthy
from godwit_protocol.subjects import EVENTS, REGISTER

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@asynccontextmanager
async def second_coordinator(arena: Arena) -> AsyncIterator[Supervised]:
    """Another replica, beside the cluster's own."""
    name = "coordinator-2"
    place = arena.cluster.directory
    service = Supervised(
        Program(
            name,
            ("run_service", "godwit.coordinator"),
            arena.cluster.environ() | {"GODWIT_COORDINATOR_ID": name},
            place / "logs" / f"{name}.log",
            answers_healthy(place / "services" / "coordinator" / name / "health.json"),
        ),
        report=sys.stderr.write,
    )
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.STOP_SHORT])
@pytest.mark.asyncio(loop_scope="session")
async def test_two_coordinators_end_a_migration_once(arena: Arena, fault: Fault) -> None:
    """That each decision stands once is the verifier's to see."""
    async with second_coordinator(arena):
        for key in ("d2", "s11"):
            outcome = await run_cell(arena, Cell(Party.COORDINATOR, fault, step(key)))
            assert outcome.result is Result.MOVED, outcome


@pytest.mark.chaos
@pytest.mark.parametrize(("stream", "key"), [(REGISTER, "s10"), (EVENTS, "s7")])
async def test_a_streams_leader_is_killed_during_the_stun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, key: str
) -> None:
    """For 4 to 7 s the register takes nothing. Then the machine runs on one host."""
    monkeypatch.setenv("GODWIT_NATS_REPLICAS", str(SERVERS))
    async with (
        NatsCluster.start(tmp_path / "nats") as nats,
        Arena.open(tmp_path / "c", nats_url=nats.url) as arena,
    ):
        subject = await arena.machine()
        source = await arena.owner()
        is_reached = arena.plan(source, step(key))
        migration = await arena.operations.request(subject.name, arena.other(source), LIMITS)
        await until(is_reached, REACHED_S_MAX, key)
        leader = await nats.leader_of(stream)
        await nats.kill(leader)
        send(arena.cluster.pid(f"{source}-source_host"), signal.SIGCONT)
        await arena.ended(migration)
        await nats.start_server(leader)
        assert await arena.check(migration)
