"""A GPU's slots, drawn to scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from godwit.catalogue.loading import SHIPPED, CatalogueFileError, load
from godwit.cli.connection import find_catalogue
from godwit.cli.gpus import slots, width_of
from godwit.cli.host_pictures import GpuPicture, OnGpu
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.ledger import EntryKind


def on_gpu(profile: str, mode: GpuMode, start: int, length: int) -> OnGpu:
    return OnGpu(
        machine="m",
        profile=profile,
        framebuffer_bytes=1,
        mode=mode,
        start=start,
        slots=length,
        state=EntryKind.HELD,
        reservation="r",
    )


def drawn(model: str, *holds: OnGpu) -> str:
    gpu = GpuInventory(index=0, model=model, memory_bytes=1, simulated=True)
    picture = GpuPicture(host="host-1", gpu=gpu, free_bytes=0, holds=holds)
    return slots(picture, width_of(picture, load()))


@pytest.mark.parametrize(
    ("model", "holds", "line"),
    [
        ("H100-80GB", [("3g.40gb", GpuMode.MIG, 4, 4), ("1g.10gb", GpuMode.MIG, 0, 1)],
         "bb······aaaaaaaa"),
        ("H100-80GB", [("H100XM-3-40C", GpuMode.MIG, 0, 4)], "aaaaaaaa········"),
        ("H100-80GB", [("H100XM-10C", GpuMode.MIXED, 2, 2)], "··aa············"),
        ("H100-80GB", [("H100XM-16C", GpuMode.EQUAL, 4, 1)], "············aaa"),
        ("H100-80GB", [("H100XM-4C", GpuMode.EQUAL, 19, 1)], "···················a"),
        ("L40S-48GB", [("L40S-24C", GpuMode.MIXED, 4, 4)], "········aaaaaaaa"),
        ("H100-80GB", [], "-"),
        ("H100-80GB", [("1g.10gb", GpuMode.NONE, -1, 0)], "-"),
        ("H999", [("1g.10gb", GpuMode.MIG, 0, 1)], "-"),
    ],
)  # fmt: skip
def test_slots_are_drawn_to_scale(
    model: str, holds: list[tuple[str, GpuMode, int, int]], line: str
) -> None:
    assert drawn(model, *(on_gpu(*item) for item in holds)) == line


def test_the_command_knows_a_sites_own_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.toml"
    text = (SHIPPED / "l40s-48gb.toml").read_text()
    file.write_text(text.replace('model = "L40S-48GB"', 'model = "L40S-OURS"'))
    monkeypatch.setenv("GODWIT_CATALOGUE", str(tmp_path))
    assert "L40S-OURS" in find_catalogue().models
    monkeypatch.setenv("GODWIT_CATALOGUE", str(tmp_path / "missing.toml"))
    with pytest.raises(CatalogueFileError, match=r"missing\.toml"):
        find_catalogue()
