"""Operators' orders that find no role on this host: each is answered all the same.

Where this host has said that it has nothing left to run, an order to run the machine here asks for
the one thing that is still to be known: that the other host can have nothing of it either.
"""

from __future__ import annotations

from collections.abc import Sequence

from godwit.runtime.lane import LaneWriter, Scope, position_in_log
from godwit_protocol import codec
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import MachineFailed

from .context import HostContext


async def answer_order(host: HostContext, lane: Lane, order: Recorded) -> None:
    """Say that this host has no part in the migration (any more), unless it has been said; or, if
    it is open and nothing is left of it here, get the proof that the other host is off, and say so:
    that ends it.

    Only for a migration whose role does not run here: else its lane has another writer; and for one
    order after the other. Raises ``UnreachableError``.
    """
    envelope = order.envelope
    scope = Scope.of_migration(envelope.migration, envelope.machine)
    story = [codec.decode(stored.data) async for stored in host.log.read(scope.filters())]
    if any(_answers(recorded.event, envelope.id) for recorded in story):
        return
    answer = ev.RunOrderRefused(
        order=envelope.id, message=f"{host.name} has no part in this migration, or has done it"
    )
    sides = _sides(story)
    if sides and _is_open_with_nothing(host.name, story):
        (peer,) = sides - {host.name}
        await _append(host, lane, scope, await _proof_or_refusal(host, peer, order))
    else:
        await _append(host, lane, scope, answer)


def _answers(event: Event, order: str) -> bool:
    return isinstance(event, ev.RunOrderRefused) and event.order == order


def _sides(story: Sequence[Recorded]) -> set[str]:
    """The two hosts of a migration that was started."""
    for recorded in story:
        if isinstance(recorded.event, ev.MigrationStarted):
            return {recorded.event.source, recorded.event.destination}
    return set()


def _is_open_with_nothing(host: str, story: Sequence[Recorded]) -> bool:
    """Whether the migration is open though this host has said that it has nothing left to run."""
    if any(isinstance(recorded.event, ev.MigrationEnded) for recorded in story):
        return False
    return any(
        isinstance(recorded.event, MachineFailed | ev.ImageDiscarded | ev.MemoryLeft)
        and recorded.envelope.host == host
        for recorded in story
    )


async def _proof_or_refusal(host: HostContext, peer: str, order: Recorded) -> Event:
    assert isinstance(order.event, ev.RunOrdered)
    vouched_by = order.event.requested_by if order.event.other_is_off else ""
    try:
        proof = await host.fencing.prove_off(peer, vouched_by)
    except GodwitError as error:
        why = f"nothing is left here to run, and {error.message}"
        return ev.RunOrderRefused(order=order.envelope.id, message=why)
    return ev.HostFenced(
        target=peer, program=proof.program, answer=proof.answer, vouched_by=proof.vouched_by
    )


async def _append(host: HostContext, lane: Lane, scope: Scope, event: Event) -> None:
    position = await position_in_log(host.log, lane, host.name, scope)
    writer = LaneWriter(host.clock, lane, host.name, scope, position)
    sealed = writer.seal(event)
    await sealed.append_to(host.log)
    if host.signer is not None:
        writer.advance(sealed)
        await writer.sign(host.signer).append_to(host.log)
