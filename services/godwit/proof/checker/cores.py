"""The production cores as the checker drives them: states and results interned, times taken out.

The checker calls the same ``step``, ``begin`` and ``recover_*`` as the services do, each with a
given state and input once: a core is a pure function, so that its result may be remembered. A
state's times are replaced by one deadline, ``DUE_NS``; the clock reads 0, or, when the checker lets
a deadline pass, ``LATE_NS``. Nothing that only ends up in a text or a figure is kept.

It must not know what a world holds or which move comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec

from godwit_protocol import register as reg
from godwit_protocol.errors import GodwitError
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.roles import destination, recovery, source, source_state, succession
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles.effects import Durability, Effect
from godwit_protocol.roles.inputs import Input

from .facts import fact_of, types_of
from .script import ORDERED, STARTED, Message, message_of

DUE_NS: Final = 1
LATE_NS: Final = 10**18
"""Beyond every deadline: the longest in the cores is some minutes."""

RoleState = Any
"""A source's or a destination's state; each core knows its own."""
Effects = tuple[Effect, ...]


class Work(IntEnum):
    """An effect that takes its time, and comes back as an input."""

    AWAIT_LOG = 0
    OPEN_LINK = 1
    SEND_ROUND = 2
    PAUSE = 3
    SEND_FINAL = 4
    RESUME = 5
    FREE = 6
    PREPARE = 7
    POPULATE = 8
    LOAD = 9
    OPEN_GATE = 10
    READ_REGISTER = 11
    WRITE_REGISTER = 12
    WRITTEN = 13
    """The register took it; the answer is on its way."""
    UNHEARD = 14
    """No answer came: the register is to be read back."""


class Operation(NamedTuple):
    """Work under way. The last two fields are a register write's."""

    work: Work
    record: int = 0
    expected: int = 0


class DeedKind(IntEnum):
    """What is done at once, in the order of the effects."""

    APPEND = 0
    SAY = 1
    CLOSE = 2
    BEGIN = 3
    FINISH = 4
    FLUSH = 5


class Found(IntEnum):
    """What a restarted service finds of its VMM."""

    NOTHING = 0
    """None, a dead one, or one without an image."""
    IMAGE = 1
    """It stands still, with the whole machine."""
    RUNNING = 2


class Deed(NamedTuple):
    """An effect, as the checker carries it out."""

    kind: DeedKind
    fact: int = 0
    """The bit, or 0 for a fact that nobody reads again."""
    is_synced: bool = False
    message: Message | None = None
    operation: Operation | None = None


class Known(NamedTuple):
    """What the world may see of a role's state."""

    phase: str
    is_finished: bool
    is_alarmed: bool
    waits: bool
    """It has a deadline, which may pass."""
    is_blind: bool
    """It was shown nothing of the register."""
    is_peer_off: bool
    """It has the proof that the other side runs nothing."""


class Outcome(NamedTuple):
    """What a step led to; ``refusal`` says why it led nowhere."""

    role: int
    deeds: tuple[Deed, ...]
    refusal: str = ""


_WORK: Final[dict[type[Effect], Work]] = {
    fx.OpenLink: Work.OPEN_LINK,
    fx.SendRound: Work.SEND_ROUND,
    fx.PauseMachine: Work.PAUSE,
    fx.SendFinal: Work.SEND_FINAL,
    fx.ResumeMachine: Work.RESUME,
    fx.FreeMemory: Work.FREE,
    fx.PrepareMachine: Work.PREPARE,
    fx.Populate: Work.POPULATE,
    fx.LoadImage: Work.LOAD,
    fx.OpenGate: Work.OPEN_GATE,
    fx.ReadRegister: Work.READ_REGISTER,
}


@dataclass(frozen=True)
class Core:
    """The functions of one role. A broken protocol is a core of which one is replaced."""

    step: Callable[[Any, Input, int], tuple[Any, Effects]]
    recover: Callable[[Any, AbstractSet[str], Found], tuple[Any, Effects]]
    """Takes the state that the role began in, its journal's types, and what it finds of its VMM."""
    begin: Callable[[reg.RegisterView], tuple[Any, Effects]]
    next_deadline_ns: Callable[[Any], int | None]
    terminal: AbstractSet[Any]
    doubting: Any


