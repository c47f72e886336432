"""All that a machine's pages can be saved from travelling is saved, and each of it can be switched
off: the same machine, over links that are capped alike, from a cluster as it is and from one that
is told to send everything.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import saving_guest
from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from godwit_protocol.compression import Compression
from godwit_protocol.events.migration import Limits, Outcome, RoundFigures, Verify
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

EVERYTHING_TRAVELS = {
    "GODWIT_OMIT_ZEROS": "off",
    "GODWIT_OMIT_REWRITTEN": "off",
    "GODWIT_CONTENT_STORE": "off",
    "GODWIT_COMPRESSION": "off",
    "GODWIT_LET_HOT_WAIT": "off",
    "GODWIT_BULK_CONNECTIONS": "3",
}
SAVED = (
    "zero_bytes",
    "rewritten_bytes",
    "content_bytes",
    "compression_bytes",
    "waiting_bytes",
)
SPENT = ("zero_ns", "looked_bytes", "rewritten_ns", "content_ns", "compression_ns")
CAP = 40_000_000
LIMITS = Limits(
    bandwidth_bytes_per_second=CAP,
    stun_limit_ns=200_000_000,
    stun_limit_max_ns=30_000_000_000,
    rounds_max=3,
)
"""What the machine writes does not fit the limit: so the third round, in which what is hot may wait
and what was sent in the second is known, comes before the stun.
"""


async def moved(operations: Operations, name: str) -> list[RoundFigures]:
    """Move a machine to where another of its kind runs; return the figures of its rounds."""
    resident = f"{name}-resident"
    ram = f"{saving_guest.RAM_BYTES >> 20}MiB"
    for machine, kind, host in ((name, "Rewriting", "host-1"), (resident, "Resident", "host-2")):
        guest = f"{Path(saving_guest.__file__)}:{kind}"
        await operations.start(machine, guest, host, ram=ram, tenant="saving")
    summary = await operations.migrate(name, "host-2", LIMITS, Verify.FULL)
    assert summary.outcome is Outcome.COMPLETED, (summary.reason, summary.message)
    for machine in (name, resident):
        await operations.stop(machine)
    return [done.figures for done in summary.rounds]


def total(rounds: list[RoundFigures], figure: str) -> int:
    return sum(getattr(figures, figure) for figures in rounds)


async def test_a_cluster_as_it_is_saves_all_that_can_be_saved(
    operations: Operations, name: str
) -> None:
    rounds = await moved(operations, name)
    assert [figures.cap_bytes_per_second for figures in rounds] == [CAP] * 3
    saved = {figure: total(rounds, figure) for figure in (*SAVED, *SPENT)}
    assert all(saved.values()), saved
    assert rounds[0].compression is not Compression.NONE


async def test_a_cluster_that_is_told_so_sends_everything(tmp_path: Path, name: str) -> None:
    async with await Cluster.start(tmp_path, hosts=2, environ=EVERYTHING_TRAVELS) as cluster:
        log = await NatsLog.connect(cluster.nats_url, name="e2e")
        rounds = await moved(Operations(cluster, log), name)
        await log.close()
    assert [figures.cap_bytes_per_second for figures in rounds] == [CAP] * 3
    saved = {figure: total(rounds, figure) for figure in (*SAVED, *SPENT)}
    assert not any(saved.values()), saved
    assert {figures.compression for figures in rounds} == {Compression.NONE}
    assert {figures.connections for figures in rounds} == {3}
    assert rounds[0].sent_bytes >= saving_guest.RAM_BYTES
