"""The machine of the migration catches protocols that are broken on purpose.

A broken role meets the rules that the real one holds against, from a fixed seed, and may want what
it likes: what counts is what comes of it. What hypothesis shrinks the failure to is a story that
reviewers have read (``tests/golden/caught``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import NamedTuple

import hypothesis
import pytest
from harness import World
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis.stateful import initialize, run_state_machine_as_test
from parts import DESTINATION, SOURCE, STEPS, Role, Step
from test_golden import FOLDER, check_story
from test_migration_machine import MigrationMachine, Trouble

import broken_cores as broken
from godwit.proof.checker.cores import Core
from godwit_protocol.events.migration import Verify

CAUGHT_FOLDER = FOLDER / "caught"


class Broken(NamedTuple):
    build: Callable[[], Core]
    role: Role
    rule: str
    """What is said of the rule that is broken."""
    beginning: tuple[Role, str]
    """The world comes well as far as this."""
    trouble: Trouble = Trouble.NONE
    seed: int = 0
    """With which it is found soon."""


TWO_RUN, NONE_LEFT = "I1: two sides execute", "I2: no whole image is left"
STAGED, GONE, RUNS = (DESTINATION, "staged"), (SOURCE, "committed"), (DESTINATION, "active")
DEMANDED = [
    Broken(broken.resumes_on_a_lost_acknowledgement, SOURCE, TWO_RUN, GONE),
    Broken(broken.trusts_the_register_alone, SOURCE, TWO_RUN, RUNS, Trouble.LOST_WRITES, 1),
    Broken(broken.claims_without_fencing, DESTINATION, TWO_RUN, STAGED, Trouble.LOST_WRITES),
    Broken(
        broken.drops_the_image_on_a_local_failure, DESTINATION, NONE_LEFT, STAGED, Trouble.DEATHS
    ),
    Broken(broken.resumes_on_a_timeout_after_go, SOURCE, TWO_RUN, GONE),
]
CASES = {case.build.__name__.replace("_", "-"): case for case in DEMANDED}
SETTINGS = settings(
    max_examples=300,
    stateful_step_count=25,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture(autouse=True)
def drawn_from_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """hypothesis also draws numbers that stand in the modules which happen to be loaded: what it
    finds, and what it shrinks that to, would change with any of them.
    """
    monkeypatch.setattr(providers, "_get_local_constants", providers.Constants)
    providers.CONSTANTS_CACHE.cache.clear()
    yield
    providers.CONSTANTS_CACHE.cache.clear()


def played(case: Broken, step: Step, ends: list[World]) -> None:
    """Play the case's role by ``step``. ``ends``: the last world that was played."""

    @seed(case.seed)
    class Breaking(MigrationMachine):
        steps = {**STEPS, case.role: step}
        is_strict = False

        @initialize(trouble=st.just(case.trouble), beginning=st.just(case.beginning))
        def begin(self, trouble: Trouble, beginning: tuple[Role, str]) -> None:
            super().begin(500, 60, Verify.OFF, beginning, trouble, [])

        def teardown(self) -> None:
            """It need not come to rest."""
            ends[:] = [self.world]

    run_state_machine_as_test(Breaking, settings=SETTINGS)


@pytest.mark.parametrize("name", CASES)
def test_a_broken_protocol_is_caught_by_the_shortest_story(name: str) -> None:
    case, ends = CASES[name], list[World]()
    with pytest.raises(AssertionError) as error:
        played(case, case.build().step, ends)
    said = str(error.value).partition("\n")[0]
    what = inspect.getdoc(case.build)
    assert what
    story = ends[0].story.lines()  # the shrunk failure is played last
    check_story(CAUGHT_FOLDER / f"{name}.txt", [*what.splitlines(), "", *story, "", said])
    assert said == case.rule


@pytest.mark.parametrize("name", CASES)
def test_the_real_protocol_breaks_no_rule_there(name: str) -> None:
    ends: list[World] = []
    played(CASES[name], STEPS[CASES[name].role], ends)
    assert ends


def test_there_is_no_story_that_nothing_catches() -> None:
    assert {path.stem for path in CAUGHT_FOLDER.glob("*.txt")} == set(CASES)
