"""What a request is considered with is asked of the log at once, not one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from godwit.catalogue.loading import load as load_catalogue
from godwit.coordinator.compatibility import gather
from godwit.coordinator.estimates import Estimates
from godwit.coordinator.facts import consider
from godwit.coordinator.links import not_looked_at
from godwit.estimation.reading import forecasts
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.events import Lane
from godwit_protocol.events.estimate import EstimateMade
from godwit_protocol.events.machine import HostAnnounced, MachineStarted
from godwit_protocol.events.migration import Limits, MigrationRequested
from godwit_protocol.machine import MachineSpec
from godwit_protocol.stored import Stored

HERE, THERE, NAME = "at-once-1", "at-once-2", "at-once"
CLOCK = SystemClock()


class BothLog(NatsLog):
    """Tells nobody the last of one of two subjects before it is asked for the other's too."""

    both: tuple[str, ...] = ()

    def together(self, *subjects_: str) -> None:
        self.both, self.asked = subjects_, asyncio.Barrier(len(subjects_))

    async def last(self, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        if subject in self.both:
            async with asyncio.timeout(timeout_s):
                await self.asked.wait()
        return await super().last(subject, timeout_s=timeout_s)


@pytest_asyncio.fixture
async def both(log: NatsLog, nats_server: NatsServer) -> AsyncIterator[BothLog]:
    opened = await BothLog.connect(nats_server.url, name="both")
    yield opened
    await opened.close()


async def test_the_machines_record_and_the_host(both: BothLog) -> None:
    both.together(subjects.register(NAME), subjects.inventory(THERE))
    requested = MigrationRequested(machine=NAME, destination=THERE, limits=Limits())
    found = await consider(both, load_catalogue(None), requested, not_looked_at)
    assert (found.spec, found.record, found.destination_known) == (None, None, False)


async def test_the_two_hosts(both: BothLog) -> None:
    both.together(subjects.inventory(HERE), subjects.inventory(THERE))
    spec = MachineSpec(name=NAME, guest="a:B", ram_bytes=2**20)
    case = await gather(both, load_catalogue(None), spec, HERE, THERE, not_looked_at)
    assert (case.source.host, case.destination.host) == (HERE, THERE)


async def test_the_machines_hosts_and_what_its_move_would_take(both: BothLog) -> None:
    await _started_at(both, "at-once-3", "at-once-4", "at-once-5")
    both.together(subjects.inventory("at-once-4"), subjects.machine_history("at-once-3"))
    requested = MigrationRequested(machine="at-once-3", destination="at-once-5", limits=Limits())

    async def estimate(record: reg.RegisterRecord | None) -> EstimateMade:
        assert record is not None
        return await Estimates(both, AdmissionPolicy.WARN).of("m", requested, record.owner)

    found = await consider(both, load_catalogue(None), requested, not_looked_at, estimate)
    assert found.refusals
    assert found.estimated is not None


async def test_what_the_machine_writes_and_what_the_link_carries(both: BothLog) -> None:
    both.together(subjects.machine_history(NAME), subjects.link_history(HERE, "*"))
    assert set(await forecasts(both, NAME, HERE, (THERE,), Limits())) == {THERE}


async def _started_at(log: NatsLog, name: str, host: str, other: str) -> None:
    """A machine that runs at ``host``, and the other host announced."""
    spec = MachineSpec(name=name, guest="a:B", ram_bytes=2**20)
    record = reg.started(name, host, None, start="start")
    await log.append(subjects.register(name), reg.encode(record), message_id=record.nonce)
    announced = HostAnnounced(hypervisors=(), missing=(), memory_bytes=2**30, kernel="", gpus=())
    of_machine = LaneWriter(CLOCK, Lane.SOURCE, host, Scope.of_machine(name))
    of_host = LaneWriter(CLOCK, Lane.SOURCE, other, Scope.of_host(other))
    started = MachineStarted(start="start", spec=spec, register_epoch=1)
    await of_machine.seal(started).append_to(log)
    await of_host.seal(announced).append_to(log)
