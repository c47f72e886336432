"""What a crash, a death or a broken link leaves behind: every possibility, each as a draft.

Work that nobody waits for any more may have been done or not; what had been said may have arrived
as far as any point. It must not know why anything broke.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from itertools import product
from typing import Final

from .cores import Operation, Work
from .script import Message
from .world import DOWN, GONE, Draft, Image, Side, Vmm

ON_VMM: Final = frozenset({Work.PAUSE, Work.RESUME, Work.OPEN_GATE, Work.LOAD, Work.FREE})


class _Fate(IntEnum):
    """What became of work whose asker is gone."""

    NOT_DONE = 0
    DONE = 1
    ASTRAY = 2


def crashes(draft: Draft, who: int) -> Iterator[Draft]:
    """What may be left when a service crashes now. Its journal keeps what was synchronous; all
    that came later, or nothing of it.
    """
    for crashed in _cut_off(draft, who):
        crashed.left = crashed.left._replace(crashes=crashed.left.crashes - 1)
        side = crashed.sides[who]
        down = side._replace(role=DOWN, pending=(), unsynced=0)
        for journal in _journals(side):
            survivor = crashed.copy()
            survivor.sides[who] = down._replace(journal=journal)
            yield survivor


def host_deaths(draft: Draft, who: int, addressed: int) -> Iterator[Draft]:
    """What may be left when a host dies: of its ``addressed`` facts, those that the log had got."""
    for dying in _cut_off(draft, who):
        dying.left = dying.left._replace(host_deaths=dying.left.host_deaths - 1)
        dying.knowing &= ~(1 << who)
        for journal in _journals(dying.sides[who]) if dying.left.host_returns else {0}:
            for posted in _subsets(dying.sides[who].journal & addressed):
                dead = dying.copy()
                dead.sides[who] = Side(GONE, Vmm.LOST, Image.NONE, journal, posted=posted)
                yield dead


def link_losses(draft: Draft) -> Iterator[Draft]:
    """Each side hears a beginning of what was said to it, then the end."""
    draft.left = draft.left._replace(link_losses=draft.left.link_losses - 1)
    heard = [_prefixes(side.heard) for side in draft.sides]
    for beginnings in product(*heard):
        broken = draft.copy()
        for who, spoken in enumerate(beginnings):
            side = draft.sides[who]
            if draft.is_linked or side.heard:
                broken.sides[who] = side.with_heard((*spoken, Message.END))
        broken.is_linked = False
        yield broken


def apply(draft: Draft, who: int, work: Work) -> None:
    """What work does to the VMM when it is done."""
    vmm = draft.sides[who].vmm
    match work:
        case Work.PAUSE if vmm is Vmm.RUNNING:
            draft.pause(who)
        case Work.RESUME if vmm is Vmm.PAUSED:
            draft.run(who)
        case Work.OPEN_GATE if vmm is Vmm.LOADED:
            draft.run(who)
        case Work.LOAD if vmm is Vmm.GATED:
            draft.load(who)
        case Work.FREE:
            draft.free(who)
        case Work.PREPARE:
            draft.sides[who] = draft.sides[who]._replace(vmm=Vmm.GATED)
        case _:
            pass


def can_stray(draft: Draft, operation: Operation) -> bool:
    """Whether a register write may be on its way without anybody waiting for it."""
    return draft.left.strays > 0 and operation not in draft.strays


def stray(draft: Draft, operation: Operation) -> None:
    """Let a register write go astray: it may arrive at any time, or never."""
    draft.left = draft.left._replace(strays=draft.left.strays - 1)
    draft.strays = tuple(sorted({*draft.strays, operation}))


def _cut_off(draft: Draft, who: int) -> Iterator[Draft]:
    """Nobody waits for the work of ``who`` any more, and nobody listens there."""
    operations = draft.sides[who].pending
    said = draft.sides[1 - who].heard
    endings = [(*spoken, Message.END) for spoken in _prefixes(said)] if draft.is_linked else [said]
    for fates in product(*(_fates(draft, who, operation) for operation in operations)):
        for heard in endings:
            after = draft.copy()
            for operation, fate in zip(operations, fates, strict=True):
                _meet(after, who, operation, fate)
            after.is_linked = False
            after.sides[1 - who] = after.sides[1 - who].with_heard(heard)
            after.sides[who] = after.sides[who].with_heard(())
            yield after


def _fates(draft: Draft, who: int, operation: Operation) -> tuple[_Fate, ...]:
    if operation.work is Work.WRITE_REGISTER:
        late = (_Fate.ASTRAY,) if can_stray(draft, operation) else ()
        return (_Fate.NOT_DONE, _Fate.DONE, *late)
    if operation.work in ON_VMM and draft.sides[who].vmm < Vmm.DEAD:
        return (_Fate.NOT_DONE, _Fate.DONE)
    return (_Fate.NOT_DONE,)


def _meet(draft: Draft, who: int, operation: Operation, fate: _Fate) -> None:
    if fate is _Fate.ASTRAY and can_stray(draft, operation):
        stray(draft, operation)
    elif fate is _Fate.DONE and operation.work is Work.WRITE_REGISTER:
        draft.write(operation)
    elif fate is _Fate.DONE:
        apply(draft, who, operation.work)


def _journals(side: Side) -> set[int]:
    """What may be on the disk after a crash."""
    return {side.journal, side.journal | side.unsynced}


def _prefixes(heard: tuple[Message, ...]) -> list[tuple[Message, ...]]:
    """Each beginning of what was said, without its END."""
    spoken = heard[:-1] if heard and heard[-1] is Message.END else heard
    return [spoken[:length] for length in range(len(spoken) + 1)]


def _subsets(facts: int) -> Iterator[int]:
    """All subsets of a set of bits."""
    subset = facts
    while True:
        yield subset
        if not subset:
            return
        subset = (subset - 1) & facts
