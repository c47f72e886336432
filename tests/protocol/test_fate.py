"""What becomes of a VMM that was left behind: it is collected by epoch, never on missing data."""

from __future__ import annotations

import pytest

from godwit_protocol import register as reg
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import LeftoverKind
from godwit_protocol.roles.succession import Fate, Leftover, fate_of

EMPTY, STAGED, STUNNED, RUNNING = LeftoverKind
HERE, THERE = "host-2", "host-1"
STARTED, MOVED, BACK = (
    reg.RegisterValue.STARTED,
    reg.RegisterValue.MOVED,
    reg.RegisterValue.TAKEN_BACK,
)
STOPPED, WANTED = reg.RegisterValue.STOPPED, reg.RegisterValue.ABORT_INTENDED
LOST = reg.RegisterValue.LOST
ACTIVATED, ABANDONED = ev.MachineActivated.TYPE, ev.MigrationAbandoned.TYPE
DISCARDED = ev.ImageDiscarded.TYPE


def record(
    value: reg.RegisterValue, epoch: int, owner: str = THERE, migration: str = "now"
) -> reg.RegisterRecord:
    return reg.RegisterRecord(
        value=value, machine="m", owner=owner, epoch=epoch, migration=migration
    )


@pytest.mark.parametrize(
    ("left", "standing", "facts", "fate"),
    [
        # Nothing is known: nothing is touched.
        (Leftover(EMPTY, 1, "now"), None, set(), Fate.KEEP),
        (Leftover(STUNNED, 1), None, {ACTIVATED}, Fate.KEEP),
        (Leftover(RUNNING, 1), None, {ACTIVATED}, Fate.KEEP),
        (Leftover(STAGED, 0, ""), record(MOVED, 9), {ABANDONED}, Fate.KEEP),
        (Leftover(STUNNED, 0), record(MOVED, 9), {ACTIVATED}, Fate.KEEP),
        # It is this host's machine.
        (Leftover(EMPTY, 1, "now"), record(STARTED, 1, HERE), set(), Fate.KEEP),
        (Leftover(STUNNED, 1), record(MOVED, 3, HERE), {ACTIVATED}, Fate.KEEP),
        (Leftover(RUNNING, 3), record(MOVED, 3, HERE), set(), Fate.KEEP),
        # Nobody owns it: it is being started, or given back.
        (Leftover(EMPTY, 1, "now"), record(STOPPED, 1), set(), Fate.KEEP),
        (Leftover(STUNNED, 1), record(STOPPED, 5), {ACTIVATED}, Fate.KEEP),
        (Leftover(STAGED, 1, "now"), record(WANTED, 1), set(), Fate.KEEP),
        # It is lost with its hosts, by an operator's word: what is there all the same is old.
        (Leftover(EMPTY, 1, "now"), record(LOST, 3, ""), set(), Fate.COLLECT),
        (Leftover(STAGED, 1, "then"), record(LOST, 3, "", ""), set(), Fate.COLLECT),
        (Leftover(STUNNED, 2), record(LOST, 3, "", ""), set(), Fate.COLLECT),
        (Leftover(RUNNING, 2), record(LOST, 3, "", ""), set(), Fate.FREEZE),
        (Leftover(RUNNING, 4), record(LOST, 3, "", ""), set(), Fate.KEEP),
        # Memory without a whole image is nobody's only copy.
        (Leftover(EMPTY, 1, "now"), record(STARTED, 1), set(), Fate.COLLECT),
        (Leftover(EMPTY, 0, ""), record(MOVED, 7), set(), Fate.COLLECT),
        # A whole image may be the only one until the machine is known to have run elsewhere.
        (Leftover(STAGED, 1, "now"), record(STARTED, 1), set(), Fate.KEEP),
        (Leftover(STAGED, 1, "now"), record(BACK, 2), set(), Fate.KEEP),
        (Leftover(STAGED, 1, "now"), record(BACK, 2), {ABANDONED}, Fate.COLLECT),
        (Leftover(STAGED, 1, "now"), record(STARTED, 1), {DISCARDED}, Fate.COLLECT),
        (Leftover(STAGED, 1, "then"), record(MOVED, 2), set(), Fate.COLLECT),
        (Leftover(STAGED, 2, "then"), record(MOVED, 2), set(), Fate.KEEP),
        # What was stunned here, the same.
        (Leftover(STUNNED, 1), record(MOVED, 2), set(), Fate.KEEP),
        (Leftover(STUNNED, 1), record(MOVED, 2), {ACTIVATED}, Fate.COLLECT),
        (Leftover(STUNNED, 1), record(MOVED, 3), set(), Fate.COLLECT),
        (Leftover(STUNNED, 1), record(STARTED, 2), set(), Fate.COLLECT),
        (Leftover(STUNNED, 2), record(MOVED, 2), {ACTIVATED}, Fate.KEEP),
        (Leftover(STUNNED, 3), record(MOVED, 2), {ACTIVATED}, Fate.KEEP),
        # What runs is frozen, never ended.
        (Leftover(RUNNING, 1), record(MOVED, 2), {ACTIVATED}, Fate.FREEZE),
        (Leftover(RUNNING, 1), record(MOVED, 2), set(), Fate.KEEP),
        (Leftover(RUNNING, 1, was_frozen=True), record(MOVED, 2), {ACTIVATED}, Fate.FREEZE),
        (Leftover(STUNNED, 1, was_frozen=True), record(MOVED, 2), {ACTIVATED}, Fate.KEEP),
        (Leftover(STUNNED, 1, was_frozen=True), record(LOST, 3, "", ""), set(), Fate.KEEP),
    ],
)
def test_fate(
    left: Leftover, standing: reg.RegisterRecord | None, facts: set[str], fate: Fate
) -> None:
    assert fate_of(left, standing, HERE, facts) is fate
