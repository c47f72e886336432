"""A migration that is held back is let go while it runs, and the log tells who asked for it."""

from __future__ import annotations

import pytest

from godwit.cli.bandwidth import order_bandwidth
from godwit.pictures.migrations import as_json
from godwit_protocol.errors import ConflictError
from godwit_protocol.events.bandwidth import BandwidthOrdered, BandwidthRequested
from godwit_protocol.events.migration import Limits, Outcome, PrecopyStarted
from godwit_protocol.pacing import BURST_BYTES
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

CAP = 250_000
"""Bytes a second: the machine's 16 MiB would take a minute."""


async def test_a_bandwidth_is_raised_while_a_migration_runs(
    operations: Operations, name: str
) -> None:
    env = ("GODWIT_MEMHOG_RATE=1000000", "GODWIT_MEMHOG_FILL=1")  # no page is zero
    await operations.start(name, "godwit.guests.memhog:Memhog", env=env)
    migration = await operations.request(name, "host-2", Limits(bandwidth_bytes_per_second=CAP))
    await operations.event(migration, PrecopyStarted)
    changed = await order_bandwidth(operations.log, migration, 2 * CAP)
    assert changed.limits.bandwidth_bytes_per_second == 2 * CAP
    await order_bandwidth(operations.log, migration, 0)
    summary = await operations.ended(migration)
    assert summary.outcome is Outcome.COMPLETED, summary.message

    first = summary.rounds[0].figures
    assert first.cap_bytes_per_second == CAP
    assert first.paced_ns > 0
    # It would have taken far longer, had the cap stayed.
    assert first.duration_ns / 1e9 * 2 * CAP < first.wire_bytes - BURST_BYTES
    assert not any(done.figures.cap_bytes_per_second for done in summary.rounds[1:])

    requested = await operations.event(migration, BandwidthRequested, 2)
    ordered = await operations.event(migration, BandwidthOrdered, 2)
    assert (ordered.change, ordered.order) == (2, requested.order)
    assert requested.requested_by == ordered.requested_by != ""
    told = as_json(summary)
    assert told["bandwidth_changed_by"] == requested.requested_by
    assert told["round_details"][0]["cap_bytes_per_second"] == CAP

    checked = await operations.ask(name, {"op": "check"})
    assert (checked["bad"], checked["table_whole"]) == (0, True)
    with pytest.raises(ConflictError, match="too late"):
        await order_bandwidth(operations.log, migration, CAP)
    await operations.stop(name)
