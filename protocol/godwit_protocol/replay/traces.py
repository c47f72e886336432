"""A lane explained: by which legal inputs of its role each recorded event came about. Pure.

Theory of operation. A role's inputs are not in the log, but what the role wrote because of them is.
A trace holds every state that the role may be in after the events so far. For the next event it
feeds the recorded core all inputs that are legal there, with figures and reasons taken from that
event, from the evidence of other lanes, and from nowhere else, until the core itself wants that
event written: the same one, at the same subject. If no legal inputs lead there, the transition was
not legal, or the decision is not the one that the core makes. What the core wanted written too must
come next, unless it is refusable, and the role goes on from a full journal. Only the death of its
service lets a role forget more; then it goes on by the rules of recovery. Where its host was booted
since, only they can explain it: no deadline of the old clock means anything on the new one.

It must not know which role it explains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from enum import StrEnum
from functools import cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ..errors import LocalProtocolError
from ..events import Event
from ..events import migration as ev
from ..roles import effects as fx
from ..roles.effects import Effect
from ..roles.inputs import Input, JournalFull, Tick
from ..roles.table import Phased, Table

STATES_MAX: Final = 64
"""States that a role may be in after one event."""
SEARCH_MAX: Final = 4096
"""States that one search may look at. Simulated hosts, whatever broke, need no more than 1,000."""
CLOCK_TOLERANCE_NS: Final = 1_000_000_000
"""An event is sealed a little after its step: a deadline taken from it is that much too late."""

S = TypeVar("S", bound=Phased)
Begun = tuple[S, tuple[Effect, ...]]


class Possible(NamedTuple, Generic[S]):
    """A state that the role may be in, what it has wanted written that the lane does not show yet,
    and by which inputs the last event came about.
    """

    state: S
    owed: tuple[fx.Append, ...] = ()
    inputs: tuple[Input, ...] = ()
    restarted: bool = False


class Sighting(NamedTuple):
    """A recorded event of the lane: where it stands, and the writer's monotonic clock, which counts
    within one boot of its host.
    """

    event: Event
    subject: str
    now_ns: int
    boot: str


class Role(NamedTuple, Generic[S]):
    """What a trace must know of a role.

    ``guesses`` gives the inputs of a type that may have led from a state to an event; ``restarts``
    gives where else the role may go on from: after its service died before that event, when its
    journal held events of the given types, or after a begin that was not as usual.
    """

    table: Table[S]
    next_deadline_ns: Callable[[S], int | None]
    guesses: Callable[[type[Input], S, Event], Iterable[Input]]
    restarts: Callable[[Sighting, AbstractSet[str]], Iterable[Begun[S]]]
    subject_of: Callable[[fx.Append], str]


class Trace(Generic[S]):
    """One role's lane of one migration."""

    def __init__(self, role: Role[S], begun: Begun[S]) -> None:
        self.possible: tuple[Possible[S], ...] = (_begun(begun),)
        self._role = role
        self._facts: set[str] = set()
        self._last_ns = 0
        self._boot = ""
        """Of the last event that the role's core wanted."""
        self._slept_ns_max = CLOCK_TOLERANCE_NS
        """So much before its seal the last event's step may have been: a process that is stopped in
        between seals it when it goes on.
        """

    @property
    def phases(self) -> tuple[StrEnum, ...]:
        """Where the role may be, the likeliest first."""
        return tuple(dict.fromkeys(each.state.phase for each in self.possible))

    def take(self, seen: Sighting) -> tuple[Possible[S], ...]:
        """Explain the next event of the lane. Empty if nothing legal leads to it: then the trace
        stays where it was.
        """
        rebooted = self._boot not in ("", seen.boot)
        if rebooted:  # so its service has died, and the clock has begun anew
            self._last_ns = 0
        found = () if rebooted else self._explained(self.possible, seen)
        if not found:
            begun = self._role.restarts(seen, self._facts)
            found = self._explained((_begun(each, restarted=True) for each in begun), seen)
        self.possible = found or self.possible
        if self._last_ns or rebooted:
            self._slept_ns_max = max(CLOCK_TOLERANCE_NS, seen.now_ns - self._last_ns)
        self._last_ns = seen.now_ns
        self._boot = seen.boot
        self._facts.add(seen.event.TYPE)
        return found

    def pass_over(self, event: Event) -> None:
        """An event of the lane that the role's shell wrote by itself."""
        self._facts.add(event.TYPE)

    def _explained(self, roots: Iterable[Possible[S]], seen: Sighting) -> tuple[Possible[S], ...]:
        """All states after ``seen``, those that took the fewest inputs first."""
        found: list[Possible[S]] = []
        passed: dict[StrEnum, list[Possible[S]]] = {}
        waiting = deque(root._replace(inputs=()) for root in roots)
        looked_at = 0
        while waiting and len(found) < STATES_MAX and looked_at < SEARCH_MAX:
            here = waiting.popleft()
            looked_at += 1
            if here.owed:
                if self._is_owed(here.owed[0], seen):
                    _add(found, here._replace(owed=here.owed[1:]))
                if here.owed[0].refusable:
                    waiting.extend(self._left_out(here, seen))
                continue
            if _add(passed.setdefault(here.state.phase, []), here):
                waiting.extend(self._steps(here, seen))
        return tuple(found)

    def _left_out(self, here: Possible[S], seen: Sighting) -> Iterator[Possible[S]]:
        """The disk had no room for it, and the role was told so, behind its other effects."""
        for given in self._role.guesses(JournalFull, here.state, seen.event):
            after, effects = self._role.table.step(here.state, given, seen.now_ns)
            owed = (*here.owed[1:], *_appends(effects))
            yield here._replace(state=after, owed=owed, inputs=(*here.inputs, given))

    def _steps(self, here: Possible[S], seen: Sighting) -> Iterator[Possible[S]]:
        state = here.state
        for input_type in legal_inputs(self._role.table, state.phase):
            for given in self._role.guesses(input_type, state, seen.event):
                now_ns = self._time_of(given, here, seen.now_ns)
                if now_ns is None:
                    continue
                try:
                    after, effects = self._role.table.step(state, given, now_ns)
                except _IMPOSSIBLE:
                    continue
                owed = _appends(effects)
                if owed or after != state:
                    yield here._replace(state=after, owed=owed, inputs=(*here.inputs, given))

    def _time_of(self, given: Input, here: Possible[S], now_ns: int) -> int | None:
        """When the input came; None if it is a tick and its time had not come. Behind an input that
        left no event nobody knows: that one may have come at any time since the last event.
        """
        if not isinstance(given, Tick):
            return now_ns
        deadline_ns = self._role.next_deadline_ns(here.state)
        if deadline_ns is None:
            return None
        if not here.inputs and deadline_ns > now_ns + self._slept_ns_max:
            return None
        return max(now_ns, deadline_ns)

    def _is_owed(self, owed: fx.Append, seen: Sighting) -> bool:
        return _is_same(owed.event, seen.event) and self._role.subject_of(owed) == seen.subject


