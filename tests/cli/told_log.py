"""What a log holds after things have happened, written as the services write it."""

from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec, VGpuSpec
from godwit_protocol.roles.effects import Address


class Teller:
    """Writes events as their writers would."""

    def __init__(self, log: NatsLog) -> None:
        self.log = log
        self.clock = SystemClock()

    async def tell(
        self,
        lane: Lane,
        host: str,
        scope: Scope,
        *events: Event,
        to: Address | None = None,
        epoch: int = 0,
    ) -> int:
        """Append the events to a chain of their own; return the last one's sequence."""
        writer = LaneWriter(self.clock, lane, host, scope)
        writer.epoch = epoch
        sequence = 0
        for event in events:
            sealed = writer.seal(event, to=to)
            sequence = await self.log.append(
                sealed.subject, sealed.data, message_id=sealed.message_id
            )
            writer.advance(sealed)
        return sequence

    async def announce(self, host: str, *gpus: mev.GpuInventory) -> None:
        """A host comes up."""
        event = mev.HostAnnounced(
            hypervisors=(), missing=(), memory_bytes=2**30, kernel="6.8", gpus=gpus
        )
        await self.tell(Lane.SOURCE, host, Scope.of_host(host), event)

    async def start(self, name: str, host: str) -> MachineSpec:
        """A machine starts."""
        spec = make_spec(name)
        started = mev.MachineStarted(start=self.clock.new_id(), spec=spec, register_epoch=1)
        await self.tell(Lane.SOURCE, host, Scope.of_machine(name), started)
        await self.write_register(reg.started(name, host, None))
        return spec

    async def write_register(self, record: reg.RegisterRecord) -> None:
        """Whatever stood there before."""
        subject = subjects.register(record.machine)
        await self.log.append(subject, reg.encode(record), message_id=self.clock.new_id())

    async def claim(self, name: str, migration: str) -> None:
        """A migration takes the claim on a machine."""
        claim = reg.encode_claim(reg.Claim(machine=name, migration=migration))
        await self.log.append(subjects.claim(name), claim, message_id=self.clock.new_id())

    async def request(self, name: str, to: str) -> str:
        """An operator asks for a migration; return its id."""
        migration = self.clock.new_id()
        event = ev.MigrationRequested(machine=name, destination=to, limits=ev.Limits())
        scope = Scope.of_migration(migration, name)
        await self.tell(Lane.OPERATOR, "cli-test", scope, event)
        return migration

    async def end(
        self,
        migration: str,
        name: str,
        outcome: ev.Outcome,
        reason: ev.AbortReason = ev.AbortReason.NONE,
    ) -> None:
        """A coordinator ends it."""
        scope = Scope.of_migration(migration, name)
        event = ev.MigrationEnded(outcome=outcome, reason=reason)
        await self.tell(Lane.COORDINATOR, "coordinator-1", scope, event)


def make_spec(name: str) -> MachineSpec:
    vgpus = (VGpuSpec("H100XM-4C", 4 * 2**30),)
    return MachineSpec(name=name, guest="some.module:Guest", ram_bytes=2**26, vgpus=vgpus)
