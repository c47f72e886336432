"""A tiny world around the real cores: link, log, register and memory, all under a test's control.

Nothing happens by itself. ``World.actions`` lists what could happen next; a test picks one and does
it. Each thing that a core wants done is checked against the invariants at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crashes import restart
from invariants import check_invariants, check_wanted, has_image
from outcomes import fail, succeed
from parts import (
    COORDINATOR,
    DEADLINES,
    DESTINATION,
    FALLIBLE,
    LIMITS,
    MIGRATION,
    ON_LINK,
    ON_VMM,
    PAGE_BYTES,
    PAGES,
    SOURCE,
    SPEC,
    START_NS,
    STEPS,
    Action,
    Journal,
    Link,
    Outgoing,
    Pending,
    Role,
    Step,
    Vmm,
    peer,
)
from rendering import Story
from world_log import WorldLog

from godwit_protocol import link
from godwit_protocol import register as reg
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.roles import coordinator, destination, source
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.coordinator_facts import Facts, input_of
from godwit_protocol.roles.inputs import Input


class World:
    """One migration of machine ``m1`` from host-1 to host-2."""

    def __init__(
        self,
        limits: ev.Limits = LIMITS,
        verify: ev.Verify = ev.Verify.OFF,
        steps: Mapping[Role, Step] = STEPS,
        *,
        is_strict: bool = True,
    ) -> None:
        self.steps = steps
        self.is_strict = is_strict
        """Whether a role may not even want what would break an invariant."""
        self.now_ns = START_NS
        self.states: dict[Role, Any] = {SOURCE: None, DESTINATION: None}
        self.states[COORDINATOR] = coordinator.begin(MIGRATION)
        self.phases_seen: dict[Role, set[str]] = {role: set() for role in Role}
        self.samples: dict[tuple[Role, str], list[Any]] = {}
        self.finished: set[Role] = set()
        self.dead: set[Role] = set()
        self.down: set[Role] = set()
        """Services that have died, and will be started again; ``crashes`` does both."""
        self.restarted: set[Role] = set()
        self.decisions: dict[Role, Event] = {}
        """What each host's role began with."""
        self.journals = {SOURCE: Journal(), DESTINATION: Journal()}
        self.vmm_died = False
        self.is_lost = False
        """The VMM or host that held the machine alone has died."""
        self.writes_lost = 0
        self.register = [reg.started(SPEC.name, SOURCE.host, None)]
        self.strays: list[fx.CompareAndSet] = []
        self.vmms = {SOURCE: Vmm([0] * PAGES, executes=True, has_run=True), DESTINATION: Vmm()}
        self.link = Link()
        self.log = WorldLog()
        self.cursors = dict.fromkeys(Role, 0)
        self.pending: list[Pending] = []
        self.notices: list[tuple[Role, Input]] = []
        self.at_stun: list[int] | None = None
        self.writes = 0
        self.rounds_sent: set[int] = set()
        self.rounds_received: set[int] = set()
        self.final_round = 0
        self.refuse_reservation = False
        self.quarantined = False
        self.known = Facts()
        """What the coordinator has been told since it started."""
        self.folds_until = 0
        """So many events stood in the log when the coordinator was last started."""
        self.claimed = False
        self.effects: list[tuple[Role, fx.Effect]] = []
        self.story = Story()
        request = ev.MigrationRequested(
            machine=SPEC.name, destination=DESTINATION.host, limits=limits, verify=verify
        )
        self.say_to_log(request)

    # What can happen.

    def actions(self) -> list[Action]:
        """All that can happen now, in a stable order; the first are the oldest."""
        found: list[Action] = []
        for notice in self.notices:
            found.append(Action(f"notice to {notice[0].value}", lambda n=notice: self._notice(n)))
        for role in (SOURCE, DESTINATION):
            if self.link.control[role]:
                found.append(Action(f"deliver to {role.value}", lambda r=role: self._deliver(r)))
        if self.link.bulk:
            found.append(Action("deliver pages", self._deliver_bulk))
        for role in Role:
            if self.log.outbox[role]:
                found.append(Action(f"store of {role.value}", lambda r=role: self._store_next(r)))
        for role in Role:
            if role in self.dead | self.down or self._waits_for_claim(role):
                continue
            if self.cursors[role] < len(self.log.recorded):
                found.append(Action(f"tell {role.value}", lambda r=role: self._read_log(r)))
        for pending in self.pending:
            found += self._outcomes(pending)
        for role in Role:
            if role in self.down:
                found.append(Action(f"restart of {role.value}", lambda r=role: restart(self, r)))
        for stray in self.strays:
            found.append(Action("stray lands", lambda s=stray: self._stray_lands(s), fault=True))
        for late in self.log.late:
            found.append(Action("late decision lands", lambda x=late: self._late_lands(x), True))
        return found + self._troubles()

    def _troubles(self) -> list[Action]:
        """Faults that may come at any time."""
        found: list[Action] = []
        if self.link.up:
            found.append(Action("link breaks", self.break_link, fault=True))
        head = next(iter(self.log.outbox[SOURCE]), None)
        if head is not None and head.acknowledges:
            found.append(Action("log does not answer", self._append_fails, fault=True))
        if DESTINATION not in self.dead and DESTINATION in self.decisions:
            found.append(Action("destination host dies", self.kill_destination, fault=True))
        for role in (SOURCE, DESTINATION):
            if peer(role) in self.dead and self.states[role] is not None:
                found.append(Action("fenced", lambda r=role: self._proven(r), fault=True))
        return found

    def _outcomes(self, pending: Pending) -> list[Action]:
        role, effect = pending
        name = type(effect).__name__

        def come_right() -> None:
            self._done(pending)
            succeed(self, role, effect)

        def go_wrong() -> None:
            self._done(pending)
            fail(self, role, effect)

        found = []
        if self._can_succeed(role, effect):
            found.append(Action(f"{name} succeeds", come_right))
        if self._can_fail(role, effect):
            fault = not self._is_stuck(role, effect)
            found.append(Action(f"{name} fails", go_wrong, fault))
        if isinstance(effect, fx.CompareAndSet):
            for lands in (True, False):

                def unclear(lands: bool = lands) -> None:
                    self._done(pending)
                    self._unclear(role, effect, lands=lands)

                word = "written" if lands else "on its way"
                found.append(Action(f"{name} unclear, {word}", unclear, fault=True))
        return found

    def _can_succeed(self, role: Role, effect: fx.Effect) -> bool:
        match effect:
            case fx.OpenLink():
                return False  # by Welcome
            case fx.SendRound() | fx.SendFinal():
                return self.link.up and effect.round not in self.rounds_sent
            case fx.LoadImage():
                return self.final_round in self.rounds_received
            case fx.ResumeMachine() | fx.OpenGate():
                return not self.vmms[role].broken
            case fx.FreeMemory():
                return not any(
                    other.role is role and isinstance(other.effect, ON_VMM)
                    for other in self.pending
                )
            case _:
                return True

    def _is_stuck(self, role: Role, effect: fx.Effect) -> bool:
        """Whether it can only fail, once its own deadline passes."""
        if isinstance(effect, fx.ResumeMachine | fx.OpenGate):
            return self.vmms[role].broken
        if isinstance(effect, fx.LoadImage):
            return not self.link.up and self.final_round not in self.rounds_received
        return isinstance(effect, ON_LINK) and not self.link.up

    def _waits_for_claim(self, role: Role) -> bool:
        """A coordinator folds no more of the history before it knows what became of the claim."""
        return self._folds(role) and any(item.role is role for item in self.pending)

    def _folds(self, role: Role) -> bool:
        return role is COORDINATOR and self.cursors[role] < self.folds_until

    def _can_fail(self, role: Role, effect: fx.Effect) -> bool:
        if isinstance(effect, fx.TakeClaim) and self.claimed:
            return False
        if isinstance(effect, fx.SendRound) and self.link.up:
            return effect.round not in self.rounds_sent
        return isinstance(effect, (*ON_LINK, *FALLIBLE))

    # Doing it.

    def tell(self, role: Role, given: Input, at_ns: int | None = None) -> None:
        """One step of a role's core, and its effects. ``at_ns``: when that was so; None: now."""
        state = self.states[role]
        if state is None or role in self.dead:
            return
        self.now_ns += 10_000
        self.samples.setdefault((role, str(state.phase)), []).append(state)
        core_ns = self.now_ns if at_ns is None else at_ns
        after, effects = self.steps[role](state, given, core_ns)
        self.story.told(self.now_ns, role, given, state.phase, after.phase)
        self._take(role, after, effects)

    def _take(self, role: Role, state: Any, effects: tuple[fx.Effect, ...]) -> None:
        self.states[role] = state
        self.phases_seen[role].add(str(state.phase))
        self.samples.setdefault((role, str(state.phase)), []).append(state)
        for effect in effects:
            self.effects.append((role, effect))
            self.story.wanted(effect)
            self._perform(role, effect)

    def begin(self, role: Role, what: str, state: Any, effects: tuple[fx.Effect, ...]) -> None:
        """A role's core begins, or goes on after a restart."""
        before = self.phase(role) or "-"
        self.story.told(self.now_ns, role, what, before, state.phase)
        self._take(role, state, effects)

    def _perform(self, role: Role, effect: fx.Effect) -> None:
        match effect:
            case fx.Append():
                self._append(role, effect)
            case fx.Say():
                self._say(role, effect.message)
            case fx.SayStage():
                self.final_round = effect.round
                stage = link.Stage(round=effect.round, checkpoint=b"", verify=effect.verify)
                self._say(role, stage)
            case fx.CloseLink():
                if self.link.up and role not in self.link.closing:
                    self.link.closing.add(role)
                    self.link.control[peer(role)].append(None)
            case fx.Finish():
                self.finished.add(role)
            case fx.AwaitFlush():
                self.journals[role].flush()
            case fx.SetBandwidth():
                pass  # no link has a rate
            case _:
                if self.is_strict:
                    check_wanted(self, role, effect)
                self._begin(role, effect)

    def _begin(self, role: Role, effect: fx.Effect) -> None:
        self.pending.append(Pending(role, effect))
        match effect:
            case fx.OpenLink():
                listening = self.states[DESTINATION]
                if listening is not None and not {DESTINATION} & (self.dead | self.restarted):
                    self.link = Link(up=True)
                    hello = link.Hello(
                        version=1,
                        migration=MIGRATION,
                        machine=SPEC.name,
                        epoch=self.states[SOURCE].epoch if self.states[SOURCE] else 1,
                        regions=SPEC.regions(),
                        extents=(),
                        connections=2,
                    )
                    self.link.control[DESTINATION].append(hello)
            case fx.ResumeMachine() | fx.OpenGate():
                self.vmms[role].executes = not self.vmms[role].broken
                check_invariants(self)
            case fx.FreeMemory():
                self.vmms[role].executes = False
                check_invariants(self)

    def _deliver_bulk(self) -> None:
        number, pages = self.link.bulk.popleft()
        memory = self.vmms[DESTINATION].pages
        if DESTINATION in self.dead or memory is None:
            return
        for page, version in pages.items():
            memory[page] = version
        self.rounds_received.add(number)
        size = len(pages) * PAGE_BYTES
        received = inp.RoundReceived(round=number, pages=len(pages), received_bytes=size)
        self.tell(DESTINATION, received)

    def _deliver(self, role: Role) -> None:
        message = self.link.control[role].popleft()
        if message is None:
            self.link.up = False
            self.notices.append((role, inp.LinkLost(message="the peer closed the link")))
        elif isinstance(message, link.Welcome):
            self._conclude(fx.OpenLink, inp.LinkUp(connections=2, resident_bytes=1, populate_ns=1))
        elif isinstance(message, link.RoundApplied):
            self._round_applied(message)
        elif role not in self.link.closing:
            self.tell(role, self._heard(message))

    def _heard(self, message: link.LinkMessage) -> Input:
        heard: dict[type, Callable[[Any], Input]] = {
            link.Hello: lambda m: inp.PeerHello(register_epoch=m.epoch),
            link.Stage: lambda m: inp.PeerStage(verify=m.verify),
            link.Go: lambda _: inp.PeerGo(heard_ns=self.now_ns),
            link.Abort: lambda m: inp.PeerAbort(reason=m.reason),
            link.Runs: lambda _: inp.PeerRuns(),
            link.Staged: lambda _: inp.PeerStaged(heard_ns=self.now_ns),
            link.Active: lambda m: inp.PeerActive(epoch=m.epoch),
            link.Refuse: lambda m: inp.PeerRefused(reason=m.reason, message=m.message),
            link.Quarantined: lambda _: inp.PeerQuarantined(),
        }
        return heard[type(message)](message)

    def _round_applied(self, message: link.RoundApplied) -> None:
        remaining = len(self.vmms[SOURCE].dirty) * PAGE_BYTES
        figures = ev.RoundFigures(
            round=message.round,
            pages=message.pages,
            sent_bytes=message.applied_bytes,
            wire_bytes=message.applied_bytes,
            duration_ns=1_000_000 * max(message.pages, 1),
            scan_ns=10_000,
            remaining_bytes=remaining,
        )
        self._conclude(fx.SendRound, inp.RoundDone(figures=figures))

    def _conclude(self, kind: type[fx.Effect], given: Input) -> None:
        waiting = [item for item in self.pending if isinstance(item.effect, kind)]
        if waiting:
            self._done(waiting[0])
            self.tell(SOURCE, given)

    def _say(self, role: Role, message: link.LinkMessage) -> None:
        if self.link.up and role not in self.link.closing:
            self.link.control[peer(role)].append(message)

    def break_link(self) -> None:
        """Whatever is on its way is gone; each side learns of it in its own time."""
        self.link = Link()
        for role in (SOURCE, DESTINATION):
            self.notices.append((role, inp.LinkLost(message="the connection broke")))

    def _notice(self, notice: tuple[Role, Input]) -> None:
        self.notices.remove(notice)
        self.tell(*notice)

    def kill_destination(self) -> None:
        self.kill(DESTINATION)

    def kill(self, role: Role) -> None:
        """The host is gone for good, with its memory, and all that it had not sent."""
        self.dead.add(role)
        self.down.discard(role)
        self.dies(role)
        self.vmms[role] = Vmm(broken=True)
        self.pending = [item for item in self.pending if item.role is not role]
        self.log.outbox[role].clear()
        if self.link.up:
            self.break_link()

    def _proven(self, role: Role) -> None:
        """``role`` has the proof that the other host is off."""
        self.tell(role, inp.PeerFenced())

    def dies(self, role: Role) -> None:
        """What held the machine at ``role``, if it did, is dead. Though it was told to run, it may
        not have run since the stun.
        """
        vmm = self.vmms[role]
        if not vmm.has_run:
            vmm.executes = False
        goes = any(item == Pending(peer(role), fx.FreeMemory()) for item in self.pending)
        self.is_lost |= goes or not (vmm.broken or has_image(self, peer(role)))
        self.vmm_died = vmm.broken = True
        vmm.executes = False

    def stun(self, role: Role) -> None:
        """The guest has done its last step for now."""
        vmm = self.vmms[role]
        vmm.executes = vmm.has_run = False
        self.at_stun = list(vmm.pages or ())

    # The register.

    def register_view(self) -> reg.RegisterView:
        return reg.RegisterView(self.register[-1], len(self.register))

    def write_register(self, effect: fx.CompareAndSet) -> Input:
        if len(self.register) == effect.expected_sequence:
            self.register.append(effect.record)
            check_invariants(self)
        standing = self.register_view()
        assert standing.record is not None
        return inp.CasSettled(won=standing.record.nonce == effect.record.nonce, standing=standing)

    def _unclear(self, role: Role, effect: fx.CompareAndSet, *, lands: bool) -> None:
        if lands:
            self.write_register(effect)
        else:
            self.strays.append(effect)
        self.tell(role, inp.CasUnclear(message="no answer"))

    def _stray_lands(self, effect: fx.CompareAndSet) -> None:
        self.strays.remove(effect)
        self.write_register(effect)

    # The log.

    def _append(self, role: Role, effect: fx.Append) -> None:
        if role in self.journals:
            self.journals[role].append(effect.event, effect.durability)
        self.quarantined |= isinstance(effect.event, ev.ImageQuarantined)
        self.log.put(role, effect, self.now_ns, self.register[-1].epoch)

    def _store_next(self, role: Role) -> None:
        outgoing = self.log.store_next(role, self.now_ns, self.register[-1].epoch)
        if outgoing.acknowledges:
            self.tell(role, inp.Appended(type=outgoing.event.TYPE))

    def _append_fails(self) -> None:
        event = self.log.give_up_waiting(SOURCE)
        self.tell(SOURCE, inp.AppendFailed(type=event.TYPE, message="no answer"))

    def _late_lands(self, late: Outgoing) -> None:
        self.story.outside(self.now_ns, f"{late.event.TYPE} of a dead coordinator arrives")
        self.log.store_late(late, self.now_ns)

    def say_to_log(self, event: Event, lane: Lane = Lane.OPERATOR, host: str = "cli") -> None:
        """An event of somebody outside: the operator, the tracker."""
        self.log.say(event, lane, host, self.now_ns, self.register[-1].epoch)

    def _read_log(self, role: Role) -> None:
        index = self.cursors[role]
        self.cursors[role] += 1
        event, to = self.log.recorded[index].event, self.log.addressed[index]
        if role is COORDINATOR:
            was_ns = self.log.times_ns[index] if index < self.folds_until else None
            self._coordinate(event, was_ns)
        elif to is not None and to.host == role.host:
            self._obey(role, event)

    def _coordinate(self, event: Event, was_ns: int | None) -> None:
        if isinstance(event, rev.ReservationRequested) and self._is_answered():
            pass  # this is after a restart
        elif isinstance(event, rev.ReservationRequested) and not self.refuse_reservation:
            placement = rev.Placement(gpu=0, profile="H100XM-4C", framebuffer_bytes=4 * 1024**3)
            granted = rev.ReservationGranted(
                reservation=MIGRATION, target=event.target, placements=(placement,)
            )
            self.say_to_log(granted, Lane.TRACKER, "tracker-1")
        elif isinstance(event, rev.ReservationRequested):
            refused = rev.ReservationRefused(
                reservation=MIGRATION, target=event.target, code="does_not_fit", message="full"
            )
            self.say_to_log(refused, Lane.TRACKER, "tracker-1")
        given = self._fact(event)
        if given is not None and self.known.is_new(event):
            self.tell(COORDINATOR, given, was_ns)

    def _is_answered(self) -> bool:
        answers = (rev.ReservationGranted, rev.ReservationRefused)
        return any(isinstance(recorded.event, answers) for recorded in self.log.recorded)

    def _fact(self, event: Event) -> Input | None:
        if not isinstance(event, ev.MigrationRequested):
            return input_of(event)
        return inp.Considered(
            machine=event.machine,
            destination=event.destination,
            limits=event.limits,
            verify=event.verify,
            spec=SPEC,
            record=self.register[-1],
            destination_known=True,
        )

    def lose_write(self) -> None:
        """The register's server comes back as it was before its last acknowledged write."""
        self.story.outside(self.now_ns, f"the register loses {self.register.pop().value}")
        self.writes_lost += 1

    def hear_again(self, role: Role) -> None:
        """What was addressed to ``role`` before a restart may not have been heard."""
        for recorded, to in zip(self.log.recorded, self.log.addressed, strict=True):
            if to is not None and to.host == role.host and recorded.sequence <= self.cursors[role]:
                self._obey(role, recorded.event)

    def _obey(self, role: Role, event: Event) -> None:
        view = self.register_view()
        match event:
            case ev.PreparationOrdered() | ev.MigrationStarted() if role in self.decisions:
                pass  # it has begun; this is after a restart
            case ev.PreparationOrdered():
                self.decisions[role] = event
                begun = destination.begin(event, view, migration=MIGRATION, now_ns=self.now_ns)
                self.begin(role, "begins", *begun)
            case ev.MigrationStarted():
                self.decisions[role] = event
                begun_here = source.begin(
                    event, SPEC.name, view, migration=MIGRATION, now_ns=self.now_ns
                )
                self.begin(role, "begins", *begun_here)
            case ev.AbortOrdered():
                self.tell(role, inp.AbortWanted(reason=event.reason, message=event.message))
            case bev.BandwidthOrdered():
                cap = event.bandwidth_bytes_per_second
                self.tell(role, inp.BandwidthOrdered(change=event.change, bytes_per_second=cap))
            case ev.AbortIntended():
                self.tell(role, inp.PeerAbort(reason=event.reason))
            case ev.MigrationAbandoned():
                self.tell(role, inp.PeerRuns())
            case ev.ImageQuarantined():
                self.tell(role, inp.PeerQuarantined())
            case ev.MachineActivated():
                self.tell(role, inp.PeerActive(epoch=self.register[-1].epoch))

    # Time, the guest and the end.

    def guest_writes(self, page: int) -> None:
        """The guest writes a page, wherever it executes."""
        for role in (SOURCE, DESTINATION):
            memory = self.vmms[role].pages
            if self.vmms[role].executes and memory is not None:
                self.writes += 1
                self.vmms[role].has_run = True
                memory[page] = self.writes
                self.vmms[role].dirty.add(page)

    def deadlines(self) -> dict[Role, int]:
        found = {}
        for role in Role:
            waits = role not in self.dead | self.finished and not self._folds(role)
            if self.states[role] is not None and waits:
                deadline_ns = DEADLINES[role](self.states[role])
                if deadline_ns is not None:
                    found[role] = deadline_ns
        return found

    def pass_time(self) -> bool:
        """Let time pass to the next deadline and tick who waits for it. False: nobody waits."""
        deadlines = self.deadlines()
        if not deadlines:
            return False
        role = min(deadlines, key=lambda each: deadlines[each])
        self.now_ns = max(self.now_ns, deadlines[role])
        self.tell(role, inp.Tick())
        again = DEADLINES[role](self.states[role])
        assert again is None or again > self.now_ns, f"{role}: a tick that changes nothing"
        return True

    def drain(self, steps_max: int = 3000) -> None:
        """No more faults: let everything come to its end."""
        for _ in range(steps_max):
            nominal = [action for action in self.actions() if not action.fault]
            if nominal:
                nominal[0].do()
            elif self._only_looks() or not self.pass_time():
                return
        raise AssertionError("the world does not come to rest")

    def _only_looks(self) -> bool:
        """A destination in doubt, which has said so, looks for ever what became of the machine."""
        state = self.states[DESTINATION]
        waits = self.deadlines().keys() == {DESTINATION}
        return waits and state.phase is destination.Phase.STAGED and state.alarmed

    def run_until(self, done: Callable[[], bool], steps_max: int = 3000) -> None:
        """Do the oldest thing that is no fault, again and again, until ``done``."""
        for _ in range(steps_max):
            if done():
                return
            nominal = [action for action in self.actions() if not action.fault]
            assert nominal, "nothing is left to happen"
            nominal[0].do()
        raise AssertionError("it never came to that")

    def phase(self, role: Role) -> str:
        return str(self.states[role].phase) if self.states[role] is not None else ""

    def do(self, name: str) -> None:
        """Do the action called ``name``."""
        next(action for action in self.actions() if action.name == name).do()

    def _done(self, pending: Pending) -> None:
        self.pending.remove(pending)
