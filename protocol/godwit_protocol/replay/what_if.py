"""What would have happened otherwise: the recorded writes under other limits, links or rules.

The source's own core decides at each round's end, as it did then; or another's published rule does,
within the same limits. As long as nothing differs, the rounds are the recorded ones, figure for
figure, so that the recorded settings give the recorded decisions. From the first difference on, a
round is played: it sends what the one before left, at the link's rate, and leaves what the machine
wrote at that time of the migration, scaled to the round's length by a curve through all recorded
rounds. In a played round nothing waits for the stun: no log tells which of the pages would have
been written again. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from .. import convergence
from ..convergence import Decision
from ..estimation.history import DirtyWindow, RegionWrites
from ..estimation.policies import Policy
from ..estimation.rounds import Curve
from ..events import Recorded
from ..events import migration as ev
from ..projections import MigrationSummary, fold
from .deciders import Decider, decider

ROUNDS_PLAYED_MAX: Final = 200


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Under what a move is played. ``link_bytes_per_second`` 0: the link as it was recorded.
    ``policy``: who decides at a round's end, within the same limits.
    """

    limits: ev.Limits
    link_bytes_per_second: float = 0.0
    policy: Policy = Policy.GODWIT


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What a log holds of a migration that was started."""

    started: ev.MigrationStarted
    begun: ev.PrecopyStarted
    summary: MigrationSummary

    @property
    def setting(self) -> Setting:
        """As it was."""
        return Setting(limits=self.started.limits)


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """How a move went, or would have gone. ``decision``: the last one that was made.

    ``recorded_rounds``: so many of its rounds are the recorded ones, the others are played.
    ``stun_ns`` None: there was no stun. ``too_late``: it was given up when its deadline had passed.
    """

    rounds: tuple[ev.RoundCompleted, ...]
    recorded_rounds: int
    decision: Decision
    final_bytes: int
    stun_ns: int | None
    too_late: bool = False

    @property
    def precopy_ns(self) -> int:
        """All rounds together."""
        return sum(done.figures.duration_ns for done in self.rounds)

    @property
    def lost_ns(self) -> int:
        """What was taken of the guest's time to slow it, all rounds together."""
        return sum(
            done.figures.duration_ns * _percent_during(self.rounds, place) // 100
            for place, done in enumerate(self.rounds)
        )

    @property
    def sent_bytes(self) -> int:
        """All rounds and the stun."""
        return sum(done.figures.sent_bytes for done in self.rounds) + self.final_bytes


def recorded_move(migration: str, story: Sequence[Recorded]) -> Move | None:
    """What the log holds of it; None if no round was ever sent."""
    started: ev.MigrationStarted | None = None
    begun: ev.PrecopyStarted | None = None
    summary = MigrationSummary(id=migration)
    for recorded in story:
        summary = fold(summary, recorded)
        match recorded.event:
            case ev.MigrationStarted() as event:
                started = event
            case ev.PrecopyStarted() as event:
                begun = event
            case _:
                pass
    if started is None or begun is None or not summary.rounds:
        return None
    return Move(started=started, begun=begun, summary=summary)


def as_recorded(move: Move) -> Course:
    """How it went."""
    summary = move.summary
    return Course(
        rounds=summary.rounds,
        recorded_rounds=len(summary.rounds),
        decision=summary.rounds[-1].decision,
        final_bytes=summary.final_bytes,
        stun_ns=summary.stun_ns,
    )


def what_if(move: Move, setting: Setting) -> Course:
    """How it would have gone under ``setting``. What ended it from outside, such as a cancel, is
    left out, unless nothing else differs.
    """
    recorded = [done.figures for done in move.summary.rounds]
    decides = _decider(move, setting)
    play, rounds, same = _Play(move, setting), list[ev.RoundCompleted](), 0
    while decides.goes_on and len(rounds) < ROUNDS_PLAYED_MAX:
        is_same = same == len(rounds) and play.is_as_recorded(rounds)
        if play.is_too_late(rounds):
            break
        if is_same and same < len(recorded):
            figures, same = recorded[same], same + 1
        elif is_same and setting == move.setting:
            break
        else:
            figures = play.figures(rounds)
        rounds.append(decides.at_round_end(figures))
    return play.course(tuple(rounds), same)


def _decider(move: Move, setting: Setting) -> Decider:
    return decider(
        setting.policy,
        msgspec.structs.replace(move.started, limits=setting.limits),
        move.begun,
        move.summary.machine,
        move.summary.id,
    )