def _begin_source(register: reg.RegisterView) -> tuple[Any, Effects]:
    return source.begin(STARTED, ORDERED.spec.name, register, migration="m", now_ns=0)


def _begin_destination(register: reg.RegisterView) -> tuple[Any, Effects]:
    return destination.begin(ORDERED, register, migration="m", now_ns=0)


def _recover_source(begun: Any, facts: AbstractSet[str], found: Found) -> tuple[Any, Effects]:
    if begun.has_gone_on(begun.register):
        return succession.source_after(begun, facts)
    return recovery.recover_source(begun, facts, 0, image_left=found is not Found.NOTHING)


def _recover_destination(begun: Any, facts: AbstractSet[str], found: Found) -> tuple[Any, Effects]:
    if begun.has_gone_on(begun.register):  # which it does only when both hosts have been off
        return succession.destination_after(begun, facts, image_left=False)
    return recovery.recover_destination(
        *(begun, facts, 0),
        machine_runs=found is Found.RUNNING,
        image_loaded=found is Found.IMAGE,
    )


SOURCE: Final = Core(
    step=source.step,
    recover=_recover_source,
    begin=_begin_source,
    next_deadline_ns=source_state.next_deadline_ns,
    terminal=source_state.TERMINAL,
    doubting=source_state.Phase.DOUBTING,
)
DESTINATION: Final = Core(
    step=destination.step,
    recover=_recover_destination,
    begin=_begin_destination,
    next_deadline_ns=destination.next_deadline_ns,
    terminal=destination.TERMINAL,
    doubting=destination.Phase.DOUBTING,
)


class Shown(NamedTuple):
    """The register as somebody is shown it: its record's number, or ``NOTHING``, and its place."""

    record: int
    sequence: int


NOTHING: Final = -1


def standing(register: Sequence[int]) -> Shown:
    """A register as it is. ``register``: its records' numbers, the oldest first."""
    return Shown(register[-1], len(register))


class Records:
    """Register records, each by a small number. Number 0 is the one that stood at the start."""

    def __init__(self) -> None:
        self._all: list[reg.RegisterRecord] = []
        self._numbers: dict[reg.RegisterRecord, int] = {}
        self._gone_back: dict[tuple[Shown, Shown], bool] = {}

    def number(self, record: reg.RegisterRecord) -> int:
        """The number of ``record``."""
        if record not in self._numbers:
            self._numbers[record] = len(self._all)
            self._all.append(record)
        return self._numbers[record]

    def __getitem__(self, number: int) -> reg.RegisterRecord:
        return self._all[number]

    def view(self, shown: Shown) -> reg.RegisterView:
        """The register as a core is shown it."""
        record = None if shown.record == NOTHING else self._all[shown.record]
        return reg.RegisterView(record, shown.sequence)

    def has_gone_back(self, found: Shown, seen: Shown) -> bool:
        """Whether a host that has ``seen`` the register takes it for one that has lost a write."""
        key = found, seen
        if key not in self._gone_back:
            self._gone_back[key] = reg.has_gone_back(self.view(found), self.view(seen))
        return self._gone_back[key]


