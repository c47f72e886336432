"""GPUs as they are drawn: slots to scale, groups, and what the driver told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from godwit.catalogue.loading import SHIPPED, CatalogueFileError, load
from godwit.cli import gpus
from godwit.cli.connection import find_catalogue
from godwit.cli.gpus import By, slots, width_of
from godwit.pictures.hosts import GpuPicture, Hosts, OnGpu
from godwit.runtime import jetstream_api as api
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import subjects
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.facts import GpuTelemetry
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


# Many of them.


def picture(
    host: str, *holds: OnGpu, model: str = "H100-80GB", told: GpuTelemetry | None = None
) -> GpuPicture:
    used = sum(item.framebuffer_bytes for item in holds)
    gpu = GpuInventory(index=0, model=model, memory_bytes=80, simulated=host != "real")
    return GpuPicture(
        host=host, gpu=gpu, free_bytes=80 - used, holds=holds, fragmentation=0.5, telemetry=told
    )


def half(profile: str = "4g.40gb") -> OnGpu:
    return msgspec.structs.replace(on_gpu(profile, GpuMode.MIG, 0, 4), framebuffer_bytes=40)


def test_many_gpus_are_shown_by_host() -> None:
    found = [picture(f"host-{number}") for number in range(65)]
    assert gpus.view_of(found[:64], load(), None).columns[0] == "HOST"
    assert len(gpus.view_of(found[:64], load(), None).rows) == 64
    grouped = gpus.view_of([*found, picture("host-0", half())], load(), None)
    assert grouped.columns[0] == "HOST"
    assert len(grouped.rows) == 65
    assert len(grouped.json) == 66
    (first, *_) = grouped.rows
    assert first[0] == "host-0"
    assert first[1] == "2"
    assert first[5:8] == ("1", "1", "50 %")
    assert first[-1] == "·▄"


def test_gpus_are_grouped_by_model() -> None:
    found = [picture("host-1"), picture("host-2", half()), picture("host-1", model="L40S-48GB")]
    rows = gpus.view_of(found, load(), By.MODEL).rows
    assert [row[:3] for row in rows] == [
        ("H100-80GB SIMULATED", "2", "2"),
        ("L40S-48GB SIMULATED", "1", "1"),
    ]
    assert rows[0][-1] == "1 ·  1 ▄"


def test_simulated_gpus_are_called_so_in_every_grouping() -> None:
    for by in By:
        view = gpus.view_of([picture("host-1"), picture("real")], load(), by)
        assert view.notes == ["1 GPU of 2 SIMULATED"]


@pytest.mark.parametrize(
    ("told", "load_text", "health"),
    [
        (None, "-", ""),
        (GpuTelemetry(gpu=0), "-", ""),
        (GpuTelemetry(gpu=0, utilisation_percent=37, memory_used_bytes=12 * 2**30,
                      temperature_celsius=61, xids=()), "37 % 12.0 GiB 61 °C", "ok"),
        (GpuTelemetry(gpu=0, temperature_celsius=61), "61 °C", ""),
        (GpuTelemetry(gpu=0, xids=(79, 79, 31), ecc_uncorrected=2), "-",
         "XID 79, XID 31, 2 ECC errors"),
        (GpuTelemetry(gpu=0, ecc_uncorrected=0), "-", "ok"),
    ],
)  # fmt: skip
def test_what_the_driver_told_is_shown(
    told: GpuTelemetry | None, load_text: str, health: str
) -> None:
    shown = picture("real", told=told)
    assert (gpus.load(shown), shown.health) == (load_text, health)
    (row,) = gpus.view_of([shown], load(), By.HOST).rows
    assert row[-2] == (health or "-")


def test_what_is_unknown_is_not_shown_as_a_number() -> None:
    unknown = msgspec.structs.replace(picture("real"), fragmentation=None)
    (row,) = gpus.view_of([unknown], load(), By.GPU).rows
    assert row[7] == "-"


async def test_hosts_are_shown_though_a_restarted_server_has_no_telemetry(
    own_log: NatsLog,
) -> None:
    """It is kept in memory, and nobody relies on it."""
    deleted = await own_log.ask_api(f"STREAM.DELETE.{subjects.TELEMETRY}", {}, api.Reply, 5.0)
    assert deleted.error is None
    hosts, lasts = await Hosts.read(own_log)
    assert set(lasts.values()) == {0}
    assert hosts.pictures() == []
