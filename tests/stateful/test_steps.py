"""What each role does in every situation with everything that it can be told, kept as tables.

The tables are ``tests/golden/steps/*.txt``. A line that differs is a guard that does: review it,
then set GODWIT_GOLDEN=rewrite.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import pytest
from parts import (
    CORES,
    DEADLINES,
    DESTINATION,
    LIMITS,
    MIGRATION,
    SOURCE,
    SPEC,
    START_NS,
    Role,
)
from rendering import show
from situations import (
    HOLDS,
    OTHER,
    SECOND_NS,
    SOON_NS,
    Given,
    Situation,
    given_inputs,
    phases,
    registers,
    situations,
)

from godwit_protocol import register as reg
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.register import RegisterView
from godwit_protocol.roles import destination, recovery, source, succession
from godwit_protocol.roles.effects import CompareAndSet, Effect

FOLDER = Path(__file__).parents[1] / "golden" / "steps"
REWRITE = os.environ.get("GODWIT_GOLDEN") == "rewrite"
Outcome = tuple[str, ...]
_UNTOLD = {"phase", "history"}
_RECORD = re.compile(
    r"RegisterRecord\(value=<[^>]*'(\w+)'>[^)]*owner='([^']*)', epoch=(\d+)[^)]*\)"
)
"""A record in the text of a message, which grows whenever records do."""
PLAIN = ""


def compared(name: str, lines: Iterable[str]) -> None:
    path = FOLDER / f"{name}.txt"
    text = "\n".join(lines).replace(MIGRATION, "<this>").replace(OTHER, "<another>") + "\n"
    if REWRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines(), (
        "a role behaves differently: review it, then set GODWIT_GOLDEN=rewrite"
    )


def outcome(before: Any, after: Any, effects: tuple[Effect, ...]) -> Outcome:
    """Where it led, what the state has learned, and what is to be done."""
    learned = []
    for name in after.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if old != new and name not in _UNTOLD:
            learned.append(f"{name}: {_shown(name, new)}")
    return (f"=> {after.phase}", *learned, *(f"-> {_wanted(effect)}" for effect in effects))


def _wanted(effect: Effect) -> str:
    if not isinstance(effect, CompareAndSet):
        return _RECORD.sub(r"\1(\3) of \2", show(effect))
    wanted = effect.record
    written = f"{wanted.value}({wanted.epoch}) of {wanted.owner}"
    return f"CompareAndSet({written}, nonce={wanted.nonce}, after {effect.expected_sequence})"


def _shown(name: str, value: Any) -> str:
    if name.endswith("_ns") and isinstance(value, int) and value >= START_NS:
        return f"{(value - START_NS) / SECOND_NS:.9g} s"
    if isinstance(value, RegisterView) and value.record is not None:
        held = value.record
        by = f" by {held.migration}" if held.migration else ""
        return f"{held.value}({held.epoch}) of {held.owner}{by}, at {value.sequence}"
    return show(value)


def stepped(role: Role, situation: Situation, given: Given) -> Outcome:
    try:
        after, effects = CORES[role].step(situation.state, given.told, given.now_ns)
    except GodwitError as error:
        return (f"refused: {error.message}",)
    except AssertionError:
        return ("refused: cannot be",)
    return outcome(situation.state, after, effects)


def table(named: Iterable[tuple[str, Outcome]]) -> Iterator[str]:
    """Outcomes by what they depend on; the first is the plain one, the others where they differ."""
    by_outcome: dict[Outcome, list[str]] = {}
    for name, found in named:
        by_outcome.setdefault(found, []).append(name)
    for found, names in by_outcome.items():
        if PLAIN not in names:
            yield f"    if {_joined(names)}:"
        indent = "    " if PLAIN in names else "        "
        yield from (f"{indent}{line}" for line in found)


def _joined(names: list[str]) -> str:
    """With what the register holds said once."""
    held = [name.removeprefix(HOLDS) for name in names if name.startswith(HOLDS)]
    others = [name for name in names if not name.startswith(HOLDS)]
    return "; or ".join([*others, *([HOLDS + " or ".join(held)] if held else [])])


def rows(role: Role, phase: StrEnum) -> Iterator[str]:
    """What is told in one phase. Inputs that lead to the same are said together; of those that are
    refused, or change nothing, only the kinds.
    """
    by_table: dict[tuple[str, ...], list[str]] = {}
    for given in given_inputs(role):
        by_table.setdefault(_told(role, phase, given), []).append(given.name)
    for lines, names in by_table.items():
        yield f"  {'; '.join(_by_kind(names))}"
        yield from lines
    waits = [(each.name, (_waits(role, each),)) for each in situations(role, phase)]
    yield from table(waits)


def _told(role: Role, phase: StrEnum, given: Given) -> tuple[str, ...]:
    row = CORES[role].TABLE.rows.get((phase, type(given.told)))
    if row is None:
        return ("    refused",)
    if row.passes_over:
        return ("    passed over",)
    found = [(each.name, stepped(role, each, given)) for each in situations(role, phase)]
    changes_nothing = all(lines == (f"=> {phase}",) for _, lines in found)
    return ("    passed over",) if changes_nothing else tuple(table(found))


def _by_kind(names: list[str]) -> list[str]:
    """``Kind: this or that`` for all of a kind."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kind, _, detail = name.partition(": ")
        kinds.setdefault(kind, []).append(detail)
    return [
        f"{kind}: {' or '.join(details)}" if any(details) else kind
        for kind, details in kinds.items()
    ]


