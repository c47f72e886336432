"""The register of each machine: read, and compare-and-set with an answer that can be trusted."""

from __future__ import annotations

from godwit.runtime.event_log import AppendConflictError, EventLog
from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.roles.inputs import CasSettled, CasUnclear

CAS_TIMEOUT_S = 2.0


class Registers:
    """All registers, through the event log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def read(self, machine: str) -> reg.RegisterView:
        """What stands. Good for learning, never for taking. Raises ``UnreachableError``."""
        stored = await self._log.last(subjects.register(machine))
        if stored is None:
            return reg.NO_REGISTER
        return reg.RegisterView(reg.decode(stored.data), stored.sequence)

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
        except (AppendConflictError, UnreachableError) as error:
            return await self._settle(record, expected_sequence, error.message)
        return CasSettled(won=True, standing=reg.RegisterView(record, sequence))

    async def _settle(
        self, record: reg.RegisterRecord, expected_sequence: int, message: str
    ) -> CasSettled | CasUnclear:
        try:
            standing = await self.read(record.machine)
        except UnreachableError as error:
            return CasUnclear(message=error.message)
        if standing.record is not None and standing.record.nonce == record.nonce:
            return CasSettled(won=True, standing=standing)
        if standing.sequence == expected_sequence:
            return CasUnclear(message=message)
        return CasSettled(won=False, standing=standing)