@cache
def legal_inputs(table: Table[Any], phase: StrEnum) -> tuple[type[Input], ...]:
    """The inputs that change something in a phase."""
    return tuple(
        input_type
        for (at, input_type), row in table.rows.items()
        if at is phase and not row.passes_over
    )


def _begun(begun: Begun[S], *, restarted: bool = False) -> Possible[S]:
    state, effects = begun
    return Possible(state, _appends(effects), (), restarted)


def _appends(effects: Iterable[Effect]) -> tuple[fx.Append, ...]:
    return tuple(effect for effect in effects if isinstance(effect, fx.Append))


def _add(kept: list[Possible[S]], new: Possible[S]) -> bool:
    """Keep it unless it is there. Returns whether it is new."""
    if any(each.state == new.state and each.owed == new.owed for each in kept):
        return False
    kept.append(new)
    return True


def _is_same(wanted: Event, recorded: Event) -> bool:
    """Whether they are equal; where the core quotes the register, which is in another stream, in a
    message, the words are not compared.
    """
    if wanted == recorded:
        return True
    quotes = ev.DoubtRaised | ev.ImageDiscarded
    if not isinstance(wanted, quotes) or type(wanted) is not type(recorded):
        return False
    assert isinstance(recorded, quotes)
    return _QUOTED in wanted.message and _QUOTED in recorded.message


_IMPOSSIBLE: Final = (LocalProtocolError, AssertionError)
"""What the core does not take: the guess was wrong, not the role."""
_QUOTED: Final = "the register holds"
