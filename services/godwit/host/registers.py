"""The register of each machine: read, and compare-and-set with an answer that can be trusted.

A register that shows less than this host has seen of it before has lost an acknowledged write. It
can then not be read any more; what it shows only answers a compare-and-set that lost.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

import structlog

from godwit.runtime.event_log import AppendConflictError, EventLog, LogFullError
from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.errors import CorruptError, UnreachableError
from godwit_protocol.register import RegisterView
from godwit_protocol.roles.inputs import CasSettled, CasUnclear

from .marks import Marks, MemoryMarks

CAS_TIMEOUT_S = 2.0
LOOKS_MAX: Final = 5
"""Before a register counts as gone back: a log whose leader changes may show an older one."""
LOOK_S: Final = 0.4
NOTE_S: Final = 0.1
"""How much later a compare-and-set that won is written down here: a stun waits for its answer, and
to replace a file takes as long as the register's own write."""

_log = structlog.get_logger(__name__)


class RegisterWentBackError(CorruptError):
    """The register of ``machine`` shows ``found``, though more was ``seen`` of it before."""

    def __init__(self, machine: str, seen: RegisterView, found: RegisterView) -> None:
        super().__init__(
            f"the register of machine {machine} went back from {_words(seen)} to {_words(found)}:"
            " it has lost a write",
            hint="the host that runs the machine writes it again; if none does: docs/in-doubt.md",
        )
        self.machine = machine
        self.seen = seen
        self.found = found


class Overruled(NamedTuple):
    """What an operator's order may write over: what the register shows, and what was ``seen`` of it
    if it went back.
    """

    standing: RegisterView
    seen: RegisterView = reg.NO_REGISTER


class Registers:
    """All registers, through the event log."""

    def __init__(self, log: EventLog, marks: Marks | None = None) -> None:
        """``marks``: what was seen by former lives of the host's services, and by this one."""
        self._log = log
        self._marks = MemoryMarks() if marks is None else marks
        self._won: dict[str, RegisterView] = {}
        """What is still to be written down."""

    async def read(self, machine: str, seen: RegisterView | None = None) -> RegisterView:
        """What stands. Good for learning, never for taking. ``seen``: what it showed before; else
        what this host has noted of it.

        Raises ``UnreachableError``, ``RegisterWentBackError``.
        """
        seen = seen or self._won.get(machine) or self._marks.read(machine)
        found = await self._stored(machine)
        for _ in range(LOOKS_MAX):
            if not reg.has_gone_back(found, seen):
                if found != seen:
                    self._note(machine, found)
                return found
            await asyncio.sleep(LOOK_S)
            found = await self._stored(machine)
        raise RegisterWentBackError(machine, seen, found)

    async def known(self, machine: str) -> RegisterView:
        """As ``read``, for a role to begin from: of a register that went back it is shown nothing,
        so that it decides nothing. Raises ``UnreachableError``.
        """
        try:
            return await self.read(machine)
        except RegisterWentBackError as error:
            _log.error("register_went_back", machine=machine, error=error.message)
            return RegisterView(None, error.seen.sequence)

    async def to_overrule(self, machine: str) -> Overruled:
        """As ``read``, for an operator's order to write over: of a register that went back, too.
        Raises ``UnreachableError``.
        """
        try:
            return Overruled(await self.read(machine))
        except RegisterWentBackError as error:
            return Overruled(error.found, error.seen)

    async def compare_and_set(
        self, record: reg.RegisterRecord, expected_sequence: int
    ) -> CasSettled | CasUnclear:
        """Write ``record`` if the register's last sequence is ``expected_sequence``.

        After an unclear answer it reads back: our nonce there means that we won. Never raises for a
        log that does not answer: that is ``CasUnclear``, and whoever asked must ask again.
        """
        try:
            sequence = await self._log.append(
                subjects.register(record.machine),
                reg.encode(record),
                message_id=f"{record.machine}/{record.nonce}",
                expected_last_sequence=expected_sequence,
                timeout_s=CAS_TIMEOUT_S,
            )
        except (AppendConflictError, LogFullError, UnreachableError) as error:
            return await self._settle(record, expected_sequence, error.message)
        view = RegisterView(record, sequence)
        self._won[record.machine] = view
        asyncio.get_running_loop().call_later(NOTE_S, self._note_won, record.machine)
        return CasSettled(won=True, standing=view)

    async def _settle(
        self, record: reg.RegisterRecord, expected_sequence: int, message: str
    ) -> CasSettled | CasUnclear:
        try:
            standing = await self.read(record.machine)
        except RegisterWentBackError as error:
            standing = error.found
        except UnreachableError as error:
            return CasUnclear(message=error.message)
        if standing.record is not None and standing.record.nonce == record.nonce:
            return CasSettled(won=True, standing=standing)
        if standing.sequence == expected_sequence:
            return CasUnclear(message=message)
        return CasSettled(won=False, standing=standing)

    async def _stored(self, machine: str) -> RegisterView:
        stored = await self._log.last(subjects.register(machine))
        if stored is None:
            return reg.NO_REGISTER
        return RegisterView(reg.decode(stored.data), stored.sequence)

    def _note_won(self, machine: str) -> None:
        view = self._won.pop(machine, None)
        if view is not None and not reg.has_gone_back(view, self._marks.read(machine)):
            self._note(machine, view)

    def _note(self, machine: str, view: RegisterView) -> None:
        try:
            self._marks.write(machine, view)
        except OSError as error:  # less will be noticed; nothing wrong is done
            _log.warning("register_mark_not_written", machine=machine, error=error.strerror)


def _words(view: RegisterView) -> str:
    if view.record is None:
        return "nothing"
    return f"{view.record.value} of {view.record.owner} in epoch {view.record.epoch}"
