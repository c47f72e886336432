"""Moves of a memhog on a cluster of real processes, and what their events say of them.

All figures come from the log, as an operator would read them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from godwit.cli.machine import ask_machine, make_spec, start_machine, stop_machine
from godwit.cli.migration import request_migration
from godwit.cli.progress import SilentDisplay, follow
from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import codec, subjects
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Limits, Outcome, Verify
from godwit_protocol.machine import MachineSpec
from godwit_protocol.projections import MigrationSummary

MEMHOG = "godwit.guests.memhog:Memhog"
HOSTS = ("host-1", "host-2")
MOVE_S_MAX = 240.0
LONG_STUN = 120_000_000_000


@dataclass(frozen=True)
class Move:
    """One migration that completed."""

    summary: MigrationSummary
    requested_ns: int
    first_byte_ns: int
    """When pre-copy began, CLOCK_MONOTONIC, as is when the move was asked for."""
    create_ns: int
    ended_ns: int
    """When the coordinator sealed the migration's end, CLOCK_MONOTONIC."""

    @property
    def first_round_bytes_per_second(self) -> float:
        """Everything that the machine held, once."""
        first = self.summary.rounds[0].figures
        return first.sent_bytes / first.duration_ns * 1e9

    @property
    def precopy_bytes_per_second(self) -> float:
        """All rounds together."""
        figures = [done.figures for done in self.summary.rounds]
        spent_ns = sum(each.duration_ns for each in figures)
        return sum(each.sent_bytes for each in figures) / spent_ns * 1e9

    @property
    def stun_ms(self) -> float:
        """From the last step on the source to the first on the destination."""
        assert self.summary.stun_ns is not None
        return self.summary.stun_ns / 1e6

    @property
    def from_first_byte_s(self) -> float:
        """To the first step on the destination."""
        return (self.summary.marks.first_step_ns - self.first_byte_ns) / 1e9

    @property
    def prepare_s(self) -> float:
        """An empty machine made, and its memory populated."""
        return (self.create_ns + self.summary.populate_ns) / 1e9

    @property
    def control_share(self) -> float:
        """The part of all time, from the request to the end, that neither made nor moved memory.

        The source frees the machine's memory after that, and it is not in it.
        """
        parts = self.summary.marks.components_ns()
        moved_ns = sum(done.figures.duration_ns for done in self.summary.rounds)
        moved_ns += parts["scan"] + parts["copy"] + parts["receive"]
        moved_ns += self.create_ns + self.summary.populate_ns
        return 1 - moved_ns / (self.ended_ns - self.requested_ns)

    @property
    def release_s(self) -> float:
        """From then to the end: the source hears of it and says that it released the machine."""
        return (self.ended_ns - self.summary.marks.first_step_ns) / 1e9


class Lab:
    """A cluster of two hosts, and machines on them."""

    def __init__(self, log: NatsLog, cluster: Cluster) -> None:
        self.log = log
        self.cluster = cluster
        self._at: dict[str, int] = {}

    @asynccontextmanager
    async def memhog(self, name: str, ram: str, **settings: Any) -> AsyncIterator[None]:
        """A machine that runs on the first host, all of its pages filled; it is stopped after."""
        given = {"fill": 1, "rate": 0, **settings}
        env = tuple(f"GODWIT_MEMHOG_{key.upper()}={value}" for key, value in given.items())
        async with self.machine(make_spec(name, MEMHOG, ram=ram, env=env)):
            yield

    @asynccontextmanager
    async def machine(self, spec: MachineSpec, at: int = 0) -> AsyncIterator[None]:
        """A machine that runs on the host of that number; it is stopped after."""
        await start_machine(self.log, spec, HOSTS[at])
        self._at[spec.name] = at
        yield
        await stop_machine(self.log, spec.name)

    async def ask(self, name: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request to the guest."""
        reply, _ = await ask_machine(self.log, name, json.dumps(request).encode(), 60)
        told: dict[str, Any] = json.loads(reply)
        return told

    async def request(
        self, name: str, limits: Limits | None = None, verify: Verify = Verify.WIRE
    ) -> str:
        """Ask for a move to the other host; return its id."""
        to = HOSTS[1 - self._at[name]]
        warn = AdmissionPolicy.WARN
        return await request_migration(self.log, name, to, limits or Limits(), verify, warn)

    async def move(
        self, name: str, limits: Limits | None = None, verify: Verify = Verify.WIRE
    ) -> Move:
        """Move the machine to the other host."""
        migration = await self.request(name, limits, verify)
        summary = await follow(self.log, migration, SilentDisplay(), wait_s=MOVE_S_MAX)
        assert summary.outcome is Outcome.COMPLETED, (summary.reason, summary.message)
        self._at[name] = 1 - self._at[name]
        return await self._told(summary)

    async def _told(self, summary: MigrationSummary) -> Move:
        requested_ns = first_byte_ns = create_ns = ended_ns = 0
        async for stored in self.log.read(subjects.whole_migration(summary.id)):
            recorded = codec.decode(stored.data, stored.sequence)
            match recorded.event:
                case ev.MigrationRequested():
                    requested_ns = recorded.envelope.monotonic_ns
                case ev.PrecopyStarted():
                    first_byte_ns = recorded.envelope.monotonic_ns
                case ev.DestinationPrepared(create_ns=took_ns):
                    create_ns = took_ns
                case ev.MigrationEnded():
                    ended_ns = recorded.envelope.monotonic_ns
                case _:
                    pass
        return Move(summary, requested_ns, first_byte_ns, create_ns, ended_ns)


@asynccontextmanager
async def lab(
    nats_url: str | None = None,
    environ: Mapping[str, str] | None = None,
    launch_through: Sequence[str] = (),
) -> AsyncIterator[Lab]:
    """A cluster for one script; on a server that runs already, if its URL is given. ``environ`` is
    added to the environment of its processes; ``launch_through`` as in ``Cluster.start``.
    """
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as directory:
        async with await Cluster.start(
            Path(directory), nats_url=nats_url, environ=environ, launch_through=launch_through
        ) as cluster:
            log = await NatsLog.connect(cluster.nats_url, name="bench")
            try:
                yield Lab(log, cluster)
            finally:
                await log.close()
