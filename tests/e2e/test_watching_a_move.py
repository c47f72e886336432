"""``godwit watch`` with keys, on a terminal, while a real machine is moved."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from godwit.cli.migration import cancel_migration
from godwit.local_cluster.cluster import Cluster
from godwit_protocol.events.migration import Outcome, RoundCompleted
from operations import NO_CONVERGENCE, Operations
from pseudo_terminal import on_terminal

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

GODWIT = str(Path(sys.executable).with_name("godwit"))
BUSY = ("GODWIT_MEMHOG_RATE=50000000",)


async def test_a_move_is_seen_filtered_opened_and_left(
    cluster: Cluster, operations: Operations, name: str
) -> None:
    await operations.start(name, "godwit.guests.memhog:Memhog", env=BUSY)
    migration = await operations.request(name, "host-2", NO_CONVERGENCE)
    await operations.event(migration, RoundCompleted)
    environ = {"GODWIT_NATS_URL": cluster.nats_url, "GODWIT_DIR": str(cluster.directory)}
    async with on_terminal(GODWIT, "watch", environ=environ) as terminal:
        before = terminal.mode()
        await terminal.shows(name)
        terminal.press("/no-such")
        await terminal.shows("no migration matches")
        terminal.press(f"\x1b/{name}\r")
        await terminal.shows(f"filter: {name}")
        terminal.press("\r")
        await terminal.shows("written")  # the detail, with the rates and the regions
        await terminal.shows("ram")
        terminal.press("q")
        await terminal.shows("choose")
        terminal.press("qq")
        assert await terminal.ended() == 0
        assert terminal.mode() == before
    summary = await cancel_migration(operations.log, migration)
    assert summary.outcome is Outcome.ABORTED
    await operations.stop(name)
