"""All roles of one migration, folded from its log: where each is, and what no core explains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from ..events import Event, Lane, Recorded
from ..events import migration as ev
from ..events.signed import LaneSigned
from ..roles import coordinator, destination, source
from ..roles.inputs import Input
from ..roles.table import Table
from .coordinator_trace import CoordinatorTrace
from .evidence import Evidence, endings
from .findings import Fault
from .host_roles import destination_trace, source_trace
from .traces import Sighting, Trace

WRITTEN_BY_SHELLS: Final = (ev.HostFenced, ev.RunOrderRefused, LaneSigned)
"""Events that no core wants: proofs, answers to operators, and signatures."""
TABLES: Final[dict[Lane, Table[Any]]] = {
    Lane.COORDINATOR: coordinator.TABLE,
    Lane.SOURCE: source.TABLE,
    Lane.DESTINATION: destination.TABLE,
}


class Step(NamedTuple):
    """How a recorded event came about: the inputs, the last of which led to it, and where the role
    was before and after. ``restarted``: only the death of its service explains it.
    """

    inputs: tuple[Input, ...]
    before: StrEnum | None
    after: StrEnum
    restarted: bool = False


class RolesTraced:
    """Takes the events of a migration in the log's order. ``story``: all that there are of it."""

    def __init__(self, migration: str, story: Sequence[Recorded]) -> None:
        self.faults: list[Fault] = []
        self.unproven: list[str] = []
        self.explained: Counter[Lane] = Counter()
        self._migration = migration
        self._evidence = Evidence(endings(story))
        self._coordinator = CoordinatorTrace(migration, story)
        self._hosts: dict[Lane, tuple[str, Trace[Any]]] = {}
        """Of each host's lane: the host, and its role's trace."""

    def take(self, recorded: Recorded, subject: str, time_ns: int) -> Step | None:
        """Explain the next event. None if no core had a part in it, or cannot have had it."""
        event, lane = recorded.event, recorded.envelope.lane
        self._evidence.take(recorded, subject)
        step = None
        if lane is Lane.COORDINATOR and not isinstance(event, WRITTEN_BY_SHELLS):
            step = self._decision(recorded, subject)
        elif lane in (Lane.SOURCE, Lane.DESTINATION):
            step = self._fact(recorded, subject)
        self._coordinator.learn(recorded, time_ns)
        self._begin(recorded)
        return step

    def phases(self) -> dict[Lane, tuple[StrEnum, ...]]:
        """Where each role that has begun may be, the likeliest first."""
        hosts = {lane: trace.phases for lane, (_, trace) in self._hosts.items()}
        return {Lane.COORDINATOR: (self._coordinator.state.phase,), **hosts}

    def states(self) -> dict[Lane, Any]:
        """The likeliest state of each role that has begun."""
        hosts = {lane: trace.possible[0].state for lane, (_, trace) in self._hosts.items()}
        return {Lane.COORDINATOR: self._coordinator.state, **hosts}

    def _begin(self, recorded: Recorded) -> None:
        migration, evidence, event = self._migration, self._evidence, recorded.event
        match event:
            case ev.MigrationStarted() if Lane.SOURCE not in self._hosts:
                source_began = source_trace(event, recorded.envelope.machine, migration, evidence)
                self._hosts[Lane.SOURCE] = event.source, source_began
            case ev.PreparationOrdered() if Lane.DESTINATION not in self._hosts:
                destination_began = destination_trace(event, migration, evidence)
                self._hosts[Lane.DESTINATION] = event.destination, destination_began
            case _:
                pass

    def _decision(self, recorded: Recorded, subject: str) -> Step | None:
        before = self._coordinator.state.phase
        explained = self._coordinator.take(recorded, subject)
        kind = recorded.envelope.type
        if explained is None:
            self._accuse(recorded, f"no coordinator can have wanted {kind}, from the facts before")
            return None
        if explained.early:
            self.unproven.append(f"at {recorded.sequence}: by the clocks, {kind} came too early")
        self.explained[Lane.COORDINATOR] += 1
        return Step(explained.inputs, before, self._coordinator.state.phase)

    def _fact(self, recorded: Recorded, subject: str) -> Step | None:
        event, envelope = recorded.event, recorded.envelope
        host, trace = self._hosts.get(envelope.lane, ("", None))
        if isinstance(event, WRITTEN_BY_SHELLS):
            if trace is not None:
                trace.pass_over(event)
            return None
        if trace is None or host != envelope.host:
            self._accuse(recorded, f"{envelope.host} has no part in it as {envelope.lane}")
            return None
        before = trace.phases
        found = trace.take(Sighting(event, subject, envelope.monotonic_ns, envelope.boot))
        if not found:
            where = " or ".join(before)
            self._accuse(recorded, f"{_named(event)} is not what {envelope.lane} does in {where}")
            return None
        self.explained[envelope.lane] += 1
        likeliest = found[0]
        return Step(likeliest.inputs, before[0], likeliest.state.phase, likeliest.restarted)

    def _accuse(self, recorded: Recorded, text: str) -> None:
        self.faults.append(Fault(recorded.sequence, text))


def _named(event: Event) -> str:
    if isinstance(event, ev.RoundCompleted):
        return f"{event.TYPE} {event.figures.round} ({event.decision}, {event.reason})"
    return event.TYPE
