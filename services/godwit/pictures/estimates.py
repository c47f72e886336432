"""Estimates for people and programs: what a move would take, and how good the estimates were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from godwit_protocol import subjects
from godwit_protocol.estimation.forecast import Forecast, Lacking, Span
from godwit_protocol.events.estimate import EstimateCompared
from godwit_protocol.events.migration import Limits

from . import reading
from .figures import count, duration, milliseconds, rate, size
from .machines import MachinePicture, MachineState
from .narrative import reason

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog

HOSTS_NAMED_MAX: Final = 4
"""Of hosts that have an estimate in common, so many are named."""


class ComparedMove(msgspec.Struct, frozen=True):
    """A migration's estimate beside what it took."""

    migration: str
    machine: str
    compared: EstimateCompared

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        told, expected = self.compared, self.compared.estimate
        return {
            "id": self.migration,
            "machine": self.machine,
            "stun_ms": _milliseconds(expected.stun_ns) | {"actual": milliseconds(told.stun_ns)},
            "total_ms": _milliseconds(expected.total_ns) | {"actual": milliseconds(told.total_ns)},
            "rounds": _plain(expected.rounds) | {"actual": told.rounds},
            "bytes_sent": _plain(expected.sent_bytes) | {"actual": told.sent_bytes},
            "basis": expected.basis.value,
            "within": told.within,
        }


async def estimates_of(
    log: EventLog, machine: MachinePicture, limits: Limits | None = None
) -> Mapping[str, Forecast]:
    """What a move of a machine that runs would take, by destination: all other hosts.

    Raises ``UnreachableError``.
    """
    from godwit.estimation.reading import forecasts

    if machine.state not in {MachineState.RUNNING, MachineState.MIGRATING}:
        return {}
    destinations = [host for host in await reading.host_names(log) if host != machine.host]
    return await forecasts(log, machine.name, machine.host, destinations, limits or Limits())


async def compared_moves(log: EventLog) -> list[ComparedMove]:
    """Every completed migration that had an estimate, the oldest first.

    Raises ``UnreachableError``.
    """
    filters = (subjects.migration("*", "*", EstimateCompared.TYPE),)
    return [
        ComparedMove(recorded.envelope.migration, recorded.envelope.machine, recorded.event)
        async for recorded in reading.events(log, filters)
        if isinstance(recorded.event, EstimateCompared)
    ]


def forecast_lines(forecasts: Mapping[str, Forecast]) -> list[tuple[str, str]]:
    """A line for each destination; those that one line is true of share it."""
    hosts: dict[str, list[str]] = {}
    for host, found in forecasts.items():
        hosts.setdefault(forecast_text(found), []).append(host)
    return [(f"move to {_named(alike)}", text) for text, alike in hosts.items()]


def _named(hosts: Sequence[str]) -> str:
    if len(hosts) <= HOSTS_NAMED_MAX:
        return ", ".join(hosts)
    return f"{hosts[0]} and {len(hosts) - 1} other hosts"


def forecast_text(found: Forecast) -> str:
    """One line: median and bound of the stun, and the rest of the medians."""
    estimate = found.estimate
    if estimate is None:
        return f"not known: {_LACKING[found.lacking]}"
    text = (
        f"stun {duration(estimate.stun_ns.median)}, at most {duration(estimate.stun_ns.bound)};"
        f" {count(estimate.rounds.median, 'round')}, {size(estimate.sent_bytes.median)}"
        f" in {duration(estimate.total_ns.median)}"
        f" ({rate(estimate.bytes_per_second)}; {reason(estimate.basis)})"
    )
    share = estimate.converging
    return text if share == 1.0 else f"{text}; converges in {share:.0%} of the cases"


_LACKING: Final = {
    Lacking.NO_WINDOW: "the machine's writes have not been looked at yet; ask again in a minute",
    Lacking.NO_MOVE: "no migration has completed yet; move any machine once, and the link is known",
}


def forecast_json(destination: str, found: Forecast) -> dict[str, Any]:
    """The object that ``--json`` prints. ``lacking`` says why the rest is null."""
    estimate = found.estimate
    told: dict[str, Any] = {"destination": destination, "lacking": found.lacking.value}
    if estimate is None:
        return told | {"stun_ms": None, "total_ms": None, "rounds": None, "bytes_sent": None}
    return told | {
        "stun_ms": _milliseconds(estimate.stun_ns),
        "total_ms": _milliseconds(estimate.total_ns),
        "rounds": _plain(estimate.rounds),
        "bytes_sent": _plain(estimate.sent_bytes),
        "converging": round(estimate.converging, 3),
        "bytes_per_second": round(estimate.bytes_per_second),
        "dirty_bytes_per_second": round(estimate.dirty_bytes_per_second),
        "basis": estimate.basis.value,
        "windows": estimate.windows,
        "moves": estimate.moves,
    }


def _milliseconds(span: Span) -> dict[str, float]:
    return {"median": milliseconds(span.median), "bound": milliseconds(span.bound)}


def _plain(span: Span) -> dict[str, int]:
    return {"median": span.median, "bound": span.bound}
