"""The coordinator's decisions explained: each must be one that its core wants, by the facts so far.

Any number of coordinators fold the same log; one writes each decision, perhaps when others know
more already. So a decision is legal if the core wants it after some beginning of the facts that
stand before it. What a coordinator read elsewhere (register, inventories, claims) is taken as the
decisions say that it was; what time it was, from its clock in the decision. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from .. import register as reg
from .. import subjects
from ..errors import LocalProtocolError
from ..estimation.admission import Admission
from ..events import Event, Lane, Recorded
from ..events import estimate as eev
from ..events import migration as ev
from ..events import reservation as rev
from ..events.migration import AbortReason
from ..machine import MachineSpec, VGpuSpec
from ..roles import coordinator
from ..roles import effects as fx
from ..roles import inputs as inp
from ..roles.coordinator import CoordinatorState
from ..roles.coordinator_facts import Facts, input_of
from ..roles.inputs import Input

WALL_TOLERANCE_NS: Final = 5_000_000_000
"""By how much the clocks of two hosts and of the log's server may differ."""
STATES_MAX: Final = 64


class Intent(NamedTuple):
    """Where a coordinator may be, and what it wants written that the log does not show yet."""

    state: CoordinatorState
    wanted: tuple[fx.Append, ...] = ()
    inputs: tuple[Input, ...] = ()
    """By which it came there since the last decision."""


class _Turn(NamedTuple):
    """A fact that was told, and where the coordinators were before."""

    before: tuple[Intent, ...]
    given: Input
    time_ns: int


class Explained(NamedTuple):
    """A legal decision. ``early``: only if the clocks differed by more than they should.

    ``inputs``: what led to it since the decision before it.
    """

    early: bool
    inputs: tuple[Input, ...]


