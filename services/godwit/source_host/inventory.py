"""What the host has: looked at, announced, and announced again when it has changed.

The announcement is one subject, written by compare-and-set: what an earlier life of this service
sent, and the log got late, cannot come after what this one says. Health goes to telemetry, which
nobody relies on. Decides nothing by what it sees.
"""

from __future__ import annotations

import asyncio
import os
import platform
from typing import Final

import msgspec
import structlog

from godwit.gpus.port import GpuSource
from godwit.host.context import HostContext
from godwit.runtime.event_log import AppendConflictError
from godwit.runtime.lane import LaneWriter, Scope, position_after
from godwit_protocol import codec, subjects
from godwit_protocol.errors import ConflictError, CorruptError, GodwitError, UnreachableError
from godwit_protocol.events import Lane
from godwit_protocol.events.machine import HostAnnounced
from godwit_protocol.facts import HostFacts, HostTelemetry, NvmlVerdict
from godwit_protocol.link import LINK_VERSION
from godwit_protocol.machine import HypervisorKind

LOOK_S: Final = 5.0
JUDGE_S: Final = 60.0
"""How often NVML is asked about the GPUs of other hosts."""
ATTEMPTS_MAX: Final = 10
"""Each lost attempt means that a line of an earlier life of this service has arrived late."""
FREE_MEMORY_PARTS: Final = 16
"""Free memory is announced again once it has changed by such a part of all memory."""

_log: Final = structlog.get_logger(__name__)


class Inventory:
    """One host's. Used by one task."""

    def __init__(self, host: HostContext, gpus: GpuSource) -> None:
        self._host = host
        self._gpus = gpus
        self._missing = tuple(host.hypervisor.missing())
        self._features = tuple(host.hypervisor.features())
        self._memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._verdicts: tuple[NvmlVerdict, ...] = ()
        self._announced: HostAnnounced | None = None
        for lack in self._missing:
            _log.error("host_lacks", what=lack)

    async def announce(self) -> None:
        """Look, and announce what is there; if the log does not take it, ``follow`` tries again."""
        await self._say_if_possible(await self._look())

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        judge_in_s = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            judge_in_s -= LOOK_S
            if not self._gpus.simulated and judge_in_s <= 0:
                judge_in_s = JUDGE_S
                await self._judge()
            found = await self._look()
            if self._announced is None or differ(self._announced, found):
                await self._say_if_possible(found)

    async def _look(self) -> HostAnnounced:
        host, config = self._host, self._host.config
        seen = await self._gpus.look()
        if seen.telemetry:
            health = HostTelemetry(wall_ns=host.clock.wall_ns(), gpus=seen.telemetry)
            subject = subjects.telemetry("host", host.name, "gpus")
            await host.log.announce(subject, msgspec.msgpack.encode(health))
        return HostAnnounced(
            hypervisors=() if self._missing else (HypervisorKind.NATIVE,),
            missing=self._missing,
            memory_bytes=self._memory_bytes,
            kernel=platform.release(),
            gpus=seen.gpus,
            signing_key=b"" if host.signer is None else host.signer.public_key,
            facts=HostFacts(
                free_memory_bytes=host.hypervisor.free_memory_bytes(),
                kernel_features=self._features,
                hypervisor_versions={HypervisorKind.NATIVE: host.hypervisor.version},
                link_address=config.link_host,
                link_version=LINK_VERSION,
                driver=seen.driver,
                unreadable_gpus=seen.unreadable,
                nvml_verdicts=self._verdicts,
            ),
        )

    async def _say_if_possible(self, found: HostAnnounced) -> None:
        try:
            await self._say(found)
        except GodwitError as error:  # a log that is silent or full ends no host's service
            _log.warning("not_announced", error=error.message)

    async def _say(self, found: HostAnnounced) -> None:
        scope = Scope.of_host(self._host.name)
        for _ in range(ATTEMPTS_MAX):
            last = await self._host.log.last(subjects.inventory(self._host.name))
            past = () if last is None else (last.data,)
            position = position_after(Lane.SOURCE, self._host.name, past)
            writer = LaneWriter(self._host.clock, Lane.SOURCE, self._host.name, scope, position)
            sealed = writer.seal(found)
            try:
                expected = 0 if last is None else last.sequence
                await sealed.append_to(self._host.log, expected_last_sequence=expected)
            except AppendConflictError:
                continue
            self._announced = found
            return
        raise ConflictError(f"the inventory of host {self._host.name} changes all the time")

    async def _judge(self) -> None:
        """Ask NVML about every GPU that any host has announced."""
        try:
            self._verdicts = await self._gpus.judge(await self._metadata())
        except UnreachableError as error:
            _log.warning("not_judged", error=error.message)

    async def _metadata(self) -> tuple[bytes, ...]:
        found: dict[str, tuple[bytes, ...]] = {}
        async for stored in self._host.log.read([subjects.inventory("*")]):
            try:
                event = codec.decode(stored.data, stored.sequence).event
            except CorruptError:
                continue
            if isinstance(event, HostAnnounced):
                facts = [gpu.facts for gpu in event.gpus if gpu.facts is not None]
                found[stored.subject] = tuple(item.metadata for item in facts if item.metadata)
        return tuple(dict.fromkeys(item for metadata in found.values() for item in metadata))


def differ(said: HostAnnounced, found: HostAnnounced) -> bool:
    """Whether anything has changed that others go by. Free memory changes all the time."""
    before, after = _free(said), _free(found)
    if _without_free(said) != _without_free(found) or (before is None) != (after is None):
        return True
    if before is None or after is None:
        return False
    return abs(before - after) * FREE_MEMORY_PARTS >= found.memory_bytes


def _free(announced: HostAnnounced) -> int | None:
    return None if announced.facts is None else announced.facts.free_memory_bytes


def _without_free(announced: HostAnnounced) -> HostAnnounced:
    assert announced.facts is not None
    facts = msgspec.structs.replace(announced.facts, free_memory_bytes=None)
    return msgspec.structs.replace(announced, facts=facts)
