"""The proof that a migration's other host is off: asked for, written to the log, told to the role.

The proof is an event addressed to the service that asked, so that a restart of it finds the proof
where the operator's order is: in the log. It must not know when proof is needed: roles say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from godwit_protocol.errors import GodwitError
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.effects import Address, Durability

from .facts import FactWriter, acknowledged
from .fencing import Fencing

TRIES_MAX: Final = 20
PACE_S: Final = 30.0
"""A host that has lost its power may take a while to be seen as off."""
LOG_S_MAX: Final = 10.0

_log = structlog.get_logger(__name__)


class PeerFence:
    """The fencing of one migration's other host, for one role."""

    def __init__(
        self,
        fencing: Fencing,
        facts: FactWriter,
        own: Address,
        peer: str,
        tell: Callable[[inp.Input], None],
    ) -> None:
        """``own``: who asks, and will find the proof; ``peer``: the other host."""
        self._fencing = fencing
        self._facts = facts
        self._own = own
        self._peer = peer
        self._tell = tell
        self._asking: asyncio.Task[None] | None = None
        self._stored: asyncio.Future[bool] | None = None
        """Whether the log has taken the proof, once there is one."""
        self._alone = asyncio.Lock()
        """Held while there is none yet: an operator's order waits for what is being asked."""

    def ask(self) -> None:
        """Ask until there is proof, for some minutes, unless only an operator could give it."""
        if self._asking is None and not self._fencing.needs_operator:
            self._asking = asyncio.create_task(self._keep_asking())

    async def stop(self) -> None:
        """Ask no more. Idempotent."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait({asking})

    async def prove(self, vouched_by: str = "") -> None:
        """Get the proof, store it, and tell the role.

        Raises ``NotFencedError``, and ``UnreachableError`` if the log did not take the proof yet.
        """
        async with self._alone:
            if self._stored is None or _is_refused(self._stored):
                self._stored = await self._write_proof(vouched_by)
            stored = self._stored
        await acknowledged(stored, LOG_S_MAX)
        self._tell(inp.PeerFenced())

    async def _write_proof(self, vouched_by: str) -> asyncio.Future[bool]:
        """Whoever takes a host's power does it once, however long the log is away."""
        proof = await self._fencing.prove_off(self._peer, vouched_by)
        fenced = ev.HostFenced(
            target=self._peer,
            program=proof.program,
            answer=proof.answer,
            vouched_by=proof.vouched_by,
        )
        _log.warning("host_fenced", host=self._peer, program=proof.program, by=proof.vouched_by)
        return self._facts.write(fenced, Durability.JOURNALED, self._own)

    async def _keep_asking(self) -> None:
        for _ in range(TRIES_MAX):
            try:
                await self.prove()
            except GodwitError as error:
                _log.warning("peer_not_fenced", host=self._peer, error=error.message)
            else:
                return
            await asyncio.sleep(PACE_S)
        _log.error("peer_not_fenced_after_all", host=self._peer, tries=TRIES_MAX)


def _is_refused(stored: asyncio.Future[bool]) -> bool:
    return stored.done() and not stored.result()
