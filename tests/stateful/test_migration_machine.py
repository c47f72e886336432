"""The migration core in a hostile world: whatever happens, the invariants hold."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum, auto

import hypothesis
import pytest
from checks import check_end, check_lanes
from crashes import crash, may_crash
from harness import World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from invariants import check_invariants
from parts import COORDINATOR, DESTINATION, LIMITS, PAGES, SOURCE, STEPS, Action, Role, Step
from scenarios import bandwidth

from godwit_protocol.events import migration as ev
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp

CHOICES_MAX = 63
CRASHES_MAX = 2
DEADLY = {"destination host dies", "ResumeMachine fails", "OpenGate fails"}
BEGINNINGS = [
    (SOURCE, "staging"),
    (DESTINATION, "staged"),
    (SOURCE, "committed"),
    (DESTINATION, "activating"),
    (DESTINATION, "opening"),
    (SOURCE, "copying"),
    (SOURCE, "pausing"),
    (SOURCE, "intending"),
    (SOURCE, "precopying"),
    (SOURCE, "connecting"),
    (DESTINATION, "active"),
    (COORDINATOR, "considering"),
]


class Wish(Enum):
    """Of an operator."""

    NOTHING = auto()
    CANCEL = auto()
    BANDWIDTH = auto()


class Trouble(Enum):
    """What a world may have besides what every world has. A register that loses a write and a death
    together can do what docs/reliability.md says ("What remains possible").
    """

    NONE = auto()
    DEATHS = auto()
    CRASHES = auto()
    LOST_WRITES = auto()
    DEATHS_AND_CRASHES = auto()

    @property
    def is_deadly(self) -> bool:
        return self in (Trouble.DEATHS, Trouble.DEATHS_AND_CRASHES)

    @property
    def has_crashes(self) -> bool:
        return self not in (Trouble.NONE, Trouble.DEATHS)


class MigrationMachine(RuleBasedStateMachine):
    """Anything that can happen, in any order."""

    steps: Mapping[Role, Step] = STEPS
    is_strict = True

    @initialize(
        stun_limit_ms=st.sampled_from([500, 8, 2]),
        deadline_s=st.sampled_from([60, 1]),
        verify=st.sampled_from(ev.Verify),
        beginning=st.sampled_from(BEGINNINGS),
        trouble=st.sampled_from(Trouble),
        writes=st.lists(st.integers(0, PAGES - 1), max_size=3),
    )
    def begin(
        self,
        stun_limit_ms: int,
        deadline_s: int,
        verify: ev.Verify,
        beginning: tuple[Role, str],
        trouble: Trouble,
        writes: list[int],
    ) -> None:
        """A world that came well as far as ``beginning``, or ended before."""
        limits = ev.Limits(
            stun_limit_ns=stun_limit_ms * 1_000_000,
            deadline_ns=deadline_s * 1_000_000_000,
            rounds_max=LIMITS.rounds_max,
        )
        self.trouble, self.crashes, self.coordinator_crashes = trouble, 0, 0
        self.world = World(limits, verify, self.steps, is_strict=self.is_strict)
        role, phase = beginning
        while self.world.phase(role) != phase and self._nominal():
            self._nominal()[0].do()
            if writes and self.world.pending:
                self.world.guest_writes(writes.pop())

    def _nominal(self) -> list[Action]:
        return [action for action in self.world.actions() if not action.fault]

    @rule(steps=st.integers(1, 4))
    def go_on(self, steps: int) -> None:
        """The oldest things happen, in order."""
        for _ in range(steps):
            if self._nominal():
                self._nominal()[0].do()

    @rule(choice=st.integers(0, CHOICES_MAX))
    def happen(self, choice: int) -> None:
        """Something that is due happens, out of turn."""
        due = self._nominal()
        if due:
            due[choice % len(due)].do()

    @rule(choice=st.integers(0, CHOICES_MAX))
    def fail(self, choice: int) -> None:
        """Something goes wrong."""
        faults = [action for action in self.world.actions() if action.fault]
        if not self.trouble.is_deadly:
            faults = [action for action in faults if action.name not in DEADLY]
        if faults:
            action = faults[choice % len(faults)]
            hypothesis.event(f"{action.name} [{self.world.phase(SOURCE)}]")
            action.do()

    @rule(
        role=st.sampled_from([SOURCE, DESTINATION]),
        keeps=st.booleans(),
        done=st.booleans(),
    )
    def crash(self, role: Role, keeps: bool, done: bool) -> None:
        """A host's service dies. When it is started again is as uncertain as anything else."""
        is_enough = self.crashes == CRASHES_MAX or not self.trouble.has_crashes
        if not is_enough and may_crash(self.world, role):
            self.crashes += 1
            hypothesis.event(f"crash of {role.value} [{self.world.phase(role)}]")
            crash(self.world, role, keeps=keeps, done=done)

    @rule(keeps=st.booleans(), done=st.booleans())
    def crash_coordinator(self, keeps: bool, done: bool) -> None:
        """The coordinator dies, at any time but in a world without trouble. What it knew is gone:
        started again, it folds the log. What it was about to write may arrive after that.
        """
        is_enough = self.coordinator_crashes == CRASHES_MAX or self.trouble is Trouble.NONE
        if not is_enough and may_crash(self.world, COORDINATOR):
            self.coordinator_crashes += 1
            hypothesis.event(f"crash of coordinator [{self.world.phase(COORDINATOR)}]")
            crash(self.world, COORDINATOR, keeps=keeps, done=done)

    @precondition(lambda self: self.world.log.late)
    @rule()
    def late_decision_arrives(self) -> None:
        """Of a coordinator that has died: its successor may be there already."""
        late = self.world.log.late[0]
        hypothesis.event(f"late {late.event.TYPE} [{self.world.phase(COORDINATOR)}]")
        self.world.do("late decision lands")

    @precondition(lambda self: self.trouble.is_deadly)
    @rule()
    def source_host_dies(self) -> None:
        """For good. One host at most does."""
        if SOURCE in self.world.decisions and not self.world.dead:
            hypothesis.event(f"source host dies [{self.world.phase(SOURCE)}]")
            self.world.story.outside(self.world.now_ns, "host-1 dies")
            self.world.kill(SOURCE)

    @precondition(lambda self: self.trouble is Trouble.DEATHS_AND_CRASHES)
    @rule(role=st.sampled_from([SOURCE, DESTINATION]))
    def vmm_dies_unseen(self, role: Role) -> None:
        """While the service of its host is down, which finds it dead when it is back."""
        vmm = self.world.vmms[role]
        if role in self.world.down and vmm.pages is not None and not vmm.broken:
            hypothesis.event(f"the VMM of {role.value} dies unseen")
            self.world.story.outside(self.world.now_ns, f"{role.host}'s VMM dies")
            self.world.dies(role)

    @precondition(lambda self: self.trouble.is_deadly)
    @rule()
    def destination_fails(self) -> None:
        """Something local fails at a destination that has staged the image, which stays whole."""
        if self.world.phase(DESTINATION) == "staged":
            hypothesis.event("the destination fails")
            self.world.tell(DESTINATION, inp.OperationFailed(message="something local failed"))

    @rule(role=st.sampled_from([SOURCE, DESTINATION]))
    def order(self, role: Role) -> None:
        """An operator has a host run the machine, once a doubt was raised."""
        doubts = any(
            isinstance(effect, fx.Append) and isinstance(effect.event, ev.DoubtRaised)
            for _role, effect in self.world.effects
        )
        if doubts and role not in self.world.dead | self.world.down:
            hypothesis.event(f"{role.value} ordered to run [{self.world.phase(role)}]")
            self.world.tell(role, inp.RunOrdered(standing=self.world.register_view()))

    @rule()
    def lose_a_write(self) -> None:
        """One acknowledged write of the register is gone."""
        may_lose = self.trouble is Trouble.LOST_WRITES and not self.world.writes_lost
        if may_lose and len(self.world.register) > 1:
            hypothesis.event(f"the register loses {self.world.register[-1].value}")
            self.world.lose_write()

    @rule(page=st.integers(0, PAGES - 1), choice=st.integers(0, CHOICES_MAX))
    def write(self, page: int, choice: int) -> None:
        """The guest works on while something happens."""
        self.world.guest_writes(page)
        self.happen(choice)

    @rule(ms=st.sampled_from([0, 1, 100, 10_000]), asks=st.sampled_from(Wish))
    def meddle(self, ms: int, asks: Wish) -> None:
        """Time passes, and an operator may lose patience, or want another bandwidth."""
        self.world.now_ns += ms * 1_000_000
        match asks:
            case Wish.NOTHING:
                self.world.pass_time()
            case Wish.CANCEL:
                self.world.say_to_log(ev.CancelRequested())
            case Wish.BANDWIDTH:
                self.world.say_to_log(bandwidth(1, 125_000 * ms))

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def safe(self) -> None:
        check_invariants(self.world)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if sys.exc_info()[0] is None:  # what has failed already needs no end
                self._come_to_rest(self.world)
        finally:
            hypothesis.note(self.world.story)  # that of the shrunk failure is printed, and no other

    def _come_to_rest(self, world: World) -> None:
        world.drain()
        check_invariants(world)
        hypothesis.event(f"source ends {world.phase(SOURCE)}")
        hypothesis.event(f"destination ends {world.phase(DESTINATION)}")
        check_end(world)
        check_lanes(world)


MigrationMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=25, deadline=None
)
TestMigration = MigrationMachine.TestCase


class Wrong(MigrationMachine):
    """One whose rule the protocol breaks, always."""

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def wrong(self) -> None:
        assert not self.world.vmms[DESTINATION].whole, "the destination has an image"


def test_a_failure_is_told_as_a_golden_story() -> None:
    few = settings(
        max_examples=200,
        stateful_step_count=5,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
    )
    with pytest.raises(AssertionError, match="has an image") as caught:
        run_state_machine_as_test(Wrong, settings=few)
    told = "\n".join(caught.value.__notes__)
    assert "source: LinkUp(connections=2" in told
    assert "destination: ImageLoaded(pages=4" in told
    assert "-> Append(event=ImageStaged(" in told
