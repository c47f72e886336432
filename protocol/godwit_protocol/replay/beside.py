"""What stands in a log beside its migrations, held against the rules: the lanes of machines and
hosts, and the register.

Their chains, their places, and that a register never goes back, nor on by a step that is none. What
was decided there is not explained: no role of a migration wrote it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from .. import codec, subjects
from .. import register as reg
from ..errors import CorruptError
from ..register import RegisterRecord, RegisterValue, RegisterView
from ..stored import Stored
from .chains import Chains
from .findings import Fault
from .stories import migration_of

OVER: Final = "/over "
"""What the nonce of a record says that a host wrote again, because the register had lost it."""
LOST_EPOCHS: Final = 2
"""A machine is written off in an epoch that its migration, which may write one, cannot have had."""
_REGISTER: Final = subjects.register("")


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: so many events and register values, and what is wrong with them."""

    events: int
    values: int
    faults: tuple[Fault, ...]


class BesideMigrations:
    """Takes a log's messages, each stream's in its order; passes over what is a migration's."""

    def __init__(self) -> None:
        self._chains = Chains()
        self._registers: dict[str, RegisterView] = {}
        self._events = 0
        self._values = 0
        self._faults: list[Fault] = []

    def take(self, message: Stored) -> None:
        """The next message."""
        if message.subject.startswith(_REGISTER):
            self._values += 1
            self._faults += self._of_register(message)
        elif _is_event_beside(message.subject):
            self._events += 1
            self._faults += self._of_event(message)

    def found(self) -> Beside:
        """What came of it."""
        faults = tuple(self._faults)
        return Beside(events=self._events, values=self._values, faults=faults)

    def _of_event(self, message: Stored) -> Iterator[Fault]:
        try:
            envelope = codec.decode(message.data, message.sequence).envelope
        except CorruptError as error:
            yield Fault(message.sequence, error.message)
            return
        yield from self._chains.take(message, envelope)

    def _of_register(self, message: Stored) -> Iterator[Fault]:
        machine = message.subject.removeprefix(_REGISTER)
        try:
            record = reg.decode(message.data)
        except CorruptError as error:
            yield Fault(message.sequence, f"register of {machine}: {error.message}")
            return
        seen = self._registers.get(machine, reg.NO_REGISTER)
        now = self._registers[machine] = RegisterView(record, message.sequence)
        if record.machine != machine:
            yield Fault(
                message.sequence, f"a value of {record.machine} in the register of {machine}"
            )
        elif not _may_follow(seen, now):
            before = "nothing" if seen.record is None else _told(seen.record)
            told = f"{_told(record)} cannot come after {before}"
            yield Fault(message.sequence, f"register of {machine}: {told}")


def _may_follow(seen: RegisterView, now: RegisterView) -> bool:
    before, after = seen.record, now.record
    assert after is not None
    if OVER in after.nonce:
        return before is None or after.epoch > before.epoch
    if before is None:
        return after.value is RegisterValue.STARTED and after.epoch == 1
    if after.value is RegisterValue.LOST:
        return 0 < after.epoch - before.epoch <= LOST_EPOCHS
    if after.epoch == before.epoch:
        ends = (RegisterValue.ABORT_INTENDED, RegisterValue.STOPPED)
        return before.value in reg.OWNED and after.value in ends and after.owner == before.owner
    starts = after.value is RegisterValue.STARTED
    if starts != (before.value in reg.UNOWNED):
        return False
    return after.epoch == before.epoch + 1 and after.value in reg.OWNED


def _told(record: RegisterRecord) -> str:
    return f"{record.value}({record.epoch}) of {record.owner}"


def _is_event_beside(subject: str) -> bool:
    return not migration_of(subject) and bool(_is_event(subject))


_is_event: Final = subjects.filter_of(subjects.STREAM_SUBJECTS[subjects.EVENTS])


def verify_beside(messages: Iterable[Stored]) -> Beside:
    """All of it at once."""
    beside = BesideMigrations()
    for message in messages:
        beside.take(message)
    return beside.found()
