"""What a host announces, and when again: its real log, its GPUs played (synthetic)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import synthetic as nv

from godwit.catalogue.loading import load as load_catalogue
from godwit.gpus.library import Handle
from godwit.gpus.nvml import NvmlGpus
from godwit.gpus.port import GpuSource
from godwit.host.context import HostContext, open_host
from godwit.hypervisor.native import driver
from godwit.runtime.config import Service, load
from godwit.runtime.event_log import LogFullError
from godwit.runtime.health import Health
from godwit.runtime.lane import LaneWriter, Scope, position_after
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.service import ServiceContext
from godwit.source_host import inventory
from godwit.source_host.inventory import Inventory
from godwit_protocol import codec, subjects
from godwit_protocol.events import CHAIN_START, Lane, stored_hash
from godwit_protocol.events.machine import HostAnnounced
from godwit_protocol.facts import DeclaredFacts, GpuFacts, HostFacts, HostTelemetry, Setting
from godwit_protocol.link import LINK_VERSION
from godwit_protocol.stored import Stored
from nvml_player import Player, synthetic

SOON_S = 20.0
CATALOGUE = load_catalogue()
WAITS = f"nvmlEventSetWait({nv.EVENTS}, 0)"


@pytest_asyncio.fixture
async def host(log: NatsLog, unique_name: str, tmp_path: Path) -> AsyncIterator[HostContext]:
    environ = {
        "GODWIT_HOST": unique_name,
        "GODWIT_HOST_DIR": str(tmp_path),
        "GODWIT_LINK_HOST": "10.9.8.7",
    }
    config = load(Service.SOURCE_HOST, environ)
    async with asyncio.TaskGroup() as tasks:
        health = Health("source_host")
        context = ServiceContext(Service.SOURCE_HOST, config, tmp_path, log, health, tasks)
        async with open_host(context) as opened:
            yield opened


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, at memory that nobody else uses."""
    monkeypatch.setattr(inventory, "LOOK_S", 0.02)
    monkeypatch.setattr(driver, "available_bytes", lambda: 2**30)


def source(answers: Mapping[str, Any]) -> GpuSource:
    player = Player(synthetic(answers))
    return NvmlGpus(lambda: player, CATALOGUE, DeclaredFacts())


async def announcements(host: HostContext, count: int) -> list[tuple[Stored, HostAnnounced]]:
    """The host's first so many; more must not be needed."""
    found: list[tuple[Stored, HostAnnounced]] = []
    async with asyncio.timeout(SOON_S):
        async for stored in host.log.tail([subjects.inventory(host.name)]):
            event = codec.decode(stored.data).event
            assert isinstance(event, HostAnnounced)
            found.append((stored, event))
            if len(found) == count:
                return found
    raise AssertionError("a tail has no end")


def facts_of(announced: HostAnnounced) -> tuple[HostFacts, list[GpuFacts]]:
    assert announced.facts is not None
    return announced.facts, [gpu.facts for gpu in announced.gpus if gpu.facts is not None]


async def test_a_host_tells_what_it_is(host: HostContext) -> None:
    await Inventory(host, source(nv.host(nv.gpu(0)))).announce()
    ((_, announced),) = await announcements(host, 1)
    told, (gpu,) = facts_of(announced)
    assert told.kernel_features == ("memfd_holes", "populate", "dirty_tracking")
    assert told.hypervisor_versions.keys() == {"native"}
    assert (told.link_address, told.link_version) == ("10.9.8.7", LINK_VERSION)
    assert told.free_memory_bytes == 2**30
    assert told.driver == "570.124.06"
    assert gpu.ecc is Setting.ON


