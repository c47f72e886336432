"""A machine that is lost with both hosts of its migration: the proof that they are off, and the
register written over.

It asks and writes; that the machine is lost, and what follows, is the core's to say. It takes no
silence for proof: a host that answers is not off, and of one that does not, the site's fencing
program must say so, or the operator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from godwit.host.fencing import Fencing, NotFencedError
from godwit.host.registers import Registers
from godwit.runtime.event_log import EventLog
from godwit_protocol import register as reg
from godwit_protocol.errors import ConflictError, UnreachableError
from godwit_protocol.events import migration as ev
from godwit_protocol.roles.inputs import CasUnclear

IsAlive: TypeAlias = Callable[[str], Awaitable[bool]]
"""Whether a host's services answer; what they run may live if they do not."""
WRITES_MAX: Final = 20
"""Of a register that others write too: each lost attempt means that a host is there after all."""


class Losses:
    """Those of one coordinator."""

    def __init__(self, log: EventLog, fencing: Fencing, is_alive: IsAlive) -> None:
        self._registers = Registers(log)
        self._fencing = fencing
        self._is_alive = is_alive

    async def prove_off(self, hosts: Sequence[str], vouched_by: str) -> list[ev.HostFenced]:
        """Proof of each host, that it is off. All are asked whether they live before anything else:
        a fencing program may take a host's power.

        Raises ``NotFencedError``, also if nothing is left to be proven, and ``UnreachableError``.
        """
        if not hosts:
            raise NotFencedError("the migration is not in doubt: it ends by itself")
        for host, lives in zip(
            hosts, await asyncio.gather(*map(self._is_alive, hosts)), strict=True
        ):
            if lives:
                raise NotFencedError(
                    f"{host} answers: it is not off",
                    hint="let it settle the migration, or order it to run the machine",
                )
        return [await self._prove(host, vouched_by) for host in hosts]

    async def _prove(self, host: str, vouched_by: str) -> ev.HostFenced:
        proof = await self._fencing.prove_off(host, vouched_by)
        return ev.HostFenced(
            target=host, program=proof.program, answer=proof.answer, vouched_by=proof.vouched_by
        )

    async def write_off(self, machine: str, migration: str, epoch: int) -> int:
        """Write into the register that the machine is lost. Returns the epoch; 0 if the machine,
        found by the migration in ``epoch``, has gone on since. Idempotent.

        Raises ``UnreachableError``, ``ConflictError``.
        """
        for _ in range(WRITES_MAX):
            found, seen = await self._registers.to_overrule(machine)
            if found.record is not None and reg.is_lost_with(found.record, migration):
                return found.record.epoch
            record = reg.lost(found.record, machine, migration, epoch)
            went_on = reg.has_gone_on(seen.record, migration, epoch)
            if record is None or (went_on and not reg.is_lost_with(seen.record, migration)):
                return 0
            settled = await self._registers.compare_and_set(record, found.sequence)
            if isinstance(settled, CasUnclear):
                raise UnreachableError(f"the register of {machine} does not answer")
        raise ConflictError(f"the register of {machine} changes all the time")
