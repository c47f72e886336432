"""All that can happen next in a checked world: what is due, what an operator may do, every fault.

Each move tells one core one thing and carries out what it wants done, or changes the world behind
the cores' backs. Where chance has a say (what a crash leaves, where a broken link is cut), each
possibility is a move of its own. It must not know in which order worlds are searched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import product
from typing import Final, NamedTuple

from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.inputs import Input

from . import script
from .cores import Core, Deed, DeedKind, Fact, Known, Operation, Outcome, Records, Roles, Work
from .script import Message
from .world import (
    DESTINATION,
    DOWN,
    GONE,
    SOURCE,
    UNBORN,
    Budget,
    Draft,
    Image,
    Side,
    Violation,
    Vmm,
    World,
)


class Kind(IntEnum):
    """Whom a move can be expected of."""

    DUE = 0
    """It comes by itself, sooner or later."""
    OPERATOR = 1
    """Somebody does it who was called by an alarm."""
    FAULT = 2


class What(IntEnum):
    """What happens. The words for each are in ``words``."""

    HEARS = 1
    LEARNS = 2
    DEADLINE = 3
    CANCEL = 4
    FENCED = 5
    OVERRULE = 6
    DONE = 7
    FAILS = 8
    DONE_UNHEARD = 9
    CRASH = 10
    RESTART = 11
    STARTS = 12
    HOST_DIES = 13
    VMM_DIES = 14
    LINK_BREAKS = 15
    WRITE_LOST = 16
    STRAY_LANDS = 17
    NO_ANSWER = 18
    OLD_READ = 19
    BREAKS = 20


class Label(NamedTuple):
    """One move, for the trace. ``crashes_after``: how many effects were done before a crash."""

    what: What
    who: int = SOURCE
    detail: int = 0
    crashes_after: int = -1


class Move(NamedTuple):
    """Something that can happen, and the world after it."""

    label: Label
    kind: Kind
    world: World
    violation: Violation | None
    refusal: str


Facts = tuple[tuple[Fact, Input], ...]
ADDRESSED: Final[tuple[Facts, Facts]] = (
    (
        (Fact.QUARANTINED, script.PEER_QUARANTINED),
        (Fact.ACTIVATED, script.PEER_ACTIVE),
        (Fact.FAILED, script.PEER_FENCED),
    ),
    (
        (Fact.ABANDONED, script.PEER_RUNS),
        (Fact.ABORT_INTENDED, script.PEER_ABORT),
        (Fact.FAILED, script.PEER_FENCED),
    ),
)
"""Facts that reach the source, and those that reach the destination, through the log too."""
_ADDRESSED_MASK: Final = (
    Fact.ABANDONED | Fact.ABORT_INTENDED | Fact.FAILED,
    Fact.QUARANTINED | Fact.ACTIVATED | Fact.FAILED,
)
"""Those that the source posts, and those that the destination posts."""


class Moves:
    """The moves of one pair of cores."""

    def __init__(self, source: Core, destination: Core) -> None:
        self.records = Records()
        self.roles = (Roles(source, self.records), Roles(destination, self.records))
        self._given: dict[tuple[bool, int, int], Input] = {}

    def of(self, world: World) -> list[Move]:
        """Every move that is possible in ``world``."""
        return [*self._all(world)]

    def known(self, world: World, who: int) -> Known | None:
        """What may be seen of a role; None if its service does not run."""
        role = (world.source, world.destination)[who].role
        return self.roles[who].known(role) if role >= 0 else None

    def _all(self, world: World) -> Iterator[Move]:
        for who in (SOURCE, DESTINATION):
            side = world[who]
            assert isinstance(side, Side)
            if side.role == GONE:
                continue
            yield from self._of_service(world, who, side)
            if side.pending:
                yield from self._of_work(world, who, side)
            yield from self._deaths(world, who, side)
        yield from self._of_world(world)

    # A service is told something.

    def _of_service(self, world: World, who: int, side: Side) -> Iterator[Move]:
        if side.role == DOWN:
            yield from self._restart(world, who, side)
        elif side.role == UNBORN:
            if (world.destination.journal | world.destination.unsynced) & Fact.PREPARED:
                yield from self._start(world, who)
        elif not self.roles[who].known(side.role).is_finished:
            yield from self._inputs(world, who, side)
            if world.left.crashes:
                yield from self._crash(world, who)

    def _inputs(self, world: World, who: int, side: Side) -> Iterator[Move]:
        known = self.roles[who].known(side.role)
        other = world[1 - who]
        assert isinstance(other, Side)
        if side.heard:
            yield from self._hear(world, who, side)
        facts = other.journal | other.posted
        for fact, given in ADDRESSED[who]:
            if facts & fact:
                yield from self._tell(world, Label(What.LEARNS, who, fact), who, given)
        if known.waits:
            label = Label(What.DEADLINE, who)
            yield from self._tell(world, label, who, script.TICK, is_late=True)
        if world.left.local_failures and not _ON_VMM.intersection(
            operation.work for operation in side.pending
        ):
            draft = Draft(world)
            draft.left = draft.left._replace(local_failures=draft.left.local_failures - 1)
            label = Label(What.BREAKS, who)
            yield from self._feed(draft, label, who, script.FAILED, Kind.FAULT)
        cancel = Label(What.CANCEL, who)
        yield from self._tell(world, cancel, who, script.ABORT_WANTED, kind=Kind.FAULT)
        if other.role == GONE:
            yield from self._tell(world, Label(What.FENCED, who), who, script.PEER_FENCED)
        if known.is_alarmed:
            draft = Draft(world)
            draft.is_overruled = True
            yield from self._feed(
                draft, Label(What.OVERRULE, who), who, script.RUN_ORDERED, Kind.OPERATOR
            )

    def _hear(self, world: World, who: int, side: Side) -> Iterator[Move]:
        message = side.heard[0]
        draft = Draft(world)
        draft.sides[who] = side.with_heard(side.heard[1:])
        label = Label(What.HEARS, who, message)
        opening = Operation(Work.OPEN_LINK)
        if message is not Message.WELCOME:
            yield from self._feed(draft, label, who, script.HEARD[message], Kind.DUE)
        elif opening in side.pending:
            draft.end(who, opening)
            yield from self._feed(draft, label, who, script.LINK_UP, Kind.DUE)

    def _tell(
        self,
        world: World,
        label: Label,
        who: int,
        given: Input,
        *,
        kind: Kind = Kind.DUE,
        is_late: bool = False,
    ) -> Iterator[Move]:
        side = world[who]
        assert isinstance(side, Side)
        outcome = self.roles[who].step(side.role, given, is_late=is_late)
        if outcome.role == side.role and not outcome.deeds and not outcome.refusal:
            return
        yield from self._carry_out(Draft(world), label, kind, who, outcome)

    def _feed(
        self, draft: Draft, label: Label, who: int, given: Input | None, kind: Kind
    ) -> Iterator[Move]:
        """Tell a role, if it still listens, and carry out what it wants."""
        role = draft.sides[who].role
        if given is None or role < 0 or self.roles[who].known(role).is_finished:
            yield _move(label, kind, draft)
        else:
            yield from self._carry_out(draft, label, kind, who, self.roles[who].step(role, given))

    def _carry_out(
        self, draft: Draft, label: Label, kind: Kind, who: int, outcome: Outcome
    ) -> Iterator[Move]:
        """The effects in order; and, as faults, all but the first few of them."""
        if outcome.refusal:
            yield Move(label, kind, draft.world(), Violation.REFUSED, outcome.refusal)
            return
        draft.sides[who] = draft.sides[who].with_role(outcome.role)
        for done, deed in enumerate(outcome.deeds):
            if done and draft.left.crashes:
                for crashed in self._crashes(draft, who):
                    yield _move(label._replace(crashes_after=done), Kind.FAULT, crashed)
            self._do(draft, who, deed)
        yield _move(label, kind, draft)

    def _do(self, draft: Draft, who: int, deed: Deed) -> None:
        match deed.kind:
            case DeedKind.APPEND:
                draft.post(who, deed.fact, is_synced=deed.is_synced)
            case DeedKind.SAY:
                assert deed.message is not None
                draft.say(who, deed.message)
            case DeedKind.BEGIN:
                assert deed.operation is not None
                self._begin(draft, who, deed.operation)
            case DeedKind.CLOSE | DeedKind.FINISH:
                draft.close_link(who)

    def _begin(self, draft: Draft, who: int, operation: Operation) -> None:
        draft.begin(who, operation)
        if operation.work is Work.OPEN_LINK:
            target = draft.sides[DESTINATION]
            if target.role >= 0 and (target.journal | target.unsynced) & Fact.PREPARED:
                draft.is_linked = True
                draft.say(who, Message.HELLO)

    # Work comes to its end.

    def _of_work(self, world: World, who: int, side: Side) -> Iterator[Move]:
        for operation in side.pending:
            detail = operation.work
            for what, kind, draft, given in self._results(world, who, side, operation):
                draft.end(who, operation)
                yield from self._feed(draft, Label(what, who, detail), who, given, kind)

    def _results(
        self, world: World, who: int, side: Side, operation: Operation
    ) -> Iterator[tuple[What, Kind, Draft, Input | None]]:
        """How work may end: what to call it, and what the role is told. The draft still has it."""
        work, draft = operation.work, Draft(world)
        match work:
            case Work.WRITE_REGISTER if who == DESTINATION and side.vmm is Vmm.DEAD:
                yield What.FAILS, Kind.DUE, draft, script.FAILED
                yield from self._register_results(world, who, operation)
            case Work.WRITE_REGISTER | Work.WRITTEN | Work.UNHEARD:
                yield from self._register_results(world, who, operation)
            case Work.READ_REGISTER:
                yield What.DONE, Kind.DUE, draft, self._read(draft.register)
                yield What.NO_ANSWER, Kind.FAULT, Draft(world), None
                if len(world.register) > 1:
                    yield What.OLD_READ, Kind.FAULT, Draft(world), self._read(world.register[:-1])
            case Work.AWAIT_LOG:
                yield What.DONE, Kind.DUE, draft, script.LOGGED
                yield What.NO_ANSWER, Kind.FAULT, Draft(world), script.NOT_LOGGED
            case Work.OPEN_LINK:
                if not world.is_linked:
                    yield What.FAILS, Kind.DUE, draft, script.LINK_LOST
            case Work.SEND_ROUND | Work.SEND_FINAL:
                sent = script.ROUND_DONE if work is Work.SEND_ROUND else script.FINAL_SENT
                if world.is_linked:
                    yield What.DONE, Kind.DUE, draft, sent
                else:
                    yield What.FAILS, Kind.DUE, draft, script.LINK_LOST
            case Work.LOAD if not world.is_linked:
                yield What.FAILS, Kind.DUE, Draft(world), script.BAD_IMAGE
                yield from self._vmm_results(draft, who, side, work)
            case _:
                yield from self._vmm_results(draft, who, side, work)

    def _vmm_results(
        self, draft: Draft, who: int, side: Side, work: Work
    ) -> Iterator[tuple[What, Kind, Draft, Input | None]]:
        if side.vmm is Vmm.DEAD and work is not Work.FREE:
            bad = script.BAD_IMAGE if work is Work.LOAD else script.FAILED
            yield What.FAILS, Kind.DUE, draft, bad
            return
        _apply(draft, who, work)
        yield What.DONE, Kind.DUE, draft, _DONE[work]

    def _register_results(
        self, world: World, who: int, operation: Operation
    ) -> Iterator[tuple[What, Kind, Draft, Input | None]]:
        """A compare-and-set, and the reading back where its answer did not say."""
        draft = Draft(world)
        match operation.work:
            case Work.WRITTEN:
                standing = (*world.register[: operation.expected], operation.record)
                yield What.DONE, Kind.DUE, draft, self._settled(True, standing)
                yield from self._unheard(world, operation)
            case Work.UNHEARD:
                yield from self._unheard(world, operation)
            case _ if draft.write(operation):
                draft.begin(who, operation._replace(work=Work.WRITTEN))
                yield What.DONE, Kind.DUE, draft, None
                yield from self._astray(world, who, operation)
            case _:
                yield What.DONE, Kind.DUE, draft, self._read_back(draft.register, operation)
                yield from self._astray(world, who, operation)

    def _unheard(
        self, world: World, operation: Operation
    ) -> Iterator[tuple[What, Kind, Draft, Input | None]]:
        settled = self._read_back(world.register, operation)
        due = Kind.DUE if operation.work is Work.UNHEARD else Kind.FAULT
        yield What.DONE_UNHEARD, due, Draft(world), settled
        if settled is not script.UNCLEAR:
            yield What.NO_ANSWER, Kind.FAULT, Draft(world), script.UNCLEAR

    def _astray(
        self, world: World, who: int, operation: Operation
    ) -> Iterator[tuple[What, Kind, Draft, Input | None]]:
        """No answer, and it has not arrived; it never will, or some time."""
        unheard = operation._replace(work=Work.UNHEARD)
        lost = Draft(world)
        lost.begin(who, unheard)
        yield What.NO_ANSWER, Kind.FAULT, lost, None
        if _may_stray(world, operation):
            late = Draft(world)
            _let_stray(late, operation)
            late.begin(who, unheard)
            yield What.NO_ANSWER, Kind.FAULT, late, None

    def _read_back(self, register: Sequence[int], operation: Operation) -> Input:
        """What the service makes of the register after a write of which it has heard nothing."""
        if register[-1] == operation.record:
            return self._settled(True, register)
        if len(register) == operation.expected:
            return script.UNCLEAR
        return self._settled(False, register)

    def _settled(self, won: bool, register: Sequence[int]) -> Input:
        key = (won, register[-1], len(register))
        if key not in self._given:
            standing = self.roles[SOURCE].view(register)
            self._given[key] = inp.CasSettled(won=won, standing=standing)
        return self._given[key]

    def _read(self, register: Sequence[int]) -> Input:
        key = (True, register[-1], -len(register))
        if key not in self._given:
            standing = self.roles[SOURCE].view(register)
            self._given[key] = inp.RegisterRead(standing=standing)
        return self._given[key]

    # Services come and go.

    def _start(self, world: World, who: int) -> Iterator[Move]:
        outcome = self.roles[who].begin(world.register)
        yield from self._carry_out(Draft(world), Label(What.STARTS, who), Kind.DUE, who, outcome)

    def _restart(self, world: World, who: int, side: Side) -> Iterator[Move]:
        runs = side.vmm is Vmm.RUNNING
        outcome = self.roles[who].recover(side.journal, world.register, machine_runs=runs)
        label = Label(What.RESTART, who)
        yield from self._carry_out(Draft(world), label, Kind.DUE, who, outcome)

    def _crash(self, world: World, who: int) -> Iterator[Move]:
        for crashed in self._crashes(Draft(world), who):
            yield _move(Label(What.CRASH, who), Kind.FAULT, crashed)

    def _crashes(self, draft: Draft, who: int) -> Iterator[Draft]:
        """What may be left of a service that crashes now: one draft for each possibility."""
        for crashed in _cut_off(draft, who):
            crashed.left = crashed.left._replace(crashes=crashed.left.crashes - 1)
            side = crashed.sides[who]
            down = side._replace(role=DOWN, pending=())
            for journal in {side.journal, side.journal | side.unsynced}:
                survivor = crashed.copy()
                survivor.sides[who] = down._replace(journal=journal, unsynced=0)
                yield survivor

    def _deaths(self, world: World, who: int, side: Side) -> Iterator[Move]:
        if world.left.host_deaths:
            yield from self._host_dies(world, who)
        if world.left.vmm_deaths and side.vmm not in (Vmm.NONE, Vmm.DEAD):
            draft = Draft(world)
            draft.left = draft.left._replace(vmm_deaths=draft.left.vmm_deaths - 1)
            draft.sides[who] = side._replace(vmm=Vmm.DEAD, image=Image.NONE)
            yield _move(Label(What.VMM_DIES, who), Kind.FAULT, draft)

    def _host_dies(self, world: World, who: int) -> Iterator[Move]:
        for draft in _cut_off(Draft(world), who):
            left = draft.left
            draft.left = left._replace(host_deaths=left.host_deaths - 1)
            side = draft.sides[who]
            facts = side.journal & _ADDRESSED_MASK[who]
            for posted in _subsets(facts):
                dead = draft.copy()
                dead.sides[who] = Side(GONE, Vmm.DEAD, Image.NONE, posted=posted)
                yield _move(Label(What.HOST_DIES, who), Kind.FAULT, dead)

    # Nobody's doing.

    def _of_world(self, world: World) -> Iterator[Move]:
        for stray in world.strays:
            draft = Draft(world)
            draft.strays = tuple(item for item in world.strays if item != stray)
            draft.write(stray)
            yield _move(Label(What.STRAY_LANDS), Kind.FAULT, draft)
        if world.left.lost_writes and len(world.register) > 1:
            draft = Draft(world)
            draft.left = draft.left._replace(lost_writes=draft.left.lost_writes - 1)
            draft.register = world.register[:-1]
            yield _move(Label(What.WRITE_LOST), Kind.FAULT, draft)
        if world.left.link_losses and (world.is_linked or _speech(world)):
            yield from _link_breaks(world)


def _move(label: Label, kind: Kind, draft: Draft) -> Move:
    return Move(label, kind, draft.world(), draft.violation, "")


def _apply(draft: Draft, who: int, work: Work) -> None:
    """What work does to the VMM when it is done."""
    side = draft.sides[who]
    match work:
        case Work.PAUSE if side.vmm is Vmm.RUNNING:
            draft.pause(who)
        case Work.RESUME if side.vmm is Vmm.PAUSED:
            draft.run(who)
        case Work.OPEN_GATE if side.vmm is Vmm.LOADED:
            draft.run(who)
        case Work.LOAD if side.vmm is Vmm.GATED:
            draft.load(who)
        case Work.FREE:
            draft.free(who)
        case Work.PREPARE:
            draft.sides[who] = side._replace(vmm=Vmm.GATED)
        case _:
            pass


_DONE: Final[dict[Work, Input]] = {
    Work.PAUSE: script.PAUSED,
    Work.RESUME: script.RESUMED,
    Work.OPEN_GATE: script.GATE_OPENED,
    Work.LOAD: script.LOADED,
    Work.FREE: script.FREED,
    Work.PREPARE: script.PREPARED,
    Work.POPULATE: script.POPULATED,
}
_ON_VMM: Final = frozenset({Work.PAUSE, Work.RESUME, Work.OPEN_GATE, Work.LOAD, Work.FREE})


def _cut_off(draft: Draft, who: int) -> Iterator[Draft]:
    """Whoever worked for ``who`` is cut off: what was under way is done, or not, and the link ends
    somewhere in what had been said.
    """
    operations = draft.sides[who].pending
    for done in product(*(_fates(draft, who, operation) for operation in operations)):
        for spoken in _prefixes(draft.sides[1 - who].heard, is_cut=draft.is_linked):
            after = draft.copy()
            for operation, fate in zip(operations, done, strict=True):
                _meet(after, who, operation, fate)
            if after.is_linked:
                other = after.sides[1 - who]
                after.sides[1 - who] = other.with_heard((*spoken, Message.END))
                after.is_linked = False
            after.sides[who] = after.sides[who].with_heard(())
            yield after


class _Fate(IntEnum):
    """What became of work whose asker is gone."""

    NOT_DONE = 0
    DONE = 1
    ASTRAY = 2


def _fates(draft: Draft, who: int, operation: Operation) -> tuple[_Fate, ...]:
    if operation.work is Work.WRITE_REGISTER:
        late = (_Fate.ASTRAY,) if draft.left.strays else ()
        return (_Fate.NOT_DONE, _Fate.DONE, *late)
    if operation.work in _ON_VMM and draft.sides[who].vmm is not Vmm.DEAD:
        return (_Fate.NOT_DONE, _Fate.DONE)
    return (_Fate.NOT_DONE,)


def _meet(draft: Draft, who: int, operation: Operation, fate: _Fate) -> None:
    if fate is _Fate.ASTRAY:
        _let_stray(draft, operation)
    elif fate is _Fate.DONE and operation.work is Work.WRITE_REGISTER:
        draft.write(operation)
    elif fate is _Fate.DONE:
        _apply(draft, who, operation.work)


def _may_stray(world: World, operation: Operation) -> bool:
    return world.left.strays > 0 and operation not in world.strays


def _let_stray(draft: Draft, operation: Operation) -> None:
    draft.left = draft.left._replace(strays=draft.left.strays - 1)
    draft.strays = tuple(sorted({*draft.strays, operation}))


def _speech(world: World) -> bool:
    return any(message for side in world[:2] for message in side.heard)  # type: ignore[attr-defined]


def _link_breaks(world: World) -> Iterator[Move]:
    """Both hosts hear a beginning of what was said to them, then the end."""
    left = world.left._replace(link_losses=world.left.link_losses - 1)
    for to_source in _prefixes(world.source.heard, is_cut=True):
        for to_destination in _prefixes(world.destination.heard, is_cut=True):
            draft = Draft(world)
            draft.left = left
            for who, heard in enumerate((to_source, to_destination)):
                side = draft.sides[who]
                if world.is_linked or side.heard:
                    draft.sides[who] = side.with_heard((*heard, Message.END))
            draft.is_linked = False
            yield _move(Label(What.LINK_BREAKS), Kind.FAULT, draft)


def _prefixes(heard: tuple[Message, ...], *, is_cut: bool) -> Iterator[tuple[Message, ...]]:
    """Each beginning of ``heard``, without its END; if not cut, all of it."""
    spoken = heard[:-1] if heard and heard[-1] is Message.END else heard
    if not is_cut:
        yield spoken
        return
    for length in range(len(spoken) + 1):
        yield spoken[:length]


def _subsets(facts: int) -> Iterator[int]:
    """All subsets of a set of bits."""
    subset = facts
    while True:
        yield subset
        if not subset:
            return
        subset = (subset - 1) & facts


def beginning(moves: Moves, budget: Budget) -> World:
    """Both roles prepared, nothing said; the coordinator has not started the source."""
    first = moves.records.number(script.FIRST_RECORD)
    outcome = moves.roles[DESTINATION].begin((first,))
    assert outcome.deeds
    draft = Draft(
        World(
            source=Side(UNBORN, Vmm.RUNNING, Image.CURRENT),
            destination=Side(outcome.role, Vmm.NONE, Image.NONE),
            is_linked=False,
            register=(first,),
            strays=(),
            is_overruled=False,
            left=budget,
        )
    )
    for deed in outcome.deeds:
        assert deed.operation is not None
        draft.begin(DESTINATION, deed.operation)
    return draft.world()


def stun_intended(moves: Moves, budget: Budget) -> World:
    """Pre-copy has converged; the source has said in the log that it is about to stun."""
    world = beginning(moves, Budget())
    source_waits = Operation(Work.AWAIT_LOG)
    for _ in range(_STEPS_MAX):
        if source_waits in world.source.pending:
            return world._replace(left=budget)
        due = [move for move in moves.of(world) if _is_progress(move)]
        world = due[0].world
    raise AssertionError("the stun is never intended")


_STEPS_MAX: Final = 20


def _is_progress(move: Move) -> bool:
    return move.kind is Kind.DUE and move.label.what in (What.STARTS, What.DONE, What.HEARS)
