"""A line of a ledger that cannot be read says nothing; it closes the ledger to nobody."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from godwit.coordinator.compatibility import gather
from godwit.coordinator.links import not_looked_at
from godwit.pictures.hosts import BOOKS, Hosts
from godwit.runtime.lane import Scope
from godwit_protocol import ledger, subjects
from godwit_protocol.events import reservation as rev
from godwit_protocol.machine import MachineSpec, VGpuSpec

from .world import CATALOGUE, World

H100 = "H100-80GB"
PROFILE = "3g.40gb"


async def host_with_rubbish(world: World, of_host: str) -> str:
    """Its ledger ends with a line of ``of_host``, or with what is no line at all."""
    host = await world.host(H100)
    await world.machine(host, PROFILE)
    last = await world.log.last(subjects.ledger(host))
    assert last is not None
    held = ledger.decode_entry(last.data)
    line = replace(held, kind=ledger.EntryKind.HELD, reservation="another", host=of_host)
    rubbish = ledger.encode_entry(line) if of_host else b"rubbish"
    await world.log.append(subjects.ledger(host), rubbish, message_id=world.new_id())
    return host


@pytest.mark.parametrize("of_host", ["", "elsewhere"])
async def test_the_next_line_is_written_after_it(
    world: World, unique_name: str, of_host: str
) -> None:
    """It moves the ledger's end: who did not count it would lose each later write."""
    host = await host_with_rubbish(world, of_host)
    await world.ask_capacity(host, unique_name, PROFILE)
    async with world.watch(Scope.of_machine(unique_name)) as watch:
        assert len((await watch.until(rev.ReservationGranted)).placements) == 1


@pytest.mark.parametrize("of_host", ["", "elsewhere"])
async def test_a_move_there_can_be_judged(world: World, unique_name: str, of_host: str) -> None:
    host = await host_with_rubbish(world, of_host)
    vgpus = (VGpuSpec(PROFILE, CATALOGUE.profiles[PROFILE].framebuffer_bytes),)
    spec = MachineSpec(name=unique_name, guest="a:B", ram_bytes=4096, vgpus=vgpus)
    here = await world.host(H100)
    case = await gather(world.log, CATALOGUE, spec, here, host, not_looked_at)
    assert len(case.there.holdings) == 1


async def test_it_is_not_shown_of_the_host_that_it_names(world: World) -> None:
    named = await world.host(H100)
    await host_with_rubbish(world, named)
    hosts, _ = await Hosts.read(world.log, BOOKS)
    (picture,) = hosts.pictures(named)
    assert not picture.holdings