def _waits(role: Role, situation: Situation) -> str:
    deadline_ns = DEADLINES[role](situation.state)
    return "waits for ever" if deadline_ns is None else f"waits until {_shown('_ns', deadline_ns)}"


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_each_step_is_the_one_that_was_reviewed(role: Role) -> None:
    lines = []
    for phase in phases(role):
        lines += [str(phase), *rows(role, phase), ""]
    compared(role.value, lines)


def test_each_beginning_is_the_one_that_was_reviewed() -> None:
    lines = []
    for epoch in (1, 2):
        lines.append(f"source, started in epoch {epoch}")
        lines += table(by_register(lambda view, epoch=epoch: begun_source(view, epoch)))
    lines.append("destination")
    lines += table(by_register(begun_destination))
    lines.append("source, on a full disk")
    lines += table(by_register(lambda view: begun_source(view, 1, "no room")))
    lines.append("destination, on a full disk")
    lines += table(by_register(lambda view: begun_destination(view, "no room")))
    compared("beginnings", lines)


def begun_source(register: RegisterView, epoch: int, disk_full: str = "") -> Outcome:
    started = ev.MigrationStarted(
        source=SOURCE.host,
        destination=DESTINATION.host,
        address="10.0.0.2",
        port=7000,
        token=b"secret",
        register_epoch=epoch,
        limits=LIMITS,
        verify=ev.Verify.FULL,
    )
    begun = source.begin(
        *(started, SPEC.name, register),
        migration=MIGRATION,
        now_ns=START_NS,
        disk_full=disk_full,
    )
    return outcome(plain(SOURCE, "connecting", register), *begun)


def begun_destination(register: RegisterView, disk_full: str = "") -> Outcome:
    ordered = ev.PreparationOrdered(
        spec=SPEC,
        source=SOURCE.host,
        destination=DESTINATION.host,
        register_epoch=1,
        limits=LIMITS,
        verify=ev.Verify.FULL,
    )
    begun = destination.begin(
        ordered, register, migration=MIGRATION, now_ns=START_NS, disk_full=disk_full
    )
    return outcome(plain(DESTINATION, "preparing", register), *begun)


def plain(role: Role, phase: str, register: RegisterView) -> Any:
    state = situations(role, phases(role)(phase))[0].state
    return msgspec.structs.replace(state, register=register)


