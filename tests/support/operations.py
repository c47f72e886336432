"""What an operator does and looks at, by the same code as the command line, and what must hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from godwit.cli.guest_client import GuestClient
from godwit.cli.machine import make_spec, start_machine, stop_machine
from godwit.cli.migration import request_migration
from godwit.cli.progress import SilentDisplay, follow
from godwit.host.registers import Registers
from godwit.hypervisor.native.driver import NativeHypervisor
from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import codec, ledger, subjects
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.events import Event
from godwit_protocol.events.migration import Limits, Verify
from godwit_protocol.machine import DEFAULT_TENANT
from godwit_protocol.projections import MigrationSummary
from godwit_protocol.register import RegisterRecord

E = TypeVar("E", bound=Event)

EVENT_S_MAX = 60.0
NO_CONVERGENCE = Limits(stun_limit_ns=1_000, rounds_max=4_000, stalled_rounds_max=4_000)
"""A stun limit that nothing meets, and no end to the rounds: pre-copy goes on until it is ended."""


class Operations:
    """A cluster, as an operator uses it."""

    def __init__(self, cluster: Cluster, log: NatsLog) -> None:
        self.cluster = cluster
        self.log = log
        self.registers = Registers(log)

    async def start(
        self,
        name: str,
        guest: str,
        host: str = "host-1",
        *,
        ram: str = "16MiB",
        vgpus: Sequence[str] = (),
        env: Sequence[str] = (),
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        spec = make_spec(name, guest, ram=ram, vgpus=tuple(vgpus), env=tuple(env), tenant=tenant)
        await start_machine(self.log, spec, host)

    async def stop(self, name: str) -> None:
        await stop_machine(self.log, name)

    async def request(
        self, name: str, to: str, limits: Limits | None = None, verify: Verify = Verify.WIRE
    ) -> str:
        # Tests ask for stuns that cannot be met, and after stuns in which something was killed.
        warn = AdmissionPolicy.WARN
        return await request_migration(self.log, name, to, limits or Limits(), verify, warn)

    async def ended(self, migration: str) -> MigrationSummary:
        return await follow(self.log, migration, SilentDisplay(), wait_s=EVENT_S_MAX)

    async def migrate(
        self, name: str, to: str, limits: Limits | None = None, verify: Verify = Verify.WIRE
    ) -> MigrationSummary:
        return await self.ended(await self.request(name, to, limits, verify))

    async def event(self, migration: str, kind: type[E], count: int = 1) -> E:
        """Wait for the ``count``-th event of a kind."""
        return await self._event(subjects.whole_migration(migration), kind, count)

    async def event_of_machine(self, name: str, kind: type[E]) -> E:
        """Wait for the first event of a kind in a machine's life."""
        return await self._event(subjects.whole_machine(name), kind, 1)

    async def _event(self, filters: Sequence[str], kind: type[E], count: int) -> E:
        async with asyncio.timeout(EVENT_S_MAX):
            async for stored in self.log.tail(filters):
                event = codec.decode(stored.data, stored.sequence).event
                count -= isinstance(event, kind)
                if count == 0:
                    assert isinstance(event, kind)
                    return event
        raise AssertionError("a tail has no end")

    async def types(self, migration: str) -> list[str]:
        return [
            codec.decode(stored.data).envelope.type
            async for stored in self.log.read(subjects.whole_migration(migration))
        ]

    @asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[GuestClient]:
        async with GuestClient(self.log, name) as client:
            yield client

    async def ask(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        async with GuestClient(self.log, name) as client:
            reply = json.loads(await client.ask(json.dumps(request).encode()))
        assert isinstance(reply, dict)
        assert "error" not in reply, reply
        return reply

    async def record(self, name: str) -> RegisterRecord:
        record = (await self.registers.read(name)).record
        assert record is not None
        return record

    async def reservations(self, host: str) -> set[str]:
        """Ids of the reservations that stand on a host."""
        picture = ledger.HostPicture(host=host)
        async for stored in self.log.read([subjects.ledger(host)]):
            picture = ledger.apply(picture, ledger.decode_entry(stored.data), stored.sequence)
        return set(picture.holdings)

    async def machines_on(self, host: str) -> set[str]:
        """Machines that have a live VMM on a host, whoever owns them."""
        hypervisor = NativeHypervisor(self._host_directory(host), self.cluster.nats_url)
        return {vmm.name for vmm in await hypervisor.find_all()}

    def journals(self, host: str) -> list[Path]:
        return list(self._host_directory(host).glob("journals/*/*.journal"))

    def hypervisor(self, host: str) -> NativeHypervisor:
        return NativeHypervisor(self._host_directory(host), self.cluster.nats_url)

    def _host_directory(self, host: str) -> Path:
        return self.cluster.directory / "hosts" / host
