"""Whether the coordinator can end the migration, by what the log has of a checked world.

The production core of the coordinator is told the facts that are in the log, as it would be; its
part needs no state of its own in a world. It must not know how the hosts come to their facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from godwit_protocol.roles import coordinator
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.coordinator import CoordinatorState, Phase
from godwit_protocol.roles.inputs import Input

from . import script
from .cores import LATE_NS, Fact
from .world import DESTINATION, GONE, SOURCE, UNBORN, Side, World

Step = Callable[[CoordinatorState, Input, int], tuple[CoordinatorState, object]]

HOSTS: Final = (script.SOURCE_HOST, script.DESTINATION_HOST)
_TOLD: Final[tuple[tuple[tuple[Fact, Input], ...], ...]] = (
    (
        (Fact.ABANDONED, inp.SourceAbandoned(reason=script.WHY, message="")),
        (Fact.RELEASED, inp.SourceReleased()),
        (Fact.FAILED, inp.ImageLost(host=HOSTS[SOURCE])),
    ),
    (
        (Fact.ACTIVATED, inp.Activated()),
        (Fact.DISCARDED, inp.Refused(reason=script.WHY, message="")),
        (Fact.FAILED, inp.ImageLost(host=HOSTS[DESTINATION])),
    ),
)
"""What the coordinator hears of each side's facts."""
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


class Endings:
    """The ends of one coordinator's core."""

    def __init__(self, step: Step = coordinator.step) -> None:
        self._step = step
        self._known: dict[tuple[bool, tuple[tuple[int, bool], ...]], bool] = {}

    def can_end(self, world: World) -> bool:
        """Whether the migration ends by the facts in the log, and by proof of each host that is
        off. To whom that is given differs: see ``docs/in-doubt.md``.
        """
        has_begun = world.source.role != UNBORN
        key = has_begun, (_log_of(world.source), _log_of(world.destination))
        if key not in self._known:
            self._known[key] = self._ends(*key)
        return self._known[key]

    def _ends(self, has_begun: bool, log: tuple[tuple[int, bool], ...]) -> bool:
        """A source that was not told to start never will be, if the coordinator decides so."""
        state = _MOVING if has_begun else _PREPARING
        late = (inp.Tick(),) if has_begun else (inp.Tick(), _NO_START)
        for given in _heard(log):
            state, _ = self._step(state, given, 0)
        for given in late:
            state, _ = self._step(state, given, LATE_NS)
        return state.phase in _ENDING


def _log_of(side: Side) -> tuple[int, bool]:
    """A side's facts that the log has, and whether its host is off."""
    is_off = side.role == GONE
    return (side.posted if is_off else side.journal), is_off


def _heard(log: tuple[tuple[int, bool], ...]) -> Iterator[Input]:
    for told, host, (facts, is_off) in zip(_TOLD, HOSTS, log, strict=True):
        yield from (given for fact, given in told if facts & fact)
        if is_off:
            yield inp.ImageLost(host=host, is_off=True)
