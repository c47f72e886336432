"""Whether the coordinator can end the migration, and whether it may end it wrongly, by what the log
has of a checked world.

The production core of the coordinator is told the facts that are in the log, as the production code
reads them; its part needs no state of its own in a world. It must not know how the hosts come to
their facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from godwit_protocol.events import migration as ev
from godwit_protocol.roles import coordinator
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.coordinator import CoordinatorState, Phase
from godwit_protocol.roles.coordinator_facts import input_of
from godwit_protocol.roles.inputs import Input

from . import script
from .cores import LATE_NS, Effects
from .facts import EVENTS, Fact
from .world import DESTINATION, GONE, SOURCE, UNBORN, Image, Side, Vmm, World

Step = Callable[[CoordinatorState, Input, int], tuple[CoordinatorState, Effects]]

HOSTS: Final = (script.SOURCE_HOST, script.DESTINATION_HOST)


def _told(host: str) -> tuple[tuple[Fact, Input], ...]:
    read = ((fact, input_of(EVENTS[fact], host)) for fact in Fact)
    return tuple((fact, given) for fact, given in read if given is not None)


def _told_off(host: str) -> Input:
    given = input_of(ev.HostFenced(target=host), host)
    assert given is not None
    return given


_TOLD: Final = tuple(map(_told, HOSTS))
"""What the coordinator hears of each side's facts."""
_TOLD_OFF: Final = tuple(map(_told_off, HOSTS))
"""What it hears of the proof that a host was off."""
_HEARD: Final = tuple(sum(fact for fact, _ in told) for told in _TOLD)
"""The facts of which it hears anything, as bits."""
_ENDING: Final = (Phase.WRITING_OFF, Phase.SETTLING, Phase.ENDED)
"""From here nothing but the register's answer is waited for."""
_MOVING: Final = CoordinatorState(
    phase=Phase.MOVING,
    migration=script.MIGRATION,
    machine=script.FIRST_RECORD.machine,
    source=HOSTS[SOURCE],
    destination=HOSTS[DESTINATION],
    epoch=script.FIRST_RECORD.epoch,
)
_PREPARING: Final = msgspec.structs.replace(_MOVING, phase=Phase.PREPARING)
_NO_START: Final = inp.StartKnown(start=False, reason=script.WHY, message="")
_ANY_TIME: Final = (inp.Tick(), inp.CancelWanted())
"""What it may hear whatever the log has."""


class _Log(NamedTuple):
    """What the log has of one side."""

    facts: int
    is_off: bool
    """There is proof that its host was off."""


_Logs = tuple[bool, _Log, _Log]
"""Whether the source was told to start; then what the log has of each side."""


class Endings:
    """The ends of one coordinator's core."""

    def __init__(self, step: Step = coordinator.step) -> None:
        self._step = step
        self._last: dict[_Logs, Phase] = {}
        self._may_lose: dict[_Logs, bool] = {}

    def can_end(self, world: World) -> bool:
        """Whether the migration ends by the facts in the log, and by proof of each host that is
        off. To whom that is given differs: see ``docs/in-doubt.md``.
        """
        return self._last_phase(_sure_logs(world)) in _ENDING

    def writes_off(self, world: World) -> bool:
        """Whether it may come to writing into the register that the machine is lost."""
        return self._last_phase(_fullest_logs(world)) is Phase.WRITING_OFF

    def ends_wrongly(self, world: World) -> bool:
        """Whether it may take the machine for lost that a host has which lives: whatever it has
        heard of the log by now, in whichever order, and whichever deadline has passed.
        """
        if not any(_has_machine(side) for side in (world.source, world.destination)):
            return False
        logs = _fullest_logs(world)
        if logs not in self._may_lose:
            self._may_lose[logs] = self._may_take_for_lost(logs)
        return self._may_lose[logs]

    def _last_phase(self, logs: _Logs) -> Phase:
        if logs not in self._last:
            self._last[logs] = self._settled(logs)
        return self._last[logs]

    def _settled(self, logs: _Logs) -> Phase:
        """Where it comes to when all is heard. A source that was not told to start never will be,
        if the coordinator decides so.
        """
        has_begun = logs[0]
        state = _MOVING if has_begun else _PREPARING
        late = (inp.Tick(),) if has_begun else (inp.Tick(), _NO_START)
        for given in _heard(logs):
            state, _ = self._step(state, given, 0)
        for given in late:
            state, _ = self._step(state, given, LATE_NS)
        return state.phase

    def _may_take_for_lost(self, logs: _Logs) -> bool:
        """Whether some order of what may be heard leads there."""
        first = _MOVING if logs[0] else _PREPARING
        inputs = (*_heard(logs), *_ANY_TIME, *(() if logs[0] else (_NO_START,)))
        seen = {first}
        fresh = [first]
        while fresh:
            state = fresh.pop()
            for given in inputs:
                after, effects = self._step(state, given, LATE_NS)
                if after.phase is Phase.WRITING_OFF or any(map(_says_lost, effects)):
                    return True
                if after not in seen:
                    seen.add(after)
                    fresh.append(after)
        return False


def _says_lost(effect: fx.Effect) -> bool:
    """Whether a migration ends so: the hosts' own ends have another reason here."""
    if not isinstance(effect, fx.Append) or not isinstance(effect.event, ev.MigrationEnded):
        return False
    return effect.event.reason is ev.AbortReason.MACHINE_FAILED


def _has_machine(side: Side) -> bool:
    return side.vmm is Vmm.RUNNING or side.image is Image.CURRENT


def _sure_logs(world: World) -> _Logs:
    """What the log has sooner or later: what a journal keeps, and proof that a host is off."""
    source, destination = world.source, world.destination
    return (
        source.role != UNBORN,
        _Log(_posted(source) & _HEARD[SOURCE], source.role == GONE),
        _Log(_posted(destination) & _HEARD[DESTINATION], destination.role == GONE),
    )


def _fullest_logs(world: World) -> _Logs:
    """What the log may have: also what a crash may yet take from a journal, and proof of a host
    that has come back.
    """
    source, destination = world.source, world.destination
    return (
        source.role != UNBORN,
        _Log((_posted(source) | source.unsynced) & _HEARD[SOURCE], source.vmm is Vmm.LOST),
        _Log(
            (_posted(destination) | destination.unsynced) & _HEARD[DESTINATION],
            destination.vmm is Vmm.LOST,
        ),
    )


def _posted(side: Side) -> int:
    """A side's facts that the log has."""
    return side.posted if side.role == GONE else side.journal


def _heard(logs: _Logs) -> Iterator[Input]:
    """All that the log has: each side's own word, then the proofs."""
    for told, log in zip(_TOLD, logs[1:], strict=True):
        yield from (given for fact, given in told if log.facts & fact)
    for told_off, log in zip(_TOLD_OFF, logs[1:], strict=True):
        if log.is_off:
            yield told_off
