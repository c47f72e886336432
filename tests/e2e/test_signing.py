"""What services write of a migration is signed at its end, whichever way it went."""

from __future__ import annotations

import asyncio

import pytest

from godwit.cli.keys import find_keys
from godwit.cli.migration import cancel_migration
from godwit.runtime.event_log import Stored
from godwit.runtime.signing import is_signed
from godwit_protocol import subjects
from godwit_protocol.events.migration import Outcome, RoundCompleted
from godwit_protocol.events.signed import LaneSigned
from godwit_protocol.replay.findings import Verification
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.verification import verify
from operations import NO_CONVERGENCE, Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SIGNED_S_MAX = 30.0
ORDER_OF_LAST = "in which order the last"


async def trusted(operations: Operations) -> Trust:
    keys: dict[str, frozenset[bytes]] = {}
    for name, key in await find_keys(operations.log):
        keys[name] = keys.get(name, frozenset()) | {key}
    return Trust(is_signed=is_signed, keys=keys)


async def signed(operations: Operations, migration: str, *lanes: str) -> Verification:
    """The verification, once what these lanes tell is signed."""
    stored: list[Stored] = []
    found = None
    try:
        async with asyncio.timeout(SIGNED_S_MAX):
            async for each in operations.log.tail(subjects.whole_migration(migration)):
                stored.append(each)
                if each.subject.endswith(LaneSigned.TYPE):
                    found = verify(migration, stored, trust=await trusted(operations))
                    told = "\n".join(found.proven)
                    if all(lane in told for lane in lanes) and not found.open_ends:
                        assert not found.faults
                        # A tracker may sign after the coordinator, which signs the order.
                        assert all(each.startswith(ORDER_OF_LAST) for each in found.unproven)
                        return found
    except TimeoutError:
        raise AssertionError(found) from None
    raise AssertionError("a tail has no end")


async def test_a_migration_is_signed_by_all_who_wrote_of_it(
    operations: Operations, name: str
) -> None:
    await operations.start(name, "godwit.guests.memhog:Memhog", vgpus=["H100XM-4C"])
    completed = await operations.migrate(name, "host-2")
    assert completed.outcome is Outcome.COMPLETED, completed.message
    lanes = ("source/host-1", "destination/host-2", "tracker/", "coordinator/")
    told = "\n".join((await signed(operations, completed.id, *lanes)).proven)
    assert told.count("by a trusted key") >= 4
    aborted = await operations.request(name, "host-1", NO_CONVERGENCE)
    await operations.event(aborted, RoundCompleted)
    await cancel_migration(operations.log, aborted)
    assert (await operations.ended(aborted)).outcome is Outcome.ABORTED
    assert (await signed(operations, aborted, "source/host-2", "tracker/", "coordinator/")).proven
    await operations.stop(name)
