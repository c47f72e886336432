"""Two trackers and one ledger: whatever is delayed, lost or doubled, no GPU is ever overbooked."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.migration import ReservationGranted, ReservationRefused
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

TRACKERS = 2
GPU_BYTES = 10
MODEL = "H100-80GB"
GPUS = tuple(
    GpuInventory(index=index, model=MODEL, memory_bytes=GPU_BYTES, simulated=True)
    for index in range(2)
)
HOSTS = {"host-1": GPUS, "host-2": GPUS[:1], "host-3": ()}
RESERVATIONS = [f"r{number}" for number in range(8)]
CHOICE = st.integers(0, 63)
WHICH = st.integers(0, TRACKERS - 1)


class Line(NamedTuple):
    entry: LedgerEntry
    sequence: int


class TrackerMachine(RuleBasedStateMachine):
    """Requests, ends, and every way in which the log can be late."""

    def __init__(self) -> None:
        super().__init__()
        self.states = [tracker.TrackerState()] * TRACKERS
        self.events: list[Input] = [
            tracker.HostSeen(host=host, gpus=gpus) for host, gpus in HOSTS.items()
        ]
        self.seen = [0] * TRACKERS
        self.ledger: list[Line] = []
        self.read = [0] * TRACKERS
        self.writes: list[tuple[int, tracker.WriteLedger]] = []
        self.answers: list[dict[str, list[object]]] = [{} for _ in range(TRACKERS)]
        self.wanted: dict[str, tracker.ReservationWanted] = {}
        for which in range(TRACKERS):
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
                if isinstance(event, ReservationGranted | ReservationRefused):
                    self.answers[which].setdefault(effect.reservation, []).append(event)

    def tell(self, which: int, given: Input) -> None:
        self.take(which, tracker.step(self.states[which], given))

    def last_sequence(self, host: str) -> int:
        return max((line.sequence for line in self.ledger if line.entry.host == host), default=0)

    def store(self, write: tracker.WriteLedger) -> bool:
        """Exact compare-and-set on the host's subject."""
        if self.last_sequence(write.entry.host) != write.expected_sequence:
            return False
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
        sizes=st.lists(st.integers(1, GPU_BYTES + 1), max_size=2),
        model=st.sampled_from([MODEL] * 5 + ["L40S-48GB"]),
    )
    def want(self, reservation: str, host: str, sizes: list[int], model: str) -> None:
        vgpus = tuple(
            ProfileWanted(profile="any", models=(model,), framebuffer_bytes=size) for size in sizes
        )
        wanted = tracker.ReservationWanted(
            reservation=reservation, machine="m1", host=host, vgpus=vgpus
        )
        self.events.append(self.wanted.setdefault(reservation, wanted))

    @rule(choice=CHOICE, ends=st.booleans())
    def use_or_end(self, choice: int, ends: bool) -> None:
        if self.wanted:
            reservation = sorted(self.wanted)[choice % len(self.wanted)]
            over = tracker.ReservationOver(reservation=reservation, why="over")
            self.events.append(over if ends else tracker.ReservationUsed(reservation=reservation))

    @rule(which=WHICH)
    def hear(self, which: int) -> None:
        if self.seen[which] < len(self.events):
            self.seen[which] += 1
            self.tell(which, self.events[self.seen[which] - 1])

    @rule(which=WHICH)
    def follow(self, which: int) -> None:
        if self.read[which] < len(self.ledger):
            self.read[which] += 1
            self.tell(which, tracker.LedgerStored(**self.ledger[self.read[which] - 1]._asdict()))

    @rule(which=WHICH, choice=CHOICE)
    def hear_again(self, which: int, choice: int) -> None:
        if self.seen[which]:
            self.tell(which, self.events[choice % self.seen[which]])

    @rule(which=WHICH, choice=CHOICE)
    def follow_again(self, which: int, choice: int) -> None:
        if self.read[which]:
            line = self.ledger[choice % self.read[which]]
            self.tell(which, tracker.LedgerStored(**line._asdict()))

    @rule(choice=CHOICE, answered=st.booleans(), lost=st.booleans())
    def write(self, choice: int, answered: bool, lost: bool) -> None:
        """A write arrives, or not; a failure, or silence, is told as a refusal."""
        if self.writes:
            which, write = self.writes.pop(choice % len(self.writes))
            stored = self.store(write) if answered or not lost else False
            if not (stored and answered):
                self.tell(which, tracker.LedgerRefused(host=write.entry.host))

    @rule(which=WHICH)
    def retry(self, which: int) -> None:
        self.take(which, tracker.retry(self.states[which]))

    # What must hold.

    @invariant()
    def never_overbooked(self) -> None:
        for host, gpus in HOSTS.items():
            picture = self.picture(host)
            assert all(picture.free_bytes(gpu.index) >= 0 for gpu in gpus)

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
            for which in range(TRACKERS):
                self.hear(which)
                self.follow(which)
                self.retry(which)
            while self.writes:
                self.write(0, answered=True, lost=False)
        for state in self.states:
            assert not any(state.waiting.values()), state.waiting

    def check_answers(self) -> None:
        for answers in self.answers:
            assert answers.keys() == self.wanted.keys()
        for entry, sequence in self.ledger:
            if entry.kind in (EntryKind.HELD, EntryKind.REFUSED):
                wanted = self.wanted[entry.reservation]
                right = decide(self.picture(entry.host, sequence), entry.host, wanted.vgpus)
                assert right == (entry.refusal or entry.placements)
                if isinstance(right, Refusal):
                    self.check_refusal(right.code, wanted)

    def check_refusal(self, code: RefusalCode, wanted: tracker.ReservationWanted) -> None:
        models = {model for vgpu in wanted.vgpus for model in vgpu.models}
        expected = {
            RefusalCode.NO_GPU: not HOSTS[wanted.host],
            RefusalCode.MODEL_MISMATCH: models == {"L40S-48GB"},
            RefusalCode.DOES_NOT_FIT: models == {MODEL},
        }
        assert expected[code], (code, wanted)


TrackerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestTracker = TrackerMachine.TestCase
