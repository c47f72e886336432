"""How work under way may end: what that does to the world, and what the role is told.

A VMM does what it is asked, or is dead. The register is written by compare-and-set alone; an answer
may be lost, the write itself may be lost or come late, and reading back may show an old value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.inputs import Input

from . import script
from .cores import Operation, Records, Shown, Work, standing
from .happenings import Kind, What
from .world import DESTINATION, Draft, Vmm, World
from .wreckage import apply, can_stray, stray

DONE: Final[dict[Work, Input]] = {
    Work.PAUSE: script.PAUSED,
    Work.RESUME: script.RESUMED,
    Work.OPEN_GATE: script.GATE_OPENED,
    Work.LOAD: script.LOADED,
    Work.FREE: script.FREED,
    Work.PREPARE: script.PREPARED,
    Work.POPULATE: script.POPULATED,
    Work.SEND_ROUND: script.ROUND_DONE,
    Work.SEND_FINAL: script.FINAL_SENT,
}
FALLIBLE: Final = frozenset({Work.PAUSE, Work.LOAD, Work.PREPARE, Work.POPULATE})
"""What may fail though the VMM lives. The others are asked again until they are done."""


class Result(NamedTuple):
    """One way in which work may end. ``draft`` still has it under way; ``told`` None: nothing."""

    what: What
    kind: Kind
    draft: Draft
    told: Input | None


class Results:
    """The results of the work of one pair of cores."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._settled_inputs: dict[tuple[bool, Shown], Input] = {}
        self._read_inputs: dict[Shown, Input] = {}

    def of(self, world: World, who: int, operation: Operation) -> Iterator[Result]:
        """Every way in which ``operation`` may end next."""
        match operation.work:
            case Work.WRITE_REGISTER:
                yield from self._of_write(world, who, operation)
            case Work.WRITTEN | Work.UNHEARD:
                yield from self._of_answer(world, operation)
            case Work.READ_REGISTER:
                yield from self._of_read(world, who)
            case Work.AWAIT_LOG:
                yield Result(What.DONE, Kind.DUE, Draft(world), script.LOGGED)
                yield Result(What.NO_ANSWER, Kind.FAULT, Draft(world), script.NOT_LOGGED)
            case Work.OPEN_LINK:
                if not world.is_linked:
                    yield Result(What.FAILS, Kind.DUE, Draft(world), script.LINK_LOST)
            case Work.SEND_ROUND | Work.SEND_FINAL:
                sent = Result(What.DONE, Kind.DUE, Draft(world), DONE[operation.work])
                lost = Result(What.FAILS, Kind.DUE, Draft(world), script.LINK_LOST)
                yield sent if world.is_linked else lost
            case _:
                yield from self._of_vmm(world, who, operation.work)

    # The VMM.

    def _of_vmm(self, world: World, who: int, work: Work) -> Iterator[Result]:
        draft = Draft(world)
        bad = script.BAD_IMAGE if work is Work.LOAD else script.FAILED
        if draft.sides[who].vmm >= Vmm.DEAD and work is not Work.FREE:
            yield Result(What.FAILS, Kind.DUE, draft, bad)
            return
        apply(draft, who, work)
        yield Result(What.DONE, Kind.DUE, draft, DONE[work])
        if work is Work.LOAD and not world.is_linked:
            yield Result(What.FAILS, Kind.DUE, Draft(world), bad)
        if work in FALLIBLE and world.left.local_failures:
            for is_done in (False, True):
                failing = Draft(world)
                left = failing.left
                failing.left = left._replace(local_failures=left.local_failures - 1)
                if is_done:
                    image = failing.sides[who].image
                    apply(failing, who, work)
                    # What it says that it has loaded, and was told to be bad, is not whole.
                    failing.sides[who] = failing.sides[who]._replace(image=image)
                yield Result(What.FAILS, Kind.FAULT, failing, bad)

    # The register.

    def _of_write(self, world: World, who: int, operation: Operation) -> Iterator[Result]:
        """It arrives; or nobody knows whether it did; a destination with a dead VMM never asks."""
        if who == DESTINATION and world.destination.vmm >= Vmm.DEAD:
            yield Result(What.FAILS, Kind.DUE, Draft(world), script.FAILED)
        draft = Draft(world)
        if draft.write(operation):
            draft.begin(who, operation._replace(work=Work.WRITTEN))
            yield Result(What.DONE, Kind.DUE, draft, None)
        else:
            yield from self._read_back(world, operation, Kind.DUE)
        unheard = operation._replace(work=Work.UNHEARD)
        lost = Draft(world)
        lost.begin(who, unheard)
        yield Result(What.NO_ANSWER, Kind.FAULT, lost, None)
        if can_stray(lost, operation):
            late = lost.copy()
            stray(late, operation)
            yield Result(What.NO_ANSWER, Kind.FAULT, late, None)

    def _of_answer(self, world: World, operation: Operation) -> Iterator[Result]:
        if operation.work is Work.WRITTEN:
            written = (*world.register[: operation.expected], operation.record)
            yield Result(What.DONE, Kind.DUE, Draft(world), self._settled(True, written))
            yield from self._read_back(world, operation, Kind.FAULT)
        else:
            yield from self._read_back(world, operation, Kind.DUE)

    def _read_back(self, world: World, operation: Operation, kind: Kind) -> Iterator[Result]:
        """The register is looked at; it may not answer, and show what it held before."""
        found = self._found(world.register, operation)
        yield Result(What.READS_BACK, kind, Draft(world), found)
        if found is not script.UNCLEAR:
            yield Result(What.NO_ANSWER, Kind.FAULT, Draft(world), script.UNCLEAR)
        if len(world.register) > 1:
            old = self._found(world.register[:-1], operation)
            yield Result(What.OLD_READ, Kind.FAULT, Draft(world), old)

    def _found(self, register: Sequence[int], operation: Operation) -> Input:
        """What a service makes of the register after a write of which it has heard nothing."""
        if register[-1] == operation.record:
            return self._settled(True, register)
        if len(register) == operation.expected:
            return script.UNCLEAR
        return self._settled(False, register)

    def _of_read(self, world: World, who: int) -> Iterator[Result]:
        """To a host that knows that it has lost a write, the register says nothing."""
        if world.knowing & 1 << who:
            yield Result(What.NO_ANSWER, Kind.DUE, Draft(world), None)
            return
        yield Result(What.DONE, Kind.DUE, Draft(world), self._read(standing(world.register)))
        yield Result(What.NO_ANSWER, Kind.FAULT, Draft(world), None)
        if len(world.register) > 1:
            old = self._read(standing(world.register[:-1]))
            yield Result(What.OLD_READ, Kind.FAULT, Draft(world), old)

    def _settled(self, won: bool, register: Sequence[int]) -> Input:
        key = won, standing(register)
        if key not in self._settled_inputs:
            view = self._records.view(key[1])
            self._settled_inputs[key] = inp.CasSettled(won=won, standing=view)
        return self._settled_inputs[key]

    def _read(self, shown: Shown) -> Input:
        if shown not in self._read_inputs:
            view = self._records.view(shown)
            self._read_inputs[shown] = inp.RegisterRead(standing=view)
        return self._read_inputs[shown]