class Roles:
    """All states that one role has been seen in, and what each input did to them."""

    def __init__(self, core: Core, records: Records) -> None:
        self._core = core
        self._records = records
        self._states: list[RoleState] = []
        self._numbers: dict[RoleState, int] = {}
        self._known: list[Known] = []
        self._steps: dict[tuple[int, int, bool], Outcome] = {}
        self._recoveries: dict[tuple[int, Shown, Found], Outcome] = {}

    def known(self, role: int) -> Known:
        """What the world may see of a state."""
        return self._known[role]

    def begin(self, register: Shown) -> Outcome:
        """The role's first state and deeds."""
        return self._outcome(*self._core.begin(self._records.view(register)))

    def step(self, role: int, given: Input, *, is_late: bool = False) -> Outcome:
        """What ``given`` leads to. ``is_late``: the state's deadline has passed.

        Results are kept by the input's identity: every input must live as long as the checker.
        """
        key = (role, id(given), is_late)
        outcome = self._steps.get(key)
        if outcome is None:
            outcome = self._steps[key] = self._try(role, given, LATE_NS if is_late else 0)
        return outcome

    def recover(self, facts: int, register: Shown, found: Found) -> Outcome:
        """Where a restarted service goes on, from its journal, the register and the VMM."""
        key = (facts, register, found)
        outcome = self._recoveries.get(key)
        if outcome is None:
            begun, _ = self._core.begin(self._records.view(register))
            recovered = self._core.recover(begun, types_of(facts), found)
            outcome = self._recoveries[key] = self._outcome(*recovered)
        return outcome

    def _try(self, role: int, given: Input, now_ns: int) -> Outcome:
        try:
            after, effects = self._core.step(self._states[role], given, now_ns)
        except (GodwitError, AssertionError) as error:
            return Outcome(role, (), refusal=str(error) or repr(error))
        return self._outcome(after, effects)

    def _outcome(self, state: RoleState, effects: Effects) -> Outcome:
        return Outcome(self._number(_timeless(state)), tuple(self._deeds(effects)))

    def _number(self, state: RoleState) -> int:
        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = len(self._states)
            self._states.append(state)
            self._known.append(self._look(state))
        return number

    def _look(self, state: RoleState) -> Known:
        return Known(
            phase=str(state.phase),
            is_finished=state.phase in self._core.terminal,
            is_alarmed=state.alarmed or state.phase is self._core.doubting,
            waits=self._core.next_deadline_ns(state) is not None,
            is_blind=state.register.record is None,
            is_peer_off=getattr(state, "peer_runs_nothing", state.fenced),
        )

    def _deeds(self, effects: Effects) -> Iterator[Deed]:
        for effect in effects:
            match effect:
                case fx.Append():
                    is_synced = effect.durability is Durability.JOURNALED
                    assert is_synced or effect.to is None, "what others act on must be durable"
                    fact = fact_of(effect)
                    if fact or is_synced:
                        yield Deed(DeedKind.APPEND, fact=fact, is_synced=is_synced)
                    if effect.durability is Durability.LOGGED:
                        yield Deed(DeedKind.BEGIN, operation=Operation(Work.AWAIT_LOG))
                case fx.AwaitFlush():
                    yield Deed(DeedKind.FLUSH)
                case fx.Say():
                    yield Deed(DeedKind.SAY, message=message_of(effect.message))
                case fx.SayStage():
                    yield Deed(DeedKind.SAY, message=Message.STAGE)
                case fx.CloseLink():
                    yield Deed(DeedKind.CLOSE)
                case fx.Finish():
                    yield Deed(DeedKind.FINISH)
                case fx.FencePeer():
                    pass  # proof of a host's death comes by itself, whoever asked for it
                case fx.CompareAndSet():
                    number = self._records.number(effect.record)
                    operation = Operation(Work.WRITE_REGISTER, number, effect.expected_sequence)
                    yield Deed(DeedKind.BEGIN, operation=operation)
                case _:
                    yield Deed(DeedKind.BEGIN, operation=Operation(_WORK[type(effect)]))


_TIMELESS: Final[dict[str, Any]] = {
    "deadline_ns": DUE_NS,
    "migration_deadline_ns": DUE_NS,
    "alarm_ns": DUE_NS,
    "history": (),
    "rounds_sent": 0,
    "stopped_ns": 0,
    "unclear": 0,
    "abort_message": "",
}


def _timeless(state: RoleState) -> RoleState:
    """The state without times, figures and texts; of a reason only that there is one."""
    changes = {name: value for name, value in _TIMELESS.items() if hasattr(state, name)}
    if state.abort_reason is not AbortReason.NONE:
        changes["abort_reason"] = AbortReason.CANCELLED
    return msgspec.structs.replace(state, **changes)
