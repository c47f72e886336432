"""The estimate: every window of a machine played over every sample of a link, and counted. Pure.

No chance is in it: the plays are all pairs of the newest windows and samples. Windows say how the
machine's writing varies, samples how the link and the switchover do. The median is that of the
plays; the bound is their 95th percentile, widened by 1/n for a history of n moves, which has seen
only the worst of n.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from math import ceil
from typing import Final

import msgspec

from ..convergence import Decision
from .history import DirtyWindow, LinkSample, middle
from .rounds import Curve, MoveLimits, play

WINDOWS_PLAYED_MAX: Final = 16
SAMPLES_PLAYED_MAX: Final = 32
"""More than 20: one move in which something was killed does not become the bound for ever."""
OWN_MOVES_MIN: Final = 3
"""A machine's own moves over a link tell more than another's, if there are so many of them."""
BOUND_QUANTILE: Final = 0.95


class Basis(StrEnum):
    """Whose moves an estimate was made from."""

    OWN_MOVES = "own_moves"
    """The same machine's over the same link."""
    SAME_LINK = "same_link"
    """Other machines' over the same link."""
    OTHER_LINKS = "other_links"
    """Nothing has been moved over this link yet: all links that touch one of the two hosts, or all
    there are."""


class Lacking(StrEnum):
    """Why there is no estimate."""

    NOTHING = ""
    NO_WINDOW = "no_window"
    """What the machine writes has not been looked at yet."""
    NO_MOVE = "no_move"
    """No migration has completed yet, so that no link's rate is known."""


class Span(msgspec.Struct, frozen=True):
    """A median and a bound that 95 of 100 moves are expected to keep."""

    median: int
    bound: int


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration would take. ``converging`` is the share of the plays that came to a stun;
    the stun of the others is what it would have taken when they were given up.
    """

    stun_ns: Span
    total_ns: Span
    rounds: Span
    sent_bytes: Span
    converging: float
    bytes_per_second: float
    dirty_bytes_per_second: float
    basis: Basis
    windows: int
    moves: int


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate, or why there is none."""

    estimate: Estimate | None = None
    lacking: Lacking = Lacking.NOTHING


def forecast(
    windows: Sequence[DirtyWindow],
    samples: Iterable[LinkSample],
    limits: MoveLimits,
    *,
    machine: str,
    source: str,
    destination: str,
) -> Forecast:
    """Estimate a move of ``machine`` from ``source`` to ``destination``.

    ``windows`` and ``samples``, those of all links, come with the oldest first.
    """
    each = forecasts(
        windows, samples, limits, machine=machine, source=source, destinations=(destination,)
    )
    return each[destination]


def forecasts(
    windows: Sequence[DirtyWindow],
    samples: Iterable[LinkSample],
    limits: MoveLimits,
    *,
    machine: str,
    source: str,
    destinations: Iterable[str],
) -> dict[str, Forecast]:
    """As ``forecast``, for each destination. Those that the same moves speak for share one."""
    known = _rated(tuple(samples))
    made: dict[tuple[tuple[LinkSample, ...], Basis], Forecast] = {}
    found: dict[str, Forecast] = {}
    for destination in destinations:
        chosen = _chosen(known, machine, source, destination)
        if chosen not in made:
            made[chosen] = _forecast(windows, *chosen, limits)
        found[destination] = made[chosen]
    return found


def _forecast(
    windows: Sequence[DirtyWindow],
    samples: Sequence[LinkSample],
    basis: Basis,
    limits: MoveLimits,
) -> Forecast:
    if not windows:
        return Forecast(lacking=Lacking.NO_WINDOW)
    if not samples:
        return Forecast(lacking=Lacking.NO_MOVE)
    return Forecast(estimate=_estimate(windows[-WINDOWS_PLAYED_MAX:], samples, limits, basis))


def _estimate(
    windows: Sequence[DirtyWindow], samples: Sequence[LinkSample], limits: MoveLimits, basis: Basis
) -> Estimate:
    curves = [Curve(window) for window in windows]
    plays = [play(curve, sample, limits) for curve in curves for sample in samples]
    moves = len(samples)
    return Estimate(
        stun_ns=_span([played.stun_ns for played in plays], moves),
        total_ns=_span([played.total_ns for played in plays], moves),
        rounds=_span([len(played.rounds) for played in plays], moves),
        sent_bytes=_span([played.sent_bytes for played in plays], moves),
        converging=sum(played.decision is Decision.STUN for played in plays) / len(plays),
        bytes_per_second=middle([sample.bytes_per_second for sample in samples]),
        dirty_bytes_per_second=middle([_rate(window) for window in windows]),
        basis=basis,
        windows=len(windows),
        moves=moves,
    )


def _rated(samples: Sequence[LinkSample]) -> Sequence[LinkSample]:
    """Those of small moves with the rate that larger ones found over their link, or over any; or
    else with the best that any of them did.
    """
    telling = [sample for sample in samples if sample.tells_rate]
    best = [max((sample.bytes_per_second for sample in samples), default=0.0)]

    def rated(sample: LinkSample) -> LinkSample:
        link = (sample.source, sample.destination)
        same = [s.bytes_per_second for s in telling if (s.source, s.destination) == link]
        rate = middle(same or [s.bytes_per_second for s in telling] or best)
        least = max(sample.bytes_per_second, rate)
        return msgspec.structs.replace(sample, bytes_per_second=least)

    return [sample if sample.tells_rate else rated(sample) for sample in samples]


def _chosen(
    samples: Sequence[LinkSample], machine: str, source: str, destination: str
) -> tuple[tuple[LinkSample, ...], Basis]:
    same_link = [s for s in samples if (s.source, s.destination) == (source, destination)]
    own = [sample for sample in same_link if sample.machine == machine]
    if len(own) >= OWN_MOVES_MIN:
        return tuple(own[-SAMPLES_PLAYED_MAX:]), Basis.OWN_MOVES
    if same_link:
        return _of_links(same_link), Basis.SAME_LINK
    ends = {source, destination}
    near = [sample for sample in samples if ends & {sample.source, sample.destination}]
    return _of_links(near or samples), Basis.OTHER_LINKS


def _of_links(samples: Sequence[LinkSample]) -> tuple[LinkSample, ...]:
    """The newest, without what they say of the machines that were moved."""
    newest = samples[-SAMPLES_PLAYED_MAX:]
    return tuple(msgspec.structs.replace(sample, final_bytes=0) for sample in newest)


def _rate(window: DirtyWindow) -> float:
    return window.written_bytes[-1] / window.elapsed_ns[-1] * 1e9


def _span(values: Sequence[int], moves: int) -> Span:
    rank = ceil(BOUND_QUANTILE * len(values))  # so many plays do not exceed the bound
    bound = sorted(values)[rank - 1]
    return Span(middle(values), bound + ceil(bound / moves))
