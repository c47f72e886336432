"""The tracker's pictures in figures, by model."""

from __future__ import annotations

import msgspec
import pytest

from godwit.catalogue.loading import load
from godwit.metrics import definitions as metrics
from godwit.metrics.definitions import Metric
from godwit.metrics.figures import Figures
from godwit.metrics.gpus import Gpus
from godwit_protocol import ledger
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.reservation import Placement
from godwit_protocol.ledger import EntryKind, HostPicture, LedgerEntry

CATALOGUE = load(None)
MODEL = "H100-80GB"
MEMORY = CATALOGUE.models[MODEL].memory_bytes
PROFILE = CATALOGUE.profile("1g.10gb")


def inventory(index: int, *, simulated: bool = True) -> GpuInventory:
    return GpuInventory(index=index, model=MODEL, memory_bytes=MEMORY, simulated=simulated)


def seated(picture: HostPicture, name: str, start: int, *, gpu: int = 0) -> HostPicture:
    placed = Placement(
        gpu=gpu,
        profile=PROFILE.name,
        framebuffer_bytes=PROFILE.framebuffer_bytes,
        mode=GpuMode.MIG,
        start=start,
        slots=1,
    )
    held = LedgerEntry(
        kind=EntryKind.HELD, reservation=name, machine=name, host="host-1", placements=(placed,)
    )
    return ledger.apply(picture, held, picture.sequence + 1)


def value(pictures: dict[str, HostPicture], metric: Metric, *labels: str) -> float:
    figures = Figures()
    figures.ask(Gpus(lambda: pictures, CATALOGUE).read)
    return figures.read()[metric][labels]


@pytest.fixture
def picture() -> HostPicture:
    return HostPicture(host="host-1", announced=True, gpus=(inventory(0), inventory(1)))


def test_memory_is_held_by_machines_or_for_them(picture: HostPicture) -> None:
    picture = seated(seated(picture, "m1", 0), "m2", 1)
    confirmed = LedgerEntry(kind=EntryKind.CONFIRMED, reservation="m1", machine="m1", host="host-1")
    pictures = {"host-1": ledger.apply(picture, confirmed, 3)}
    assert value(pictures, metrics.GPUS, MODEL, "true") == 2
    assert value(pictures, metrics.GPU_MEMORY_BYTES, MODEL) == 2 * MEMORY
    one = PROFILE.framebuffer_bytes
    assert value(pictures, metrics.GPU_HELD_BYTES, MODEL, "consumed") == one
    assert value(pictures, metrics.GPU_HELD_BYTES, MODEL, "reserved") == one
    assert value(pictures, metrics.GPU_OCCUPANCY, MODEL) == pytest.approx(one / MEMORY)


def test_a_gpu_in_pieces_is_fragmented_and_a_well_packed_one_is_not(picture: HostPicture) -> None:
    packed = seated(seated(picture, "m1", 0), "m2", 1)
    scattered = seated(seated(picture, "m1", 0), "m2", 4)
    assert value({"host-1": picture}, metrics.GPU_FRAGMENTATION, MODEL) == 0
    well = value({"host-1": packed}, metrics.GPU_FRAGMENTATION, MODEL)
    badly = value({"host-1": scattered}, metrics.GPU_FRAGMENTATION, MODEL)
    assert 0 <= well < badly < 0.5, "the mean over two GPUs, one of them empty"


def test_real_and_simulated_ones_and_hosts_are_added_up(picture: HostPicture) -> None:
    real = HostPicture(host="host-2", announced=True, gpus=(inventory(0, simulated=False),))
    pictures = {"host-1": picture, "host-2": real}
    assert value(pictures, metrics.GPUS, MODEL, "false") == 1
    assert value(pictures, metrics.GPUS, MODEL, "true") == 2
    assert value(pictures, metrics.GPU_MEMORY_BYTES, MODEL) == 3 * MEMORY


def test_a_host_that_changes_is_counted_anew(picture: HostPicture) -> None:
    pictures, figures = {"host-1": picture}, Figures()
    figures.ask(Gpus(lambda: pictures, CATALOGUE).read)
    assert figures.read()[metrics.GPU_HELD_BYTES][MODEL, "reserved"] == 0
    pictures["host-1"] = seated(picture, "m1", 0)
    assert figures.read()[metrics.GPU_HELD_BYTES][MODEL, "reserved"] > 0
    fewer = msgspec.structs.replace(picture, gpus=picture.gpus[:1])
    pictures["host-1"] = fewer
    assert figures.read()[metrics.GPUS][MODEL, "true"] == 1
