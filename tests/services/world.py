"""The rest of the world for coordinator and tracker: hosts and operators, played by a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from godwit.catalogue.loading import load as load_catalogue
from godwit.gpus.simulated import SimulatedGpus
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import codec, ledger, register, subjects
from godwit_protocol.compatibility.host_checks import NEEDED_FEATURES
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.migration import AbortReason, Limits
from godwit_protocol.facts import DeclaredFacts, HostFacts, Setting
from godwit_protocol.machine import HypervisorKind, MachineSpec, VGpuSpec
from godwit_protocol.placement.policy import DeviceGroup, Policy
from godwit_protocol.roles.effects import Address, Service
from godwit_protocol.stored import Stored

EVENT_S_MAX = 20.0
CATALOGUE = load_catalogue()
E = TypeVar("E", bound=Event)


@dataclass(frozen=True)
class Seen:
    """One event of the log, with where it stands."""

    stored: Stored
    recorded: Recorded


class Watch:
    """Follows one scope. ``seen`` is all of it so far, in the log's order."""

    def __init__(self, arrivals: AsyncGenerator[Stored, None]) -> None:
        self.seen: list[Seen] = []
        self._arrivals = arrivals

    async def until(self, kind: type[E], times: int = 1) -> E:
        """Wait for the event, unless it was seen already; returns it."""
        async with asyncio.timeout(EVENT_S_MAX):
            while len(self.all_of(kind)) < times:
                stored = await anext(self._arrivals)
                self.seen.append(Seen(stored, codec.decode(stored.data, stored.sequence)))
        return self.all_of(kind)[times - 1]

    def all_of(self, kind: type[E]) -> list[E]:
        """Every event of the kind that was seen."""
        events = [item.recorded.event for item in self.seen]
        return [event for event in events if isinstance(event, kind)]

    def subject_of(self, kind: type[Event]) -> str:
        """Where the first event of the kind stands."""
        return next(s.stored.subject for s in self.seen if isinstance(s.recorded.event, kind))

    def of_lane(self, lane: Lane) -> list[Seen]:
        """What one lane's writers wrote."""
        return [item for item in self.seen if item.recorded.envelope.lane is lane]