class CoordinatorTrace:
    """All replicas of the coordinator, in one migration."""

    def __init__(self, migration: str, story: Sequence[Recorded]) -> None:
        self.migration = migration
        self._intents: tuple[Intent, ...] = (Intent(coordinator.begin(migration)),)
        self._past: list[_Turn] = []
        self._known = _Known(story)
        self._facts = Facts()

    @property
    def state(self) -> CoordinatorState:
        """Where a coordinator is that has seen all so far."""
        return self._intents[0].state

    def learn(self, recorded: Recorded, time_ns: int) -> None:
        """Any event of the migration, stored at ``time_ns``."""
        event, host = recorded.event, recorded.envelope.host
        given = input_of(event, host)
        if given is None or not self._facts.is_new(event, host):
            return
        self._past.append(_Turn(self._intents, given, time_ns))
        self._intents = _told(self._intents, given, time_ns)

    def take(self, recorded: Recorded, subject: str) -> Explained | None:
        """Explain a decision; None if no coordinator can have wanted it."""
        for early in (False, True):
            if found := self._explained(self._intents, recorded, subject, early=early):
                others = self._giving_up(recorded.event, subject)
                self._intents = (*_without_inputs(found), *others)[:STATES_MAX]
                return Explained(early, found[0].inputs)
            for behind, intents in self._earlier():
                if found := self._explained(intents, recorded, subject, early=early):
                    caught_up = self._caught_up(_without_inputs(found), behind)
                    self._intents = (*caught_up, *self._intents)[:STATES_MAX]
                    return Explained(early, found[0].inputs)
        return None

    def _giving_up(self, event: Event, subject: str) -> Iterator[Intent]:
        """Replicas that do not want a decision which another has taken, and want to end it all."""
        for each in self._intents:
            is_deciding = each.state.phase is coordinator.Phase.DECIDING
            if is_deciding and self._without(each, event, subject) is None:
                yield each

    def _earlier(self) -> Iterator[tuple[int, tuple[Intent, ...]]]:
        """Where a replica may be that does not know the last facts, with how many it does know."""
        for known in reversed(range(len(self._past))):
            yield known, self._past[known].before
        yield 0, (Intent(coordinator.begin(self.migration)),)

    def _caught_up(self, intents: tuple[Intent, ...], known: int) -> tuple[Intent, ...]:
        """A replica that lagged, once it has learned all facts but the first ``known``."""
        for turn in self._past[known:]:
            intents = _told(intents, turn.given, turn.time_ns)
        return intents

    def _explained(
        self, roots: Iterable[Intent], recorded: Recorded, subject: str, *, early: bool
    ) -> tuple[Intent, ...]:
        found: list[Intent] = []
        adopting: list[Intent] = []
        passed: list[Intent] = []
        waiting = deque(roots)
        while waiting and len(passed) < STATES_MAX:
            here = waiting.popleft()
            if here in passed:
                continue
            passed.append(here)
            left = self._without(here, recorded.event, subject)
            if left is not None:
                found.append(left)
                continue
            waiting.extend(self._steps(here, recorded, early=early))
            if (adopted := self._adopting(here, recorded.event, subject)) is not None:
                adopting.append(adopted)
        return (*found, *adopting) if found else ()

    def _adopting(self, here: Intent, event: Event, subject: str) -> Intent | None:
        """A replica that wanted another request, and goes by the one that stands."""
        if not isinstance(event, rev.ReservationRequested):
            return None
        left = tuple(each for each in here.wanted if self._subject_of(each) != subject)
        return here._replace(wanted=left) if left != here.wanted else None

    def _without(self, here: Intent, event: Event, subject: str) -> Intent | None:
        for append in here.wanted:
            if append.event == event and self._subject_of(append) == subject:
                left = tuple(each for each in here.wanted if each is not append)
                return here._replace(wanted=left)
        return None

    def _steps(self, here: Intent, recorded: Recorded, *, early: bool) -> Iterator[Intent]:
        """All that the log does not tell a coordinator."""
        now_ns, state = recorded.envelope.wall_ns, here.state
        match state.phase:
            case coordinator.Phase.CONSIDERING:
                for considered in self._known.considered(recorded.event):
                    yield _stepped(here, considered, now_ns)
            case coordinator.Phase.CLAIMING:
                yield _stepped(here, inp.ClaimSettled(won=True, holder=self.migration), now_ns)
                holder = _holder(recorded.event)
                yield _stepped(here, inp.ClaimSettled(won=False, holder=holder), now_ns)
            case coordinator.Phase.WRITING_OFF:
                if isinstance(recorded.event, ev.MigrationEnded):
                    yield _stepped(here, inp.WrittenOff(epoch=recorded.event.lost_epoch), now_ns)
            case _:
                deadline_ns = coordinator.next_deadline_ns(state)
                if deadline_ns is None:
                    return
                if early or deadline_ns <= now_ns + WALL_TOLERANCE_NS:
                    yield _stepped(here, inp.Tick(), max(now_ns, deadline_ns))

    def _subject_of(self, append: fx.Append) -> str:
        kind, to, lane = append.event.TYPE, append.to, Lane.COORDINATOR
        if to is None:
            return subjects.migration(self.migration, lane, kind)
        return subjects.addressed(to.host, to.service, "migration", self.migration, lane, kind)


def _told(intents: tuple[Intent, ...], given: Input, now_ns: int) -> tuple[Intent, ...]:
    return tuple(_stepped(each, given, now_ns) for each in intents)


def _stepped(intent: Intent, given: Input, now_ns: int) -> Intent:
    try:
        after, effects = coordinator.step(intent.state, given, now_ns)
    except (LocalProtocolError, AssertionError):  # this guess of where it is was wrong
        return intent
    appends = tuple(effect for effect in effects if isinstance(effect, fx.Append))
    return Intent(after, (*intent.wanted, *appends), (*intent.inputs, given))


def _without_inputs(intents: tuple[Intent, ...]) -> tuple[Intent, ...]:
    return tuple(each._replace(inputs=()) for each in intents)


def _holder(event: Event) -> str:
    """Who holds the claim, as the refusal tells it."""
    words = event.message.split() if isinstance(event, ev.StartDecided) else []
    return words[1] if len(words) > 1 else ""


