"""Each flush of the switchover is needed: without it, a crash at the wrong moment breaks a rule;
without that of STAGED, a crash and a VMM's death.

It is also why no more of them is done beside something else: FROZEN may reach the disk together
with the last pages, but each of the other three is what the very next message stands on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from godwit.proof.checker import words
from godwit.proof.checker.beginnings import stun_intended
from godwit.proof.checker.cores import DESTINATION, SOURCE, Core, Effects
from godwit.proof.checker.moves import Moves
from godwit.proof.checker.search import Search
from godwit.proof.checker.world import Budget, Violation
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles.inputs import Input

SECONDS_MAX = 60.0


def without_flush(core: Core, kind: type) -> Core:
    """The core, but facts of ``kind`` are only written, and nobody waits for them."""

    def lessened(effect: fx.Effect) -> fx.Effect:
        if isinstance(effect, fx.Append) and isinstance(effect.event, kind):
            return msgspec.structs.replace(effect, durability=fx.Durability.LAGGING)
        return effect

    def step(state: Any, given: Input, now_ns: int) -> tuple[Any, Effects]:
        after, effects = core.step(state, given, now_ns)
        return after, tuple(
            lessened(effect) for effect in effects if not isinstance(effect, fx.AwaitFlush)
        )

    return dataclasses.replace(core, step=step)


@pytest.mark.parametrize(
    ("kind", "budget", "violation"),
    [
        (ev.MachineStunned, Budget(crashes=1, host_deaths=1), Violation.STALE_RUNS),
        (ev.ImageStaged, Budget(crashes=1, vmm_deaths=1), Violation.STUCK),
        (ev.GoGiven, Budget(crashes=1, lost_writes=1), Violation.TWO_RUN),
        (ev.ActivationStarted, Budget(crashes=1, lost_writes=1), Violation.STUCK),
    ],
    ids=["FROZEN", "STAGED", "GO", "ACTIVATING"],
)
def test_without_this_flush_a_rule_is_broken(
    kind: type, budget: Budget, violation: Violation
) -> None:
    is_source = kind in (ev.MachineStunned, ev.GoGiven)
    source = without_flush(SOURCE, kind) if is_source else SOURCE
    destination = DESTINATION if is_source else without_flush(DESTINATION, kind)
    moves = Moves(source, destination)
    report = Search(moves, stun_intended(moves, budget)).run(seconds_max=SECONDS_MAX)
    assert report.finding is not None, words.report_line(report)
    assert report.finding.violation is violation, words.tell(moves, report.finding)
