"""Two trackers and one ledger: whatever is delayed, lost or doubled, no GPU is ever overbooked."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from godwit.catalogue.loading import load
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.reservation import ReservationGranted, ReservationRefused
from godwit_protocol.ledger import (
    EntryKind,
    HostPicture,
    LedgerEntry,
    ProfileWanted,
    Refusal,
    RefusalCode,
    apply,
    decide,
)
from godwit_protocol.roles import tracker
from godwit_protocol.roles.effects import Effect
from godwit_protocol.roles.inputs import Input

TRACKERS_MAX = 2
CATALOGUE = load()
MODEL = "H100-80GB"
OTHER = "L40S-8C"
PROFILES = ["1g.10gb", "1g.10gb+me", "2g.20gb", "3g.40gb", "4g.40gb", "H100XM-40C", "H100XM-10C"]
GPUS = tuple(
    GpuInventory(
        index=index, model=MODEL, memory_bytes=CATALOGUE.model(MODEL).memory_bytes, simulated=True
    )
    for index in range(2)
)
HOSTS = {"host-1": GPUS, "host-2": GPUS[:1], "host-3": ()}
RESERVATIONS = [f"r{number}" for number in range(8)]
CHOICE = st.integers(0, 63)
TIME = st.integers(0, 10)
WHICH = st.integers(0, TRACKERS_MAX - 1)
GONE = -1
"""Whose write it was: of a life that nobody answers any more."""
Fate = tracker.ReservationUsed | tracker.ReservationOver


class Line(NamedTuple):
    entry: LedgerEntry
    sequence: int


class TrackerMachine(RuleBasedStateMachine):
    """Requests, ends, and every way in which the log can be late."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[tracker.TrackerState] = []
        self.events: list[Input] = [
            tracker.HostSeen(host=host, gpus=gpus) for host, gpus in HOSTS.items()
        ]
        self.seen = [0] * TRACKERS_MAX
        self.ledger: list[Line] = []
        self.read = [0] * TRACKERS_MAX
        self.writes: list[tuple[int, tracker.WriteLedger]] = []
        self.answers: list[dict[str, list[object]]] = []
        self.wanted: dict[str, tracker.ReservationWanted] = {}
        self.outlived: list[set[str]] = [set() for _ in range(TRACKERS_MAX)]
        """What each replica, started again, found over before it was decided."""

    @initialize(trackers=st.integers(1, TRACKERS_MAX))
    def begin(self, trackers: int) -> None:
        self.states = [tracker.TrackerState(catalogue=CATALOGUE)] * trackers
        self.answers = [{} for _ in range(trackers)]
        for which in range(trackers):
            for _ in HOSTS:
                self.hear(which)

    # The world.

    def take(self, which: int, result: tuple[tracker.TrackerState, tuple[Effect, ...]]) -> None:
        self.states[which], effects = result
        for effect in effects:
            if isinstance(effect, tracker.WriteLedger):
                self.writes.append((which, effect))
            else:
                assert isinstance(effect, tracker.Answer)
                event = effect.append.event
                if isinstance(event, ReservationGranted) or (
                    isinstance(event, ReservationRefused) and event.code != RefusalCode.EXPIRED
                ):
                    self.answers[which].setdefault(effect.reservation, []).append(event)

    def tell(self, which: int, given: Input) -> None:
        self.take(which, tracker.step(self.states[which], given))

    def last_sequence(self, host: str) -> int:
        return max((line.sequence for line in self.ledger if line.entry.host == host), default=0)

    def store(self, write: tracker.WriteLedger) -> bool:
        """Exact compare-and-set on the host's subject."""
        if self.last_sequence(write.entry.host) != write.expected_sequence:
            return False
        if write.entry.kind is EntryKind.EXPIRED:
            held = self.picture(write.entry.host).holdings[write.entry.reservation]
            assert held.has_lapsed(max(held.expires_wall_ns, 1))
        self.ledger.append(Line(write.entry, len(self.ledger) + 1))
        return True

    def picture(self, host: str, before: int | None = None) -> HostPicture:
        picture = HostPicture(host=host, announced=True, gpus=HOSTS[host])
        for entry, sequence in self.ledger:
            if entry.host == host and (before is None or sequence < before):
                picture = apply(picture, entry, sequence)
        return picture

    # What happens.

    @rule(
        reservation=st.sampled_from(RESERVATIONS),
        host=st.sampled_from(sorted(HOSTS)),
        profiles=st.lists(st.sampled_from([*PROFILES, OTHER]), max_size=2),
        expires=TIME,
    )
    def want(self, reservation: str, host: str, profiles: list[str], expires: int) -> None:
        offered = [CATALOGUE.profile(name) for name in profiles]
        vgpus = tuple(
            ProfileWanted(
                profile=item.name, models=item.models, framebuffer_bytes=item.framebuffer_bytes
            )
            for item in offered
        )
        wanted = tracker.ReservationWanted(
            reservation=reservation,
            machine="m1",
            host=host,
            vgpus=vgpus,
            expires_wall_ns=expires,
        )
        self.events.append(self.wanted.setdefault(reservation, wanted))

    @rule(choice=CHOICE, ends=st.booleans())
    def use_or_end(self, choice: int, ends: bool) -> None:
        if self.wanted:
            reservation = sorted(self.wanted)[choice % len(self.wanted)]
            over = tracker.ReservationOver(reservation=reservation, why="over")
            self.events.append(over if ends else tracker.ReservationUsed(reservation=reservation))

    @rule(which=WHICH, choice=CHOICE, now=TIME)
    def lapse(self, which: int, choice: int, now: int) -> None:
        """A replica's clock, which may be wrong, says so, and it has found nobody in the log."""
        if self.wanted:
            reservation = sorted(self.wanted)[choice % len(self.wanted)]
            given = tracker.ReservationLapsed(reservation=reservation, now_wall_ns=now)
            self.tell(which % len(self.states), given)

    @rule(which=WHICH)
    def hear(self, which: int) -> None:
        which %= len(self.states)
        if self.seen[which] < len(self.events):
            self.seen[which] += 1
            self.tell(which, self.events[self.seen[which] - 1])

    @rule(which=WHICH)
    def follow(self, which: int) -> None:
        which %= len(self.states)
        if self.read[which] < len(self.ledger):
            self.read[which] += 1
            line = self.ledger[self.read[which] - 1]
            self.tell(which, tracker.LedgerStored(**line._asdict()))
            if line.entry.kind is EntryKind.HELD:
                self.say_fate(which, line.entry.reservation)

    def say_fate(self, which: int, reservation: str) -> None:
        """What the events that were heard say of a reservation, once the ledger has it."""
        fate = self.fates(which).get(reservation)
        if fate is not None:
            self.tell(which, fate)

    def fates(self, which: int) -> dict[str, Fate]:
        heard = self.events[: self.seen[which]]
        return {event.reservation: event for event in heard if isinstance(event, Fate)}

    @rule(which=WHICH, choice=CHOICE)
    def hear_again(self, which: int, choice: int) -> None:
        which %= len(self.states)
        if self.seen[which]:
            self.tell(which, self.events[choice % self.seen[which]])

    @rule(which=WHICH, choice=CHOICE)
    def follow_again(self, which: int, choice: int) -> None:
        which %= len(self.states)
        if self.read[which]:
            line = self.ledger[choice % self.read[which]]
            self.tell(which, tracker.LedgerStored(**line._asdict()))

    @rule(choice=CHOICE, answered=st.booleans(), lost=st.booleans())
    def write(self, choice: int, answered: bool, lost: bool) -> None:
        """A write arrives, or not; a failure, or silence, is told as a refusal."""
        if self.writes:
            which, write = self.writes.pop(choice % len(self.writes))
            stored = self.store(write) if answered or not lost else False
            if which != GONE and not (stored and answered):
                self.tell(which, tracker.LedgerRefused(host=write.entry.host))

    @rule(which=WHICH)
    def retry(self, which: int) -> None:
        which %= len(self.states)
        self.take(which, tracker.retry(self.states[which]))

    @rule(which=WHICH)
    def restart(self, which: int) -> None:
        """A replica dies and is started again: as production, it folds the ledgers first and then
        the events, and does what these lack. What it was writing may arrive, now or later.
        """
        which %= len(self.states)
        self.writes = [(GONE if of == which else of, write) for of, write in self.writes]
        self.states[which] = tracker.TrackerState(catalogue=CATALOGUE)
        for line in self.ledger:
            self.tell(which, tracker.LedgerStored(**line._asdict()))
        self.read[which], self.seen[which] = len(self.ledger), len(self.events)
        for event in self.events:
            if isinstance(event, tracker.HostSeen):
                self.tell(which, event)
        self.do_what_lacks(which)

    def do_what_lacks(self, which: int) -> None:
        """Ask again for what nobody has answered, unless it is over; end what is left held."""
        fates = self.fates(which)
        for event in self.events:
            if isinstance(event, tracker.ReservationWanted):
                if event.reservation in fates:
                    self.outlived[which].add(event.reservation)
                elif event.reservation not in self.answers[which]:
                    self.tell(which, event)
        for picture in self.states[which].hosts.values():
            for reservation in picture.holdings:
                self.say_fate(which, reservation)

    # What must hold.

    @invariant()
    def never_overbooked(self) -> None:
        for host, gpus in HOSTS.items():
            picture = self.picture(host)
            assert all(picture.free_bytes(gpu.index) >= 0 for gpu in gpus)
            placed = [item for held in picture.holdings.values() for item in held.placements]
            for gpu in gpus:
                here = [item for item in placed if item.gpu == gpu.index]
                slots = [n for item in here for n in range(item.start, item.start + item.slots)]
                assert len(slots) == len(set(slots)), here
                assert len({item.mode for item in here}) <= 1, here

    @invariant()
    def each_request_is_decided_once(self) -> None:
        decided = [
            line.entry.reservation
            for line in self.ledger
            if line.entry.kind in (EntryKind.HELD, EntryKind.REFUSED)
        ]
        assert len(decided) == len(set(decided)), decided

    @invariant()
    def nobody_is_told_two_things(self) -> None:
        told: dict[str, set[type]] = {}
        for answers in self.answers:
            for reservation, events in answers.items():
                told.setdefault(reservation, set()).update(type(event) for event in events)
        assert all(len(kinds) == 1 for kinds in told.values()), told

    def teardown(self) -> None:
        self.settle()
        self.check_answers()
        self.events += [
            tracker.ReservationOver(reservation=reservation, why="end")
            for reservation in self.wanted
        ]
        self.settle()
        for host, gpus in HOSTS.items():
            picture = self.picture(host)
            assert not picture.holdings
            assert all(picture.free_bytes(gpu.index) == gpu.memory_bytes for gpu in gpus)

    def settle(self) -> None:
        """Everything arrives; then nobody waits any more."""
        for _ in range(400):
            if self.at_rest():
                break
            for which in range(len(self.states)):
                self.hear(which)
                self.follow(which)
                self.retry(which)
            while self.writes:
                self.write(0, answered=True, lost=False)
        for state in self.states:
            assert not any(state.waiting.values()), state.waiting

    def at_rest(self) -> bool:
        count = len(self.states)
        heard = self.seen[:count] == [len(self.events)] * count
        followed = self.read[:count] == [len(self.ledger)] * count
        waiting = any(any(state.waiting.values()) for state in self.states)
        return heard and followed and not waiting and not self.writes

    def check_answers(self) -> None:
        for answers, outlived in zip(self.answers, self.outlived, strict=False):
            assert answers.keys() | outlived == self.wanted.keys()
        for entry, sequence in self.ledger:
            if entry.kind in (EntryKind.HELD, EntryKind.REFUSED):
                wanted = self.wanted[entry.reservation]
                right = decide(
                    self.picture(entry.host, sequence), entry.host, wanted.vgpus, CATALOGUE
                )
                assert right == (entry.refusal or entry.placements)
                if isinstance(right, Refusal):
                    self.check_refusal(right.code, wanted)

    def check_refusal(self, code: RefusalCode, wanted: tracker.ReservationWanted) -> None:
        unsuited = any(vgpu.profile == OTHER for vgpu in wanted.vgpus)
        expected = {
            RefusalCode.NO_GPU: not HOSTS[wanted.host],
            RefusalCode.MODEL_MISMATCH: unsuited,
            RefusalCode.DOES_NOT_FIT: not unsuited,
        }
        assert expected[code], (code, wanted)


TrackerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestTracker = TrackerMachine.TestCase
