"""``godwit estimate``: needs no cluster, and says that it is on paper."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Here

from godwit.pictures.figures import size
from godwit_protocol.errors import InvalidInputError
from godwit_protocol.estimation.scenarios import Calibration, Workload

OVER = ("--link", "100Gbit", "--workload")
PAGE = Path(__file__).parents[2] / "docs" / "estimates.md"
ONE = (Workload.IDLE, Workload.INFERENCE, Workload.KV_CACHE)


def test_eight_gpus_over_a_link(here: Here) -> None:
    told = here("estimate", "--model", "h100x8", *OVER, "inference")
    assert told.status == 0
    assert "SIMULATED" in told.out
    assert "8 x 80.0 GiB" in told.out
    assert "1.3 min" in told.out  # 640 GiB at 69 Gbit/s


def test_the_same_as_data(here: Here) -> None:
    found = json.loads(here("estimate", "--model", "H100-80GB", *OVER, "idle", "--json").out)
    assert (found["simulated"], found["gpus"], found["outcome"]) == (True, 1, "stun")
    assert found["stun_ms"] < found["total_ms"]
    assert [each["link_share"] for each in found["stop_and_copy"]] == [0.69, 1.0]


def test_the_first_word_of_a_model_is_that_with_the_least_memory(here: Here) -> None:
    found = json.loads(here("estimate", "--model", "a100", *OVER, "idle", "--json").out)
    assert found["gpu_bytes"] == 40 * 2**30


def test_what_is_given_up_says_why(here: Here) -> None:
    told = here("estimate", "--model", "h100", *OVER, "training")
    assert "stalled above limit" in told.out


def test_an_unknown_model_is_refused_with_those_there_are(here: Here) -> None:
    told = here("estimate", "--model", "b9000x8", *OVER, "idle")
    assert told.status == InvalidInputError.exit_code
    assert "H100-80GB" in told.err


def played(here: Here, model: str, workload: Workload) -> dict[str, Any]:
    told = here("estimate", "--model", model, *OVER, workload.value, "--json")
    found: dict[str, Any] = json.loads(told.out)
    return found


def whole(ms: float) -> str:
    return f"{ms / 1e3:.0f} s"


@pytest.mark.parametrize("workload", Workload)
def test_the_page_tells_of_eight_gpus_what_is_played(here: Here, workload: Workload) -> None:
    found = played(here, "h100x8", workload)
    if found["outcome"] == "stun":
        cells = [f"{found['stun_ms']:.0f} ms", whole(found["total_ms"]), size(found["bytes_sent"])]
    else:
        cells = [f"given up: a stun would take {whole(found['stun_ms'])}", "", ""]
    row = " | ".join([f"| {workload.value}", *cells]).replace("  ", " ").strip()
    assert f"\n{row} |" in PAGE.read_text()


def test_the_page_tells_of_stop_and_copy_what_is_played(here: Here) -> None:
    found = played(here, "h100x8", Workload.IDLE)
    for told, name in zip(
        found["stop_and_copy"],
        ("at 69 Gbit/s, as published of vMotion", "at line rate"),
        strict=True,
    ):
        took = whole(told["stun_ms"])
        row = f"| stop-and-copy {name} | {took} | {took} | {size(8 * found['gpu_bytes'])} |"
        assert row in PAGE.read_text()


def test_the_page_tells_of_one_gpu_what_is_played(here: Here) -> None:
    found = [played(here, "h100", workload) for workload in ONE]
    first, second, third = (f"{each['stun_ms']:.0f}" for each in found)
    totals = [each["total_ms"] for each in found]
    slow, fast = (whole(each["stun_ms"]) for each in found[0]["stop_and_copy"])
    assert (
        f"One H100 ({found[0]['gpu_bytes'] >> 30} GiB): {first}, {second} and {third} ms,"
        f" in {min(totals) / 1e3:.0f} to {whole(max(totals))}; stop-and-copy {slow} and {fast}."
    ) in PAGE.read_text()


def test_the_page_names_where_each_constant_is_from() -> None:
    """Those that are measured in its table, with their value; the others among what is assumed."""
    text, known = PAGE.read_text(), Calibration()
    told = dict(re.findall(r"^\| `(\w+)`[^|]*\| ([\d.]+)(?: ms)? \|", text, re.MULTILINE))
    assumed = f"{known.digest_bytes_per_second / 1e12:g} TB/s"
    assert assumed in text.partition("**Measured**")[0]
    values = {name: float(value) for name, value in told.items()}
    expected = {
        field.name: getattr(known, field.name) / (1e6 if field.name.endswith("_ns") else 1)
        for field in msgspec.structs.fields(Calibration)
        if field.name != "digest_bytes_per_second"
    }
    assert values == expected
