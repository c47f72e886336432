"""Who decides when a round is played: the source's own core, or another's published rule. Pure.

Each takes a round's figures and gives the round with what was decided, as a source would write it.
"""

from __future__ import annotations

from typing import Protocol

from .. import convergence
from .. import register as reg
from ..convergence import Decision
from ..estimation import policies
from ..estimation.policies import Policy
from ..events import migration as ev
from ..roles import effects as fx
from ..roles import inputs as inp
from ..roles import source
from ..roles.source_state import Phase


class Decider(Protocol):
    """Decides round by round, as long as it goes on."""

    @property
    def goes_on(self) -> bool:
        """Whether it wants another round."""

    def at_round_end(self, figures: ev.RoundFigures) -> ev.RoundCompleted:
        """The round with its decision."""


def decider(
    policy: Policy,
    started: ev.MigrationStarted,
    begun: ev.PrecopyStarted,
    machine: str,
    migration: str,
) -> Decider:
    """Whoever decides by ``policy``, within the limits of ``started``."""
    if policy is Policy.GODWIT:
        return _Core(started, begun, machine, migration)
    return _Published(policy, started.limits)


class _Core:
    """The source, from the start of its pre-copy."""

    def __init__(
        self, started: ev.MigrationStarted, begun: ev.PrecopyStarted, machine: str, migration: str
    ) -> None:
        record = reg.RegisterRecord(
            value=reg.RegisterValue.STARTED,
            machine=machine,
            owner=started.source,
            epoch=started.register_epoch,
        )
        standing = reg.RegisterView(record, 1)
        state, _ = source.begin(started, machine, standing, migration=migration, now_ns=0)
        linked = inp.LinkUp(
            connections=begun.connections,
            resident_bytes=begun.resident_bytes,
            populate_ns=begun.populate_ns,
        )
        self._state, _ = source.step(state, linked, 0)

    @property
    def goes_on(self) -> bool:
        """As ``Decider``."""
        return self._state.phase is Phase.PRECOPYING

    def at_round_end(self, figures: ev.RoundFigures) -> ev.RoundCompleted:
        """As ``Decider``."""
        self._state, effects = source.step(self._state, inp.RoundDone(figures=figures), 0)
        appended = (each.event for each in effects if isinstance(each, fx.Append))
        return next(event for event in appended if isinstance(event, ev.RoundCompleted))


class _Published:
    """Another's rule."""

    def __init__(self, policy: Policy, limits: ev.Limits) -> None:
        self.goes_on = True
        self._policy = policy
        self._limits = limits
        self._history: list[ev.RoundFigures] = []
        self._percent = 0

    def at_round_end(self, figures: ev.RoundFigures) -> ev.RoundCompleted:
        """As ``Decider``."""
        history, limits = self._history, self._limits
        history.append(figures)
        choice = policies.choose(
            self._policy, history, limits.stun_limit_ns, limits.slow_percent_max
        )
        why = policies.reason(history, self._percent, choice)
        self.goes_on = choice.decision is Decision.ANOTHER_ROUND
        self._percent = choice.slow_percent
        left, rate = figures.remaining_bytes, convergence.bandwidth(history)
        slowest = convergence.slowest_bandwidth(history)
        return ev.RoundCompleted(
            figures=figures,
            bandwidth_bytes_per_second=rate,
            dirty_bytes_per_second=left / max(figures.duration_ns, 1) * 1e9,
            predicted_stun_ns=figures.look_ns + convergence.predicted_stun_ns(left, rate),
            stun_limit_ns=limits.stun_limit_ns,
            decision=choice.decision,
            reason=why,
            stun_bound_ns=figures.look_ns + convergence.predicted_stun_ns(left, slowest),
            slow_percent=choice.slow_percent,
        )