_STUNNED = (ev.MachineStunned,)
_GONE = (*_STUNNED, ev.GoGiven)
_BACK = (*_GONE, ev.AbortIntended, ev.MachineTakenBack)
_STAGED = (ev.ImageStaged,)
_ACTIVATING = (*_STAGED, ev.ActivationStarted)
JOURNALS: dict[Role, tuple[tuple[Any, ...], ...]] = {
    SOURCE: (
        (),
        (ev.MigrationAbandoned,),
        (mev.MachineFailed,),
        _STUNNED,
        (*_STUNNED, mev.MachineFailed),
        (*_STUNNED, ev.MachineTakenBack),
        (*_STUNNED, ev.MachineTakenBack, mev.MachineFailed),
        (*_STUNNED, ev.MachineTakenBack, ev.MigrationAbandoned),
        _GONE,
        (*_GONE, ev.AbortIntended),
        _BACK,
        (*_BACK, mev.MachineFailed),
        (*_BACK, ev.MigrationAbandoned),
        (*_GONE, ev.MachineReleased),
        (*_BACK, ev.MachineReleased),
        (*_GONE, mev.MachineFailed),
    ),
    DESTINATION: (
        (),
        (ev.ImageQuarantined,),
        (ev.ImageDiscarded,),
        _STAGED,
        (*_STAGED, ev.ImageDiscarded),
        (*_STAGED, ev.ImageQuarantined),
        (*_STAGED, ev.ImageQuarantined, ev.ImageDiscarded),
        _ACTIVATING,
        (*_ACTIVATING, ev.ImageQuarantined),
        (*_ACTIVATING, ev.ImageQuarantined, ev.ImageDiscarded),
        (*_ACTIVATING, ev.MachineActivated),
    ),
}
"""What may stand in a journal, as far as a recovery looks."""


def journals(role: Role) -> Iterator[tuple[str, frozenset[str]]]:
    """Each of the role's journals by its facts, in words."""
    for facts in JOURNALS[role]:
        types = [fact.TYPE for fact in facts]
        yield ", ".join(types) or "nothing", frozenset(types)


def by_register(recovered: Any) -> Iterator[tuple[str, Outcome]]:
    """What ``recovered`` gives for each register, by the register's name."""
    for name, view in registers().items():
        try:
            yield f"{HOLDS}{name}", recovered(view)
        except GodwitError as error:
            yield f"{HOLDS}{name}", (f"refused: {error.message}",)


def restarted(
    role: Role, facts: frozenset[str], register: Any, *, found: bool, loaded: bool = False
) -> Outcome:
    """``found``: whether the source's VMM lives, or the destination's runs; ``loaded``: whether the
    latter has loaded the image.
    """
    begun = situations(role, next(iter(phases(role))))[0].state
    begun = msgspec.structs.replace(begun, register=register)
    if role is SOURCE:
        return outcome(begun, *recovery.recover_source(begun, facts, SOON_NS, image_left=found))
    recovered = recovery.recover_destination(
        begun, facts, SOON_NS, machine_runs=found, image_loaded=loaded
    )
    return outcome(begun, *recovered)


@pytest.mark.parametrize("left", [False, True], ids=["without-image", "with-image"])
def test_each_recovery_of_a_source_is_the_one_that_was_reviewed(*, left: bool) -> None:
    lines = []
    for name, facts in journals(SOURCE):
        lines.append(f"journal: {name}")
        lines += table(
            by_register(lambda view, facts=facts: restarted(SOURCE, facts, view, found=left))
        )
    compared(f"recovery-of-source-{'with' if left else 'without'}-image", lines)


@pytest.mark.parametrize("vmm", ["stands", "is-loaded", "runs"])
def test_each_recovery_of_a_destination_is_the_one_that_was_reviewed(vmm: str) -> None:
    lines = []
    for name, facts in journals(DESTINATION):
        lines.append(f"journal: {name}")
        found = {"found": vmm == "runs", "loaded": vmm == "is-loaded"}
        lines += table(
            by_register(
                lambda view, facts=facts, found=found: restarted(DESTINATION, facts, view, **found)
            )
        )
    compared(f"recovery-of-destination-that-{vmm}", lines)


def test_each_succession_is_the_one_that_was_reviewed() -> None:
    lines = []
    for epoch in (0, 1, 2):
        gone_on = [
            name
            for name, view in registers().items()
            if reg.has_gone_on(view.record, MIGRATION, epoch)
        ]
        lines.append(f"found in epoch {epoch}, it has gone on if the register holds: {gone_on}")
    origin = situations(SOURCE, phases(SOURCE)("connecting"))[0].state
    target = situations(DESTINATION, phases(DESTINATION)("preparing"))[0].state
    for name, facts in journals(SOURCE):
        lines.append(f"source's journal: {name}")
        lines += table([(PLAIN, outcome(origin, *succession.source_after(origin, facts)))])
    for name, facts in journals(DESTINATION):
        lines.append(f"destination's journal: {name}")
        left = {
            words: outcome(target, *succession.destination_after(target, facts, image_left=left))
            for words, left in ((PLAIN, False), ("an image is left", True))
        }
        lines += table(left.items())
    compared("succession", lines)