class _Known:
    """What the migration's own events say of the register, the machine and the hosts."""

    def __init__(self, story: Sequence[Recorded]) -> None:
        self._requested: ev.MigrationRequested | None = None
        self._reserved: rev.ReservationRequested | None = None
        self._ordered: ev.PreparationOrdered | None = None
        self._estimated: eev.EstimateMade | None = None
        for recorded in story:
            match recorded.event:
                case ev.MigrationRequested() as event:
                    self._requested = self._requested or event
                case rev.ReservationRequested() as event:
                    self._reserved = event
                case ev.PreparationOrdered() as event:
                    self._ordered = event
                case eev.EstimateMade() as event:
                    self._estimated = event
                case _:
                    pass

    def considered(self, event: Event) -> Iterator[inp.Considered]:
        """What a coordinator may have found before it decided ``event``."""
        requested = self._requested
        if requested is None:
            return
        usual = inp.Considered(
            machine=requested.machine,
            destination=requested.destination,
            limits=requested.limits,
            verify=requested.verify,
            spec=self._spec(requested.machine),
            record=self._record(requested.machine),
            destination_known=True,
            estimated=self._estimated,
            gpus=None if self._reserved is None else self._reserved.gpus,
        )
        yield usual
        # Replicas may have found different machines.
        if isinstance(event, rev.ReservationRequested):
            assert usual.spec is not None
            found = usual.spec.vgpus
            other = () if found else (VGpuSpec("", 0),)
            yield msgspec.structs.replace(usual, spec=_reserved_spec(event))
            yield msgspec.structs.replace(
                usual, spec=msgspec.structs.replace(usual.spec, vgpus=other)
            )
        if isinstance(event, ev.StartDecided) and not event.start:
            yield _objected(usual, event)

    def _spec(self, machine: str) -> MachineSpec:
        if self._ordered is not None:
            return self._ordered.spec
        if self._reserved is not None:
            return _reserved_spec(self._reserved)
        return MachineSpec(name=machine, guest="", ram_bytes=0)

    def _record(self, machine: str) -> reg.RegisterRecord:
        ordered, estimated = self._ordered, self._estimated
        told = ordered or estimated
        return reg.RegisterRecord(
            value=reg.RegisterValue.STARTED,
            machine=machine,
            owner="" if told is None else told.source,
            epoch=0 if ordered is None else ordered.register_epoch,
        )


def _reserved_spec(reserved: rev.ReservationRequested) -> MachineSpec:
    """As much of the machine as a request for capacity tells."""
    pairs = zip(reserved.profiles, reserved.framebuffer_bytes, strict=True)
    return MachineSpec(
        name=reserved.machine,
        guest="",
        ram_bytes=0,
        vgpus=tuple(VGpuSpec(*pair) for pair in pairs),
        placement_policy=reserved.placement_policy,
        device_group=reserved.device_group,
    )


def _objected(usual: inp.Considered, decided: ev.StartDecided) -> inp.Considered:
    """What must have been found for that objection."""
    match decided.reason:
        case AbortReason.MACHINE_UNKNOWN:
            changes: dict[str, object] = {"spec": None, "record": None, "estimated": None}
        case AbortReason.HOST_UNKNOWN:
            changes = {"destination_known": False, "estimated": None}
        case AbortReason.ALREADY_THERE:
            assert usual.record is not None
            there = msgspec.structs.replace(usual.record, owner=usual.destination)
            changes = {"record": there, "estimated": None}
        case AbortReason.INCOMPATIBLE:
            changes = {"refusals": decided.refusals}
        case AbortReason.STUN_BOUND_OVER_LIMIT if usual.estimated is not None:
            refused = msgspec.structs.replace(
                usual.estimated, admission=Admission.REFUSED, message=decided.message
            )
            changes = {"estimated": refused}
        case _:
            changes = {}
    return msgspec.structs.replace(usual, **changes)