class World:
    """Hosts, machines and operators."""

    def __init__(self, log: NatsLog) -> None:
        self.log = log
        self._clock = SystemClock()
        self._lanes: dict[tuple[Lane, str, Scope], LaneWriter] = {}

    def new_id(self) -> str:
        """An id for a migration."""
        return self._clock.new_id()

    @asynccontextmanager
    async def watch(self, scope: Scope) -> AsyncGenerator[Watch, None]:
        """Follow a scope from its beginning."""
        arrivals = self.log.tail(scope.filters())
        try:
            yield Watch(arrivals)
        finally:
            await arrivals.aclose()

    async def write(
        self, lane: Lane, host: str, scope: Scope, event: Event, to: Address | None = None
    ) -> None:
        """Append an event as ``host`` would."""
        writer = self._lanes.setdefault(
            (lane, host, scope), LaneWriter(self._clock, lane, host, scope)
        )
        sealed = writer.seal(event, to=to)
        await self.log.append(sealed.subject, sealed.data, message_id=sealed.message_id)
        writer.advance(sealed)

    async def host(
        self, *models: str, linked: bool = False, declared: DeclaredFacts | None = None
    ) -> str:
        """A host that has announced itself and its GPUs, all NVLink peers or none. Returns its
        name.
        """
        name = f"h-{uuid4().hex[:12]}"
        seen = await SimulatedGpus(name, models, CATALOGUE, declared or DeclaredFacts()).look()
        announced = mev.HostAnnounced(
            hypervisors=(HypervisorKind.NATIVE,),
            missing=(),
            memory_bytes=2**34,
            kernel="6.8",
            gpus=seen.gpus if linked else tuple(map(_unlinked, seen.gpus)),
            facts=HostFacts(
                free_memory_bytes=2**33,
                kernel_features=NEEDED_FEATURES[HypervisorKind.NATIVE],
                hypervisor_versions={HypervisorKind.NATIVE: "0.1.0"},
                link_address="127.0.0.1",
                link_version=1,
                driver=seen.driver,
            ),
        )
        await self.announce(name, announced)
        return name

    async def announced(self, host: str) -> mev.HostAnnounced:
        """What a host said last."""
        stored = await self.log.last(subjects.inventory(host))
        assert stored is not None
        event = codec.decode(stored.data).event
        assert isinstance(event, mev.HostAnnounced)
        return event

    async def announce(self, host: str, announced: mev.HostAnnounced) -> None:
        """What a host says of itself."""
        await self.write(Lane.SOURCE, host, Scope.of_host(host), announced)

    async def ask_capacity(
        self,
        host: str,
        machine: str,
        *profiles: str,
        start: str = "",
        policy: Policy = Policy.CONSOLIDATE,
        group: DeviceGroup = DeviceGroup.NONE,
    ) -> str:
        """A host's request before a start. Returns the reservation's id, which is the start's."""
        start = start or self._clock.new_id()
        requested = rev.ReservationRequested(
            reservation=start,
            machine=machine,
            target=host,
            profiles=profiles,
            framebuffer_bytes=tuple(
                CATALOGUE.profiles[name].framebuffer_bytes if name in CATALOGUE.profiles else 4096
                for name in profiles
            ),
            placement_policy=policy,
            device_group=group,
        )
        await self.write(Lane.SOURCE, host, Scope.of_machine(machine), requested)
        return start

    async def machine(self, host: str, *profiles: str, policy: Policy = Policy.CONSOLIDATE) -> str:
        """A machine that runs on ``host``, with its reservation confirmed. Returns its name."""
        name = f"m-{uuid4().hex[:12]}"
        scope = Scope.of_machine(name)
        start = await self.ask_capacity(host, name, *profiles)
        record = register.started(name, host, None)
        await self.log.append(
            subjects.register(name), register.encode(record), message_id=record.nonce + name
        )
        async with self.watch(scope) as watch:
            await watch.until(rev.ReservationGranted)
            spec = replace(_spec(name, profiles), placement_policy=policy)
            started = mev.MachineStarted(start=start, spec=spec, register_epoch=1)
            await self.write(Lane.SOURCE, host, scope, started)
            await watch.until(rev.ReservationConfirmed)
        return name

    async def request(self, machine: str, destination: str, *, deadline_s: float = 600) -> Scope:
        """An operator's request. Returns the migration's scope."""
        scope = Scope.of_migration(self._clock.new_id(), machine)
        requested = ev.MigrationRequested(
            machine=machine,
            destination=destination,
            limits=Limits(deadline_ns=int(deadline_s * 1e9)),
        )
        await self.write(Lane.OPERATOR, "test", scope, requested)
        return scope

    async def cancel(self, migration: Scope) -> None:
        """An operator's cancel."""
        await self.write(Lane.OPERATOR, "test", migration, ev.CancelRequested())

    async def prepare(self, migration: Scope, destination: str) -> None:
        """What the destination says to its order."""
        prepared = ev.DestinationPrepared(address="::1", port=4242, token=b"secret", create_ns=1)
        await self.write(Lane.DESTINATION, destination, migration, prepared)

    async def move(self, migration: Scope, source: str, destination: str) -> None:
        """The switchover, as far as the coordinator hears of it."""
        await self.activate(migration, source, destination)
        await self.write(Lane.SOURCE, source, migration, ev.MachineReleased())

    async def activate(
        self, migration: Scope, source: str, destination: str, *, first_step_ns: int = 2
    ) -> None:
        """The destination takes the machine."""
        standing = await self.log.last(subjects.register(migration.machine))
        assert standing is not None
        current = register.decode(standing.data)
        assert current.owner == source
        moved = register.moved(current, destination, migration.id)
        sequence = await self.log.append(
            subjects.register(migration.machine),
            register.encode(moved),
            message_id=moved.nonce,
            expected_last_sequence=standing.sequence,
        )
        activated = ev.MachineActivated(
            register_sequence=sequence, owned_ns=first_step_ns - 1, first_step_ns=first_step_ns
        )
        await self.write(Lane.DESTINATION, destination, migration, activated)

    async def abandon(self, migration: Scope, source: str, reason: AbortReason) -> None:
        """What the source says when it keeps the machine."""
        abandoned = ev.MigrationAbandoned(reason=reason)
        await self.write(Lane.SOURCE, source, migration, abandoned)

    async def claimed_by(self, machine: str) -> str:
        """The migration that has claimed the machine; empty if none."""
        stored = await self.log.last(subjects.claim(machine))
        return "" if stored is None else register.decode_claim(stored.data).migration

    async def wait_claim_free(self, machine: str) -> None:
        """The claim is freed after the end was written."""
        async with asyncio.timeout(EVENT_S_MAX):
            arrivals = self.log.tail([subjects.claim(machine)])
            async for stored in arrivals:
                if register.decode_claim(stored.data).migration == "":
                    break
            await arrivals.aclose()

    async def wait_ledger(
        self, host: str, kind: ledger.EntryKind, reservation: str
    ) -> ledger.HostPicture:
        """Wait for a line of a host's ledger; returns the picture after it."""
        picture = ledger.HostPicture(host=host)
        async with asyncio.timeout(EVENT_S_MAX):
            arrivals = self.log.tail([subjects.ledger(host)])
            async for stored in arrivals:
                entry = ledger.decode_entry(stored.data)
                picture = ledger.apply(picture, entry, stored.sequence)
                if entry.kind is kind and entry.reservation == reservation:
                    break
            await arrivals.aclose()
        return picture


def _unlinked(gpu: mev.GpuInventory) -> mev.GpuInventory:
    assert gpu.facts is not None
    facts = msgspec.structs.replace(gpu.facts, nvlink=Setting.OFF)
    return msgspec.structs.replace(gpu, nvlink_peers=(), facts=facts)


def source_inbox(host: str, scope: Scope, lane: Lane, kind: type[Event]) -> str:
    """Where a decision for a source waits."""
    return _inbox(host, Service.SOURCE_HOST, scope, lane, kind)


def destination_inbox(host: str, scope: Scope, lane: Lane, kind: type[Event]) -> str:
    """Where a decision for a destination waits."""
    return _inbox(host, Service.DESTINATION_HOST, scope, lane, kind)


def _inbox(host: str, service: Service, scope: Scope, lane: Lane, kind: type[Event]) -> str:
    return subjects.addressed(host, service, scope.kind, scope.id, lane, kind.TYPE)


def _spec(name: str, profiles: Sequence[str]) -> MachineSpec:
    vgpus = tuple(VGpuSpec(item, CATALOGUE.profiles[item].framebuffer_bytes) for item in profiles)
    return MachineSpec(name=name, guest="module:Guest", ram_bytes=4096, vgpus=vgpus)