async def test_what_changes_is_announced_again_and_the_lane_is_a_chain(host: HostContext) -> None:
    answers = nv.host(nv.gpu(0), nv.gpu(1))
    xid = {"device": Handle(nv.device(1)), "eventType": 8, "eventData": 79}
    answers[WAITS] = (xid, nv.NOTHING_NEW)
    answers[nv.of("nvmlDeviceGetIndex", 1)] = 1
    named = nv.of("nvmlDeviceGetName", 0)
    answers[named] = (nv.H100, nv.H100, nv.LOST)
    follower = Inventory(host, source(answers))
    await follower.announce()
    following = asyncio.create_task(follower.follow())
    found = await announcements(host, 3)
    following.cancel()
    (_, whole), (_, with_xid), (_, with_loss) = found
    assert [gpu.xids for gpu in facts_of(whole)[1]] == [(), ()]
    assert [gpu.xids for gpu in facts_of(with_xid)[1]] == [(), (79,)]
    assert [gpu.index for gpu in with_loss.gpus] == [1]
    assert "GPU 0" in facts_of(with_loss)[0].unreadable_gpus[0]
    hashes = [CHAIN_START, *(stored_hash(stored.data) for stored, _ in found)]
    for number, (stored, _) in enumerate(found):
        envelope = codec.decode(stored.data).envelope
        assert (envelope.lane_sequence, envelope.prev_hash) == (number + 1, hashes[number])


async def test_a_full_log_ends_no_service_and_is_told_when_it_has_room(
    host: HostContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, append = Inventory(host, source(nv.host(nv.gpu(0)))), host.log.append
    refused = 3

    async def full(subject: str, data: bytes, **given: Any) -> int:
        nonlocal refused
        if refused:
            refused -= 1
            raise LogFullError("the event log is full")
        return await append(subject, data, **given)

    monkeypatch.setattr(host.log, "append", full)
    await seen.announce()
    following = asyncio.create_task(seen.follow())
    await announcements(host, 1)
    assert refused == 0
    following.cancel()


async def test_what_an_earlier_life_sent_late_stands_in_the_chain(host: HostContext) -> None:
    follower = Inventory(host, source(nv.host(nv.gpu(0))))
    await follower.announce()
    ((first, announced),) = await announcements(host, 1)
    position = position_after(Lane.SOURCE, host.name, [first.data])
    scope = Scope.of_host(host.name)
    late = LaneWriter(host.clock, Lane.SOURCE, host.name, scope, position).seal(announced)
    await host.log.append(late.subject, late.data, message_id=late.message_id)
    await follower.announce()
    found = [codec.decode(stored.data).envelope for stored, _ in await announcements(host, 3)]
    assert [envelope.lane_sequence for envelope in found] == [1, 2, 3]
    assert found[2].prev_hash == stored_hash(late.data)


async def test_only_free_memory_that_changes_much_is_announced_again(host: HostContext) -> None:
    def with_free(free: int) -> HostAnnounced:
        facts = msgspec.structs.replace(HostFacts(), free_memory_bytes=free)
        return HostAnnounced(
            hypervisors=(), missing=(), memory_bytes=1600, kernel="6", gpus=(), facts=facts
        )

    assert not inventory.differ(with_free(1000), with_free(1099))
    assert inventory.differ(with_free(1000), with_free(1100))
    assert inventory.differ(with_free(1000), with_free(900))


async def test_health_goes_to_telemetry(host: HostContext) -> None:
    follower = Inventory(host, source(nv.host(nv.gpu(0))))
    following = asyncio.create_task(follower.follow())
    subject = subjects.telemetry("host", host.name, "gpus")
    async with asyncio.timeout(SOON_S):
        async for _, data in host.log.listen([subject]):
            health = msgspec.msgpack.decode(data, type=HostTelemetry)
            break
    following.cancel()
    assert [gpu.temperature_celsius for gpu in health.gpus] == [41]


async def test_nvml_judges_the_gpus_of_every_host(host: HostContext) -> None:
    asked = f"nvmlGetVgpuCompatibility({nv.VGPU_METADATA.hex()}, {nv.PGPU_METADATA.hex()})"
    answers = nv.host(nv.with_vgpu(0))
    answers[asked] = {"vgpuVmCompatibility": 8, "compatibilityLimitCode": 0}
    follower = Inventory(host, source(answers))
    await follower.announce()
    following = asyncio.create_task(follower.follow())
    _, (_, judged) = await announcements(host, 2)
    following.cancel()
    (verdict,) = facts_of(judged)[0].nvml_verdicts
    assert (verdict.vgpu_type, verdict.states) == ("H100XM-20C", 8)
