"""The machine of the migration catches protocols that are broken on purpose.

A broken role meets the rules that the real one holds against, from a fixed seed, and may want what
it likes: what counts is what comes of it. What hypothesis shrinks the failure to is a story that
reviewers have read (``tests/golden/caught``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import broken_cores as broken
import hypothesis
import pytest
from harness import World
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from parts import DESTINATION, SOURCE, STEPS, Role
from test_golden import FOLDER, check_story
from test_migration_machine import MigrationMachine

from godwit.proof.checker.cores import Core

CAUGHT_FOLDER = FOLDER / "caught"


class Broken(NamedTuple):
    build: Callable[[], Core]
    role: Role
    rule: str
    """What is said of the rule that is broken."""


DEMANDED = [
    Broken(broken.resumes_on_a_lost_acknowledgement, SOURCE, "I1: two sides execute"),
    Broken(broken.trusts_the_register_alone, SOURCE, "I1: two sides execute"),
    Broken(broken.claims_without_fencing, DESTINATION, "I1: two sides execute"),
    Broken(broken.resumes_on_a_timeout_after_go, SOURCE, "I1: two sides execute"),
]
CASES = {case.build.__name__.replace("_", "-"): case for case in DEMANDED}
SETTINGS = settings(
    max_examples=2000,
    stateful_step_count=25,
    deadline=None,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(hypothesis.HealthCheck),
)


def caught(case: Broken) -> tuple[str, World]:
    """What the machine says of the broken protocol, and the shortest world that it found."""
    ends: list[World] = []

    class Breaking(MigrationMachine):
        steps = {**STEPS, case.role: case.build().step}
        is_strict = False

        def teardown(self) -> None:
            ends[:] = [self.world]
            super().teardown()

    with pytest.raises(AssertionError) as error:
        run_state_machine_as_test(Breaking, settings=SETTINGS)
    return str(error.value).partition("\n")[0], ends[0]


@pytest.mark.parametrize("name", CASES)
def test_a_broken_protocol_is_caught_by_the_shortest_story(name: str) -> None:
    case = CASES[name]
    said, world = caught(case)
    what = inspect.getdoc(case.build)
    assert what
    check_story(
        CAUGHT_FOLDER / f"{name}.txt", [*what.splitlines(), "", *world.story.lines(), "", said]
    )
    assert said == case.rule


def test_there_is_no_story_that_nothing_catches() -> None:
    assert {path.stem for path in CAUGHT_FOLDER.glob("*.txt")} == set(CASES)
