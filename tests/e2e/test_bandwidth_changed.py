"""A migration that is held back is let go while it runs, and the log tells who asked for it. What
is held back is compressed, if that is faster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import msgspec
import pytest
import text_guest

from godwit.cli.bandwidth import order_bandwidth
from godwit.pictures.migrations import as_json
from godwit_protocol import subjects
from godwit_protocol.compression import Compression
from godwit_protocol.errors import ConflictError
from godwit_protocol.events.bandwidth import BandwidthOrdered, BandwidthRequested
from godwit_protocol.events.migration import Limits, Outcome, PrecopyStarted, Verify
from godwit_protocol.pacing import BURST_BYTES
from operations import EVENT_S_MAX, Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

TEXT = f"{Path(text_guest.__file__)}:Text"
CAP = 250_000
"""Bytes a second: the machine's 16 MiB would take a minute."""


async def under_way(operations: Operations, migration: str) -> None:
    """Wait until the first bytes of a round have gone out, and the rest waits for its turn."""
    subject = subjects.telemetry("migration", migration, "progress")
    heard = cast("AsyncGenerator[tuple[str, bytes], None]", operations.log.listen((subject,)))
    async with aclosing(heard), asyncio.timeout(EVENT_S_MAX):
        async for _, data in heard:
            if msgspec.msgpack.decode(data)["sent_bytes"] > 0:
                return


async def test_a_bandwidth_is_raised_while_a_migration_runs(
    operations: Operations, name: str
) -> None:
    env = ("GODWIT_MEMHOG_RATE=1000000", "GODWIT_MEMHOG_FILL=1")  # no page is zero
    await operations.start(name, "godwit.guests.memhog:Memhog", env=env)
    migration = await operations.request(name, "host-2", Limits(bandwidth_bytes_per_second=CAP))
    await operations.event(migration, PrecopyStarted)
    await under_way(operations, migration)
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


async def test_what_a_cap_holds_back_goes_compressed(operations: Operations, name: str) -> None:
    await operations.start(name, TEXT, ram="8MiB")
    async with operations.client(name) as client:
        before = await client.ask(b"digest")
        limits = Limits(bandwidth_bytes_per_second=20 * CAP)
        migration = await operations.request(name, "host-2", limits, Verify.FULL)
        summary = await operations.ended(migration)
        assert summary.outcome is Outcome.COMPLETED, summary.message
        assert await client.ask(b"digest") == before
    figures = summary.rounds[0].figures
    assert figures.compression is not Compression.NONE
    assert figures.compression_bytes > 0.2 * figures.sent_bytes
    assert figures.compression_ns > 0
    assert figures.link_bytes_per_second == 20 * CAP
    plain_s = (figures.sent_bytes - BURST_BYTES) / (20 * CAP)
    assert figures.duration_ns / 1e9 < 0.8 * plain_s
    told = as_json(summary)["round_details"][0]
    assert told["compression"] == figures.compression
    assert told["compression_bytes"] == figures.compression_bytes == summary.compression_bytes
    await operations.stop(name)
