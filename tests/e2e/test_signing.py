"""What services write of a migration is signed at its end, whichever way it went."""

from __future__ import annotations

import asyncio

import pytest

from godwit.cli.keys import find_keys
from godwit.cli.migration import cancel_migration
from godwit.runtime.signing import is_signed
from godwit_protocol import subjects
from godwit_protocol.events import Lane
from godwit_protocol.events.migration import Outcome, RoundCompleted
from godwit_protocol.events.reservation import ReservationReleased
from godwit_protocol.events.signed import LaneSigned
from godwit_protocol.replay.findings import Verification
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.verification import verify
from godwit_protocol.stored import Stored
from operations import NO_CONVERGENCE, Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SIGNED_S_MAX = 30.0


async def trusted(operations: Operations) -> Trust:
    keys: dict[str, frozenset[bytes]] = {}
    for name, key in await find_keys(operations.log):
        keys[name] = keys.get(name, frozenset()) | {key}
    return Trust(is_signed=is_signed, keys=keys)


async def whole(operations: Operations, migration: str, *told: str) -> Verification:
    """The verification, once events of these types stand in the log and all of it is proven."""
    stored: list[Stored] = []
    found = None
    try:
        async with asyncio.timeout(SIGNED_S_MAX):
            async for each in operations.log.tail(subjects.whole_migration(migration)):
                stored.append(each)
                if each.subject.endswith(f"{Lane.COORDINATOR}.{LaneSigned.TYPE}"):
                    found = verify(migration, stored, trust=await trusted(operations))
                    types = [before.subject.rpartition(".")[2] for before in stored]
                    if found.is_whole and set(told) <= {*types}:
                        return found
    except TimeoutError:
        raise AssertionError(found) from None
    raise AssertionError("a tail has no end")


async def test_a_migration_is_signed_by_all_who_wrote_of_it_the_coordinator_last(
    operations: Operations, name: str
) -> None:
    await operations.start(name, "godwit.guests.memhog:Memhog", vgpus=["H100XM-4C"])
    completed = await operations.migrate(name, "host-2")
    assert completed.outcome is Outcome.COMPLETED, completed.message
    told = "\n".join((await whole(operations, completed.id)).proven)
    for lane in ("source/host-1", "destination/host-2", "tracker/", "coordinator/"):
        assert lane in told
    assert told.count("by a trusted key") >= 4
    aborted = await operations.request(name, "host-1", NO_CONVERGENCE)
    await operations.event(aborted, RoundCompleted)
    await cancel_migration(operations.log, aborted)
    assert (await operations.ended(aborted)).outcome is Outcome.ABORTED
    told = "\n".join((await whole(operations, aborted)).proven)
    for lane in ("source/host-2", "destination/host-1", "tracker/", "coordinator/"):
        assert lane in told
    await operations.stop(name)
    assert await whole(operations, completed.id, ReservationReleased.TYPE), "signed once more"
