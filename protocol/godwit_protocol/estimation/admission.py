"""Whether a migration's stun limit lets it begin: its estimate's bound must keep it. Pure.

A limit that the estimate cannot be compared with refuses nothing: a machine that was started a
second ago has no history, and must be movable. That is said, and the live source's own decisions
keep the limit anyway.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from ..quantities import format_duration_ns
from .forecast import Basis, Forecast, Lacking


class AdmissionPolicy(StrEnum):
    """What becomes of a move whose bound is over its stun limit."""

    REFUSE = "refuse"
    """It does not begin."""
    WARN = "warn"
    """It begins, and its events say so."""


class Admission(StrEnum):
    """What was decided of one move."""

    ADMITTED = "admitted"
    WARNED = "warned"
    REFUSED = "refused"
    NOT_ESTIMATED = "not_estimated"


class AdmissionVerdict(msgspec.Struct, frozen=True):
    """A decision, and its reason in words."""

    admission: Admission
    message: str


_LACKING: Final = {
    Lacking.NO_WINDOW: "what the machine writes has not been sampled yet",
    Lacking.NO_MOVE: "no migration has completed yet, so that no link's rate is known",
}
_BASES: Final = {
    Basis.OWN_MOVES: "its own moves over this link",
    Basis.SAME_LINK: "moves over this link",
    Basis.OTHER_LINKS: "moves over other links",
}


def admit(given: Forecast, stun_limit_ns: int, policy: AdmissionPolicy) -> AdmissionVerdict:
    """Decide whether a move with this forecast may begin."""
    estimate = given.estimate
    if estimate is None:
        return AdmissionVerdict(Admission.NOT_ESTIMATED, f"no estimate: {_LACKING[given.lacking]}")
    told = (
        f"the stun is estimated at {_ms(estimate.stun_ns.median)}, at most"
        f" {_ms(estimate.stun_ns.bound)} in 95 of 100 moves"
        f" ({estimate.bytes_per_second * 8e-9:.2f} Gbit/s, from {_BASES[estimate.basis]})"
    )
    if estimate.stun_ns.bound <= stun_limit_ns:
        return AdmissionVerdict(Admission.ADMITTED, told)
    refused = policy is AdmissionPolicy.REFUSE
    admission = Admission.REFUSED if refused else Admission.WARNED
    return AdmissionVerdict(admission, f"{told}; the limit is {format_duration_ns(stun_limit_ns)}")


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:.1f} ms"