class _Play:
    """The machine and the link of a move, under a setting."""

    def __init__(self, move: Move, setting: Setting) -> None:
        self._move = move
        self._rounds = move.summary.rounds
        self._link = setting.link_bytes_per_second
        self._deadline_ns = None if setting == move.setting else setting.limits.deadline_ns
        """None: what has passed, passed then."""
        known = convergence.bandwidth([done.figures for done in self._rounds])
        self._bytes_per_second = self._link or known
        cap = setting.limits.bandwidth_bytes_per_second
        self._cap = None if cap == move.setting.limits.bandwidth_bytes_per_second else cap
        """None: in each round as it was then."""
        self._curve = _curve(self._rounds, move.begun.resident_bytes)

    def is_as_recorded(self, rounds: Sequence[ev.RoundCompleted]) -> bool:
        """Whether the next round is the recorded one: same link, and slowed as then."""
        if self._link or self._cap is not None:
            return False
        if not rounds:
            return True
        then, now = self._rounds[len(rounds) - 1], rounds[-1]
        return (then.slow_percent, then.wait_bytes_max) == (now.slow_percent, now.wait_bytes_max)

    def is_too_late(self, rounds: Sequence[ev.RoundCompleted]) -> bool:
        """Whether the deadline has passed, if anything differs. What came before the rounds is not
        counted.
        """
        if self._deadline_ns is None:
            return False
        return sum(done.figures.duration_ns for done in rounds) > self._deadline_ns

    def figures(self, rounds: Sequence[ev.RoundCompleted]) -> ev.RoundFigures:
        """The next round, played."""
        elapsed_ns = sum(done.figures.duration_ns for done in rounds)
        place = self._place(elapsed_ns)
        then = self._rounds[place].figures
        sent = rounds[-1].figures.remaining_bytes if rounds else self._rounds[0].figures.sent_bytes
        cap = then.cap_bytes_per_second if self._cap is None else self._cap
        sending_ns = self._sending_ns(sent, cap)
        duration_ns = then.scan_ns + sending_ns
        percent = rounds[-1].slow_percent if rounds else 0
        own_ns = _own_ns(duration_ns, percent)
        own_then_ns = _own_ns(then.duration_ns, _percent_during(self._rounds, place))
        return ev.RoundFigures(
            round=len(rounds) + 1,
            pages=-(-sent // 4096),
            sent_bytes=sent,
            wire_bytes=sent,
            duration_ns=duration_ns,
            scan_ns=then.scan_ns,
            remaining_bytes=self._left(then.remaining_bytes, own_ns, own_then_ns),
            cap_bytes_per_second=cap,
            look_ns=then.look_ns,
            carrying_ns=sending_ns if then.carrying_ns else 0,
        )

    def course(self, rounds: tuple[ev.RoundCompleted, ...], same: int) -> Course:
        """The whole of it."""
        summary = self._move.summary
        if same == len(rounds) == len(self._rounds) and rounds == self._rounds:
            return as_recorded(self._move)
        decision = rounds[-1].decision
        if self.is_too_late(rounds):
            return msgspec.structs.replace(_course(rounds, same, 0, None), too_late=True)
        if decision is not Decision.STUN:
            return _course(rounds, same, 0, None)
        final_bytes = rounds[-1].figures.remaining_bytes
        parts = summary.marks.components_ns()
        around_ns = sum(parts.values()) - parts["copy"] if parts else convergence.STUN_FIXED_NS
        return _course(rounds, same, final_bytes, around_ns + self._sending_ns(final_bytes))

    def _place(self, elapsed_ns: int) -> int:
        """The recorded round that went on then; the last one if none did any more."""
        for place, done in enumerate(self._rounds):
            elapsed_ns -= done.figures.duration_ns
            if elapsed_ns < 0:
                return place
        return len(self._rounds) - 1

    def _left(self, remaining_then: int, own_ns: int, own_then_ns: int) -> int:
        expected = self._curve.written_bytes(own_then_ns)
        if not expected:
            return 0
        left = remaining_then * self._curve.written_bytes(own_ns) // expected
        return min(left, self._move.begun.resident_bytes)

    def _sending_ns(self, size_bytes: int, cap: int = 0) -> int:
        """``cap``: of a round's bandwidth; the stun has none."""
        longest_ns = convergence.PREDICTED_STUN_NS_MAX
        bytes_per_second = min(self._bytes_per_second, cap or math.inf)
        if bytes_per_second <= 0.0:
            return longest_ns if size_bytes else 0
        return int(min(size_bytes / bytes_per_second * 1e9, longest_ns))


def _course(
    rounds: tuple[ev.RoundCompleted, ...], same: int, final_bytes: int, stun_ns: int | None
) -> Course:
    return Course(
        rounds=rounds,
        recorded_rounds=same,
        decision=rounds[-1].decision,
        final_bytes=final_bytes,
        stun_ns=stun_ns,
    )


def _curve(rounds: Sequence[ev.RoundCompleted], resident_bytes: int) -> Curve:
    """What the machine wrote in a time, through all rounds: it never falls."""
    points: dict[int, int] = {}
    for place, done in enumerate(rounds):
        own_ns = _own_ns(done.figures.duration_ns, _percent_during(rounds, place))
        points[max(own_ns, 1)] = max(points.get(own_ns, 0), done.figures.remaining_bytes)
    elapsed_ns, written, most = sorted(points), list[int](), 0
    for at_ns in elapsed_ns:
        most = max(most, points[at_ns])
        written.append(most)
    whole = RegionWrites("all", max(resident_bytes, most), tuple(written))
    return Curve(
        DirtyWindow(
            machine="",
            host="",
            epoch=0,
            taken_wall_ns=0,
            elapsed_ns=tuple(elapsed_ns),
            regions=(whole,),
        )
    )


def _percent_during(rounds: Sequence[ev.RoundCompleted], place: int) -> int:
    """How much of the guest's time was taken during a round: as was decided before it."""
    return rounds[place - 1].slow_percent if place else 0


def _own_ns(duration_ns: int, percent: int) -> int:
    return duration_ns * (100 - percent) // 100
