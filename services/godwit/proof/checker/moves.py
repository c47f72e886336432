"""All that can happen next in a checked world: what is due, what an operator may do, every fault.

Each move tells one core one thing and carries out what it wants done, or changes the world behind
the cores' backs. Where chance has a say, each possibility is a move of its own. It must not know in
which order worlds are searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from godwit_protocol import register as reg
from godwit_protocol.roles import coordinator
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.inputs import Input

from . import script, wreckage
from .cores import (
    NOTHING,
    Core,
    Deed,
    DeedKind,
    Found,
    Known,
    Operation,
    Outcome,
    Records,
    Roles,
    Shown,
    Work,
    standing,
)
from .endings import Endings, Step
from .facts import Fact
from .happenings import Kind, Label, Move, What, moved
from .results import Results
from .script import Message
from .world import (
    DESTINATION,
    DOWN,
    GONE,
    NOTHING_LOST,
    SOURCE,
    UNBORN,
    Draft,
    Echo,
    Image,
    Side,
    Violation,
    Vmm,
    World,
)

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
WRITING: Final = frozenset({Work.WRITE_REGISTER, Work.WRITTEN, Work.UNHEARD})
RUNNING: Final = WRITING | {Work.RESUME, Work.OPEN_GATE}
"""What a side has under way that is about to run the machine."""
_AS_IT_IS: Final = 0
_OLD: Final = 1
_GONE_BACK: Final = 2
"""What a restarted service is shown of the register."""
_FOUND: Final = {
    Vmm.LOADED: Found.IMAGE,
    Vmm.PAUSED: Found.IMAGE,
    Vmm.RUNNING: Found.RUNNING,
}
_POSTED: Final = tuple(sum(fact for fact, _ in ADDRESSED[1 - who]) for who in (SOURCE, DESTINATION))
"""The facts that each side addresses to the other, as bits."""


class Moves:
    """The moves of one pair of cores."""

    def __init__(
        self,
        source: Core,
        destination: Core,
        *,
        is_strict: bool = True,
        coordinate: Step = coordinator.step,
    ) -> None:
        """``is_strict``: a core that refuses an input breaks a rule; else the input is dropped, as
        a service does with it. ``coordinate``: the coordinator's core.
        """
        self.endings = Endings(coordinate)
        self.records = Records()
        self.roles = (Roles(source, self.records), Roles(destination, self.records))
        self._results = Results(self.records)
        self._orders: dict[tuple[Shown, Shown], Input] = {}
        self._is_strict = is_strict

    def of(self, world: World) -> list[Move]:
        """Every move that is possible in ``world``."""
        return [self._remembering(move) for move in self._all(world)]

    def _remembering(self, move: Move) -> Move:
        """What was lost of the register is remembered until the register shows no less."""
        after = move.world
        if after.seen is NOTHING_LOST:
            return move
        if self.records.has_gone_back(standing(after.register), after.seen):
            return move
        return move._replace(world=after._replace(seen=NOTHING_LOST, knowing=0))

    def known(self, world: World, who: int) -> Known | None:
        """What may be seen of a role; None if its service does not run."""
        role = world.side(who).role
        return self.roles[who].known(role) if role >= 0 else None

    def _all(self, world: World) -> Iterator[Move]:
        for who in (SOURCE, DESTINATION):
            side = world.side(who)
            if side.role == GONE:
                yield from self._return(world, who, side)
                continue
            yield from self._of_service(world, who, side)
            if side.pending:
                yield from self._of_work(world, who, side)
            yield from self._of_death(world, who, side)
            yield from self._help_blind(world, 1 - who, side)
        yield from self._of_world(world)

    # A service is told something.

    def _of_service(self, world: World, who: int, side: Side) -> Iterator[Move]:
        if side.role == DOWN:
            yield from self._restart(world, who, side)
        elif side.role == UNBORN:
            yield from self._start(world, who)
        elif not self.roles[who].known(side.role).is_finished:
            yield from self._inputs(world, who, side)
            if world.left.crashes:
                for crashed in wreckage.crashes(Draft(world), who):
                    yield moved(Label(What.CRASH, who), Kind.FAULT, crashed)

    def _inputs(self, world: World, who: int, side: Side) -> Iterator[Move]:
        known = self.roles[who].known(side.role)
        other = world.side(1 - who)
        if side.heard:
            yield from self._hear(world, who, side)
        yield from self._hear_again(world, who)
        in_the_log = other.posted if other.role == GONE else other.journal
        for fact, given in ADDRESSED[who]:
            if in_the_log & fact:
                yield from self._tell(world, Label(What.LEARNS, who, fact), given, Kind.DUE)
        if known.waits:
            label = Label(What.DEADLINE, who)
            yield from self._tell(world, label, script.TICK, Kind.DUE, is_late=True)
        yield from self._tell(world, Label(What.CANCEL, who), script.ABORT_WANTED, Kind.FAULT)
        yield from self._of_operator(world, who, known)
        if world.left.local_failures:
            yield from self._break(world, who, side)

    def _of_operator(self, world: World, who: int, known: Known) -> Iterator[Move]:
        """Proof that the peer's host is dead, and orders to run the machine. A proof may come when
        the host is on again, and holds all the same: what ran there is gone. An operator who was
        called lets the peer finish its writing; one who was not waits for nothing.
        """
        other = world.side(1 - who)
        if other.vmm is Vmm.LOST:
            called = Kind.OPERATOR if known.is_alarmed else Kind.FAULT
            kind = Kind.DUE if other.role == GONE else called
            yield from self._tell(world, Label(What.FENCED, who), script.PEER_FENCED, kind)
        if not (known.is_peer_off or other.vmm is Vmm.LOST):
            return  # an order has the proof of it fetched first, or is refused
        if known.is_alarmed and not _writes_register(other):
            yield from self._order(world, who, Kind.OPERATOR)
        elif world.left.orders:
            spent = world._replace(left=world.left._replace(orders=world.left.orders - 1))
            yield from self._order(spent, who, Kind.FAULT)

    def _order(self, world: World, who: int, kind: Kind) -> Iterator[Move]:
        """An order to run the machine comes with what the register shows, and what the host has
        seen of it if that was more.
        """
        shown = standing(world.register)
        has_gone_back = self.records.has_gone_back(shown, world.seen)
        if not world.knowing & 1 << who:
            order = Label(What.OVERRULE, who)
            yield from self._tell(world, order, self._ordered(shown, NOTHING_LOST), kind)
        if has_gone_back:
            order = Label(What.OVERRULE, who, _GONE_BACK)
            yield from self._tell(world, order, self._ordered(shown, world.seen), kind)

    def _ordered(self, shown: Shown, seen: Shown) -> Input:
        if (shown, seen) not in self._orders:
            over, back_from = self.records.view(shown), self.records.view(seen)
            self._orders[shown, seen] = inp.RunOrdered(standing=over, seen=back_from)
        return self._orders[shown, seen]

    def _hear(self, world: World, who: int, side: Side) -> Iterator[Move]:
        """The next message is heard; or it is lost; or it will come a second time."""
        message, left = side.heard[0], world.left
        draft = Draft(world)
        draft.sides[who] = side.with_heard(side.heard[1:])
        if message is not Message.END and left.lost_messages:
            lost = draft.copy()
            lost.left = left._replace(lost_messages=left.lost_messages - 1)
            yield moved(Label(What.LOSES, who, message), Kind.FAULT, lost)
        if message is not Message.END and message in script.HEARD and left.doubled_messages:
            doubled = draft.copy()
            doubled.left = left._replace(doubled_messages=left.doubled_messages - 1)
            doubled.echo(Echo(who, message))
            yield from self._take(doubled, Label(What.DOUBLES, who, message), Kind.FAULT)
        yield from self._take(draft, Label(What.HEARS, who, message), Kind.DUE)

    def _take(self, draft: Draft, label: Label, kind: Kind) -> Iterator[Move]:
        message = Message(label.detail)
        opening = Operation(Work.OPEN_LINK)
        if message is not Message.WELCOME:
            yield from self._feed(draft, label, script.HEARD[message], kind)
        elif opening in draft.sides[label.who].pending:
            draft.end(label.who, opening)
            yield from self._feed(draft, label, script.LINK_UP, kind)

    def _hear_again(self, world: World, who: int) -> Iterator[Move]:
        """What came twice may make no sense any more: a service then takes the link for lost."""
        for echo in world.echoes:
            if echo.who != who:
                continue
            draft = Draft(world)
            draft.echoes = tuple(item for item in world.echoes if item != echo)
            roles, role = self.roles[who], world.side(who).role
            outcome = roles.step(role, script.HEARD[echo.message])
            if outcome.refusal:
                outcome = roles.step(role, script.LINK_LOST)
            label = Label(What.HEARS_AGAIN, who, echo.message)
            yield from self._carry_out(draft, label, Kind.FAULT, outcome)

    def _break(self, world: World, who: int, side: Side) -> Iterator[Move]:
        """Something fails that is none of the VMM's: a failure of the VMM says that it is dead. Nor
        does a write of the register fail so: a destination that makes one has looked at its VMM.
        """
        if any(operation.work in wreckage.ON_VMM | WRITING for operation in side.pending):
            return
        draft = Draft(world)
        draft.left = draft.left._replace(local_failures=draft.left.local_failures - 1)
        yield from self._feed(draft, Label(What.BREAKS, who), script.FAILED, Kind.FAULT)

    def _tell(
        self, world: World, label: Label, given: Input, kind: Kind, *, is_late: bool = False
    ) -> Iterator[Move]:
        """Tell a role something, unless it would change nothing."""
        role = world.side(label.who).role
        outcome = self.roles[label.who].step(role, given, is_late=is_late)
        if outcome.role == role and not outcome.deeds and not outcome.refusal:
            return
        draft = Draft(world)
        if label.what is What.OVERRULE and outcome.role != role:
            draft.order(label.who)
        yield from self._carry_out(draft, label, kind, outcome)

    def _feed(self, draft: Draft, label: Label, given: Input | None, kind: Kind) -> Iterator[Move]:
        """Tell a role, if it still listens, and carry out what it wants."""
        roles, role = self.roles[label.who], draft.sides[label.who].role
        if given is None or role < 0 or roles.known(role).is_finished:
            yield moved(label, kind, draft)
        else:
            yield from self._carry_out(draft, label, kind, roles.step(role, given))

    def _carry_out(
        self, draft: Draft, label: Label, kind: Kind, outcome: Outcome
    ) -> Iterator[Move]:
        """The effects in order; and, as faults, all but the last few of them."""
        who = label.who
        if outcome.refusal and self._is_strict:
            yield Move(label, kind, draft.world(), Violation.REFUSED, outcome.refusal)
            return
        draft.sides[who] = draft.sides[who].with_role(outcome.role)
        for done, deed in enumerate(outcome.deeds):
            if done and draft.left.crashes:
                for crashed in wreckage.crashes(draft, who):
                    yield moved(label._replace(crashes_after=done), Kind.FAULT, crashed)
            _do(draft, who, deed)
        yield moved(label, kind, draft)

    # Work comes to its end; services, VMMs and hosts come and go.

    def _of_work(self, world: World, who: int, side: Side) -> Iterator[Move]:
        for operation in side.pending:
            for what, kind, draft, told in self._results.of(world, who, operation):
                draft.end(who, operation)
                moves = self._feed(draft, Label(what, who, operation.work), told, kind)
                yield from map(self._without_order, moves) if operation.work in WRITING else moves

    def _without_order(self, move: Move) -> Move:
        """A side that has written what it could, and is not about to run, has obeyed: what it does
        later it does not by that order. Of one that crashes, its next life decides, as of one that
        may be shown that the register names it: by that it may run the machine.
        """
        who, world = move.label.who, move.world
        works = {operation.work for operation in world.side(who).pending}
        if move.label.crashes_after >= 0 or works & RUNNING or self.may_win(world, who):
            return move
        return move._replace(world=world._replace(ordered=world.ordered & ~(1 << who)))

    def may_win(self, world: World, who: int) -> bool:
        """Whether the register names that side by a write of the migration, or has done so, or
        such a write is on its way that was given up for lost.
        """
        numbers = (*world.register, *(stray.record for stray in world.strays))
        given = (self.records[number] for number in numbers)
        host = script.HOSTS[who]
        return any(each.migration == script.MIGRATION and each.owner == host for each in given)

    def _start(self, world: World, who: int) -> Iterator[Move]:
        if _is_prepared(world.destination):
            outcome = self.roles[who].begin(standing(world.register))
            yield from self._carry_out(Draft(world), Label(What.STARTS, who), Kind.DUE, outcome)

    def _restart(self, world: World, who: int, side: Side) -> Iterator[Move]:
        """It reads its journal and the register, which may show what it held before. Of one that
        shows less than its host has seen of it, it is shown nothing.
        """
        found = _FOUND.get(side.vmm, Found.NOTHING)
        shown = standing(world.register)
        may_show = []
        if not world.knowing & 1 << who:
            may_show.append((_AS_IT_IS, shown, Kind.DUE))
            if shown.sequence > 1:
                may_show.append((_OLD, standing(world.register[:-1]), Kind.FAULT))
        if self.records.has_gone_back(shown, world.seen):
            may_show.append((_GONE_BACK, world.seen._replace(record=NOTHING), Kind.DUE))
        for detail, register, kind in may_show:
            outcome = self.roles[who].recover(side.journal, register, found)
            draft = Draft(world)
            draft.knowing |= (detail == _GONE_BACK) << who
            yield from self._carry_out(draft, Label(What.RESTART, who, detail), kind, outcome)

    def _help_blind(self, world: World, who: int, peer: Side) -> Iterator[Move]:
        """A role that was shown nothing of the register does not look again. The operator whom it
        calls starts its service anew; or, if the register shows less still, switches the other host
        off, to be believed. No write is lost after that: what comes of that and a dead host is in
        ``limit``.
        """
        known, left = self.known(world, who), world.left
        if known is None or not (known.is_blind and known.is_alarmed) or known.is_finished:
            return
        if not world.knowing & 1 << who:
            draft = Draft(world._replace(left=left._replace(crashes=left.crashes + 1)))
            for stopped in wreckage.crashes(draft, who):
                yield moved(Label(What.STOPPED, who), Kind.OPERATOR, stopped)
        elif peer.role != GONE and peer.vmm is not Vmm.LOST:
            left = left._replace(host_deaths=left.host_deaths + 1, lost_writes=0)
            draft = Draft(world._replace(left=left))
            for dead in wreckage.host_deaths(draft, 1 - who, _POSTED[1 - who]):
                yield moved(Label(What.SWITCHED_OFF, 1 - who), Kind.OPERATOR, dead)

    def _return(self, world: World, who: int, side: Side) -> Iterator[Move]:
        """The services of a host that was dead are about to be started; nothing runs there."""
        if world.left.host_returns:
            draft = Draft(world)
            draft.left = draft.left._replace(host_returns=draft.left.host_returns - 1)
            draft.sides[who] = side._replace(role=DOWN, posted=0)
            yield moved(Label(What.HOST_RETURNS, who), Kind.FAULT, draft)

    def _of_death(self, world: World, who: int, side: Side) -> Iterator[Move]:
        if world.left.host_deaths:
            for dead in wreckage.host_deaths(Draft(world), who, _POSTED[who]):
                yield moved(Label(What.HOST_DIES, who), Kind.FAULT, dead)
        if world.left.vmm_deaths and Vmm.NONE < side.vmm < Vmm.DEAD:
            draft = Draft(world)
            draft.left = draft.left._replace(vmm_deaths=draft.left.vmm_deaths - 1)
            draft.sides[who] = side._replace(vmm=Vmm.DEAD, image=Image.NONE)
            yield moved(Label(What.VMM_DIES, who), Kind.FAULT, draft)

    # Nobody's doing, but for an operator's whom the coordinator has called.

    def _of_world(self, world: World) -> Iterator[Move]:
        if not world.is_given_up and self.endings.writes_off(world):
            yield self._give_up(world)
        for stray in world.strays:
            draft = Draft(world)
            draft.strays = tuple(item for item in world.strays if item != stray)
            draft.write(stray)
            yield moved(Label(What.STRAY_LANDS), Kind.FAULT, draft)
        if world.left.lost_writes and len(world.register) > 1:
            draft = Draft(world)
            draft.left = draft.left._replace(lost_writes=draft.left.lost_writes - 1)
            draft.lose_write()
            yield moved(Label(What.WRITE_LOST), Kind.FAULT, draft)
        speaks = world.is_linked or any(world.source.heard) or any(world.destination.heard)
        if world.left.link_losses and speaks:
            for broken in wreckage.link_losses(Draft(world)):
                yield moved(Label(What.LINK_BREAKS), Kind.FAULT, broken)

    def _give_up(self, world: World) -> Move:
        """Neither host has anything, by its own word or by the proof that it was off: the register
        says that the machine is lost. It is the coordinator that writes it, again and again until
        it stands. Of a host that has come back nobody has to have got the proof.
        """
        found, first = self.records[world.register[-1]], script.FIRST_RECORD
        lost = reg.lost(found, first.machine, script.MIGRATION, first.epoch)
        assert lost is not None, "nobody but this migration writes the register here"
        draft = Draft(world)
        draft.register = (*world.register, self.records.number(lost))
        draft.is_given_up = True
        kind = Kind.OPERATOR if self.endings.can_end(world) else Kind.FAULT
        return moved(Label(What.GIVE_UP), kind, draft)


def _do(draft: Draft, who: int, deed: Deed) -> None:
    match deed.kind:
        case DeedKind.APPEND:
            draft.post(who, deed.fact, is_synced=deed.is_synced)
        case DeedKind.FLUSH:
            draft.flush(who)
        case DeedKind.SAY:
            assert deed.message is not None
            draft.say(who, deed.message)
        case DeedKind.BEGIN:
            assert deed.operation is not None
            draft.begin(who, deed.operation)
            if deed.operation.work is Work.OPEN_LINK:
                _open_link(draft, who)
        case DeedKind.CLOSE | DeedKind.FINISH:
            draft.close_link(who)


def _open_link(draft: Draft, who: int) -> None:
    target = draft.sides[1 - who]
    if target.role >= 0 and _is_prepared(target):
        draft.is_linked = True
        draft.say(who, Message.HELLO)


def _is_prepared(side: Side) -> bool:
    return bool((side.journal | side.unsynced) & Fact.PREPARED)


def _writes_register(side: Side) -> bool:
    return any(operation.work in WRITING for operation in side.pending)
