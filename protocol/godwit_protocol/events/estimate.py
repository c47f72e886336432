"""Events of estimates: what was expected of a migration, and what came of it."""

from __future__ import annotations

from typing import ClassVar

from ..estimation.admission import Admission
from ..estimation.forecast import Estimate, Lacking
from .envelope import Event


class EstimateMade(Event, frozen=True, kw_only=True):
    """What the migration was expected to take when it was asked for, and whether it may begin.

    Without an ``estimate``, ``lacking`` says what was not known.
    """

    TYPE: ClassVar[str] = "estimate_made"
    source: str
    destination: str
    stun_limit_ns: int
    admission: Admission
    message: str
    estimate: Estimate | None = None
    lacking: Lacking = Lacking.NOTHING


class EstimateCompared(Event, frozen=True, kw_only=True):
    """The migration completed: its estimate beside what it took. ``within``: the stun kept the
    bound. Times in nanoseconds.
    """

    TYPE: ClassVar[str] = "estimate_compared"
    estimate: Estimate
    stun_ns: int
    total_ns: int
    rounds: int
    sent_bytes: int
    within: bool
