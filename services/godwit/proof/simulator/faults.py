"""What can go wrong, how often in one run, and the dice. Knows nothing of what it happens to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final


class Fault(StrEnum):
    """One kind of trouble."""

    SERVICE_CRASH = "service killed"
    CRASH_AT_STEP = "service killed at a step"
    TORN_WRITE = "killed in the middle of a write"
    SERVICE_STOPPED = "service stopped for seconds"
    VMM_KILLED = "VMM killed"
    VMM_DIES_AT_STEP = "VMM killed at a command"
    POWER_LOST = "host lost its power"
    POWER_LOST_AT_STEP = "host lost its power at a step"
    FENCED = "host fenced"
    LOG_DOWN = "log without a leader"
    LOG_CUT = "a service's log connection cut"
    LOG_HALF_CUT = "a service's log connection cut one way"
    LOG_REQUEST_LOST = "append or read lost"
    LOG_ANSWER_LOST = "acknowledgement lost"
    LOG_REQUEST_LATE = "append late by seconds"
    LOG_REQUEST_TWICE = "append arrives twice"
    LOG_WRITE_LOST = "acknowledged register write lost"
    LOG_DELIVERY_LATE = "delivery late"
    LINK_RESET = "link reset"
    LINK_CUT = "link cut"
    LINK_HALF_CUT = "link cut one way"
    LINK_SLOW = "link message late"
    DISK_SLOW = "slow disk write"
    DISK_FULL = "disk full"
    MEMORY_REFUSED = "memory refused"
    CLOCK_JUMP = "wall clock jumped"


AT_TIMES: Final = {
    Fault.SERVICE_CRASH: 4.0,
    Fault.SERVICE_STOPPED: 8.0,
    Fault.VMM_KILLED: 5.0,
    Fault.POWER_LOST: 8.0,
    Fault.LOG_DOWN: 12.0,
    Fault.LOG_CUT: 8.0,
    Fault.LOG_HALF_CUT: 8.0,
    Fault.LINK_RESET: 0.5,
    Fault.LINK_CUT: 8.0,
    Fault.LINK_HALF_CUT: 8.0,
    Fault.DISK_FULL: 15.0,
    Fault.CLOCK_JUMP: 8.0,
}
"""Faults that strike from outside: mean virtual seconds between two, where the run has them."""

AT_CALLS: Final = {
    Fault.CRASH_AT_STEP: 0.002,
    Fault.TORN_WRITE: 0.01,
    Fault.LOG_REQUEST_LOST: 0.01,
    Fault.LOG_ANSWER_LOST: 0.01,
    Fault.LOG_REQUEST_LATE: 0.004,
    Fault.LOG_REQUEST_TWICE: 0.01,
    Fault.LOG_WRITE_LOST: 0.5,
    Fault.LOG_DELIVERY_LATE: 0.02,
    Fault.LINK_SLOW: 0.02,
    Fault.DISK_SLOW: 0.02,
    Fault.VMM_DIES_AT_STEP: 0.02,
    Fault.POWER_LOST_AT_STEP: 0.008,
    Fault.MEMORY_REFUSED: 0.05,
}
"""Faults that strike a call: their probability for each, where the run has them."""


HARSH: Final = frozenset(
    {
        Fault.CRASH_AT_STEP,
        Fault.TORN_WRITE,
        Fault.LOG_ANSWER_LOST,
        Fault.LOG_REQUEST_LATE,
    }
)
HARSH_FACTOR: Final = 7
"""How much more often these strike in a harsh run."""


DEATHS: Final = frozenset(
    {Fault.VMM_KILLED, Fault.VMM_DIES_AT_STEP, Fault.POWER_LOST, Fault.POWER_LOST_AT_STEP}
)
LOSSES: Final = frozenset({Fault.LOG_WRITE_LOST})
DISASTERS: Final = (frozenset[Fault](), frozenset[Fault](), DEATHS, LOSSES)
"""What a run may have of each. What destroys a witness is never together with what silences
another: the protocol does not claim to survive both, and the model checker shows that it cannot.
"""


@dataclass
class Weather:
    """The faults of one run. Half of the kinds are absent from any one run, so that each is also
    seen alone.
    """

    dice: Random
    is_harsh: bool = False
    injected: Counter[Fault] = field(default_factory=Counter)
    raging: bool = False
    """Faults strike only while it does."""
    _chances: dict[Fault, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        severity = self.dice.choice((0.0, 0.3, 1.0, 1.0, 2.0))
        disasters = self.dice.choice(DISASTERS)
        self.has_deaths = disasters is DEATHS
        for fault, chance in AT_CALLS.items():
            factor = HARSH_FACTOR if self.is_harsh and fault in HARSH else 1
            is_here = self.dice.choice((0, 1)) and _can_be(fault, disasters)
            self._chances[fault] = chance * factor * severity * is_here
        self.periods_s: dict[Fault, float] = {
            fault: mean_s / severity
            for fault, mean_s in AT_TIMES.items()
            if severity and self.dice.random() < 0.5 and _can_be(fault, disasters)
        }

    def can(self, fault: Fault) -> bool:
        """Whether this run has the fault at all."""
        return bool(self._chances[fault])

    def strikes(self, fault: Fault) -> bool:
        """Whether ``fault`` strikes this call; it is counted if so."""
        chance = self._chances[fault]
        if not chance or not self.raging or self.dice.random() >= chance:
            return False
        self.injected[fault] += 1
        return True


def _can_be(fault: Fault, disasters: frozenset[Fault]) -> bool:
    return fault in disasters or fault not in DEATHS | LOSSES
