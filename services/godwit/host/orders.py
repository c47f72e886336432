"""Operators' orders that find nothing to be done on this host: each is answered all the same."""

from __future__ import annotations

from godwit.runtime.lane import LaneWriter, Scope, position_in_log
from godwit_protocol import codec
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events.migration import RunOrderRefused

from .context import HostContext


async def refuse_order(host: HostContext, lane: Lane, order: Recorded) -> None:
    """Say that this host has no part in the migration (any more), unless it has been said.

    Only for a migration whose role does not run here: else its lane has another writer. Raises
    ``UnreachableError``.
    """
    envelope = order.envelope
    scope = Scope.of_migration(envelope.migration, envelope.machine)
    async for stored in host.log.read(scope.filters()):
        event = codec.decode(stored.data).event
        if isinstance(event, RunOrderRefused) and event.order == envelope.id:
            return
    position = await position_in_log(host.log, lane, host.name, scope)
    writer = LaneWriter(host.clock, lane, host.name, scope, position)
    why = f"{host.name} has no part in this migration, or has done it"
    sealed = writer.seal(RunOrderRefused(order=envelope.id, message=why))
    await sealed.append_to(host.log)
    if host.signer is not None:
        writer.advance(sealed)
        await writer.sign(host.signer).append_to(host.log)
