"""``godwit estimate``: a move at a size that is not here, on paper. Asks no cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from godwit.pictures.figures import duration, milliseconds, rate, size
from godwit.pictures.narrative import reason
from godwit_protocol.convergence import Decision
from godwit_protocol.errors import InvalidInputError
from godwit_protocol.estimation.scenarios import (
    VSPHERE_SHARE,
    Calibration,
    Scenario,
    Workload,
    play_scenario,
    stop_and_copy,
)
from godwit_protocol.events.migration import Limits
from godwit_protocol.pacing import parse_bandwidth
from godwit_protocol.quantities import parse_duration_ns, parse_rate

from . import output
from .connection import JsonOption, find_catalogue
from .migration_options import BandwidthOption, SlowMaxOption, StunLimitOption

if TYPE_CHECKING:
    from godwit_protocol.catalogue import Catalogue, GpuModel
    from godwit_protocol.estimation.rounds import Played

_MACHINE: Final = re.compile(r"(?P<gpu>.+?)(?:x(?P<count>\d{1,3}))?", re.ASCII)
_SHARES: Final = ((VSPHERE_SHARE, "stop-and-copy at 0.69 of the link"), (1.0, "at its line rate"))


def estimate(
    model: Annotated[
        str, typer.Option(metavar="GPU[xN]", help="The machine's GPUs, such as h100 or h100x8.")
    ],
    link: Annotated[str, typer.Option(metavar="RATE", help="The link's line rate: 100Gbit.")],
    workload: Annotated[Workload, typer.Option(help="What the guest does meanwhile.")],
    stun_limit: StunLimitOption = "500ms",
    slow_max: SlowMaxOption = 80,
    bandwidth: BandwidthOption = "none",
    link_share: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="How much of the line rate is pages of the machine."),
    ] = Calibration().link_share,
    as_json: JsonOption = False,
) -> None:
    """Say what a move would take that nobody can try here: SIMULATED, on paper.

    The rounds are decided by the core that decides in a live source. How workloads write, and what
    else is assumed, is in docs/estimates.md.
    """
    scenario = _scenario(find_catalogue(), model, parse_rate(link), workload)
    limits = Limits(
        stun_limit_ns=parse_duration_ns(stun_limit),
        slow_percent_max=slow_max,
        bandwidth_bytes_per_second=parse_bandwidth(bandwidth),
    )
    played = play_scenario(scenario, limits, Calibration(link_share=link_share))
    if as_json:
        output.print_json(_json(scenario, played))
    else:
        output.print_facts(_facts(scenario, played))


def _scenario(
    catalogue: Catalogue, text: str, link_bytes_per_second: int, workload: Workload
) -> Scenario:
    """Raises ``InvalidInputError`` listing the models that there are."""
    parts = _MACHINE.fullmatch(text)
    gpu = _gpu(catalogue, parts["gpu"] if parts else text)
    return Scenario(
        gpus=int(parts["count"] or 1) if parts else 1,
        gpu_bytes=gpu.memory_bytes,
        link_bytes_per_second=link_bytes_per_second,
        workload=workload,
    ).checked()


def _gpu(catalogue: Catalogue, name: str) -> GpuModel:
    """By its whole name, or by the first word of it: then that with the least memory."""
    wanted = name.lower()
    models = sorted(catalogue.models.values(), key=lambda model: model.memory_bytes)
    by_name = {model.model.lower().partition("-")[0]: model for model in reversed(models)}
    by_name |= {model.model.lower(): model for model in models}
    if wanted in by_name:
        return by_name[wanted]
    known = ", ".join(model.model for model in models)
    raise InvalidInputError(f"no GPU model is called {name!r}", hint=f"models: {known}")


def _facts(scenario: Scenario, played: Played) -> Iterator[tuple[str, str]]:
    line = rate(scenario.link_bytes_per_second)
    gpus = f"{scenario.gpus} x {size(scenario.gpu_bytes)}"
    yield "SIMULATED", f"{gpus} of GPU memory over {line}, {scenario.workload.value}"
    if played.decision is Decision.STUN:
        yield "stun", duration(played.stun_ns)
        yield "in all", duration(played.total_ns)
    else:
        yield "given up", f"{reason(played.reason)}; a stun would take {duration(played.stun_ns)}"
        yield "after", duration(sum(done.duration_ns for done in played.rounds))
    yield "rounds", str(len(played.rounds))
    yield "sent", size(played.sent_bytes)
    for share, name in _SHARES:
        yield name, f"stun {duration(stop_and_copy(scenario, share).stun_ns)}"


def _json(scenario: Scenario, played: Played) -> dict[str, Any]:
    return {
        "simulated": True,
        "gpus": scenario.gpus,
        "gpu_bytes": scenario.gpu_bytes,
        "link_bytes_per_second": scenario.link_bytes_per_second,
        "workload": scenario.workload.value,
        "outcome": played.decision.value,
        "reason": played.reason.value,
        "stun_ms": milliseconds(played.stun_ns),
        "total_ms": milliseconds(played.total_ns),
        "rounds": len(played.rounds),
        "bytes_sent": played.sent_bytes,
        "stop_and_copy": [
            {"link_share": share, "stun_ms": milliseconds(stop_and_copy(scenario, share).stun_ns)}
            for share, _ in _SHARES
        ],
    }
