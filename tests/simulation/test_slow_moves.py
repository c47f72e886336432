"""Large machines: what takes long and makes progress ends at the migration's own deadline."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from calm_cluster import CalmCluster

from godwit.content.store import ContentStore
from godwit.proof.simulator import transfer
from godwit_protocol import subjects
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.replay.verification import verify
from godwit_protocol.roles import source
from recorded_logs import stories_of

HOUR_NS = 3_600_000_000_000
HALF_AN_HOUR_S = 1800.0


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[CalmCluster]:
    monkeypatch.setattr("calm_cluster.PATIENCE_S", 4 * HALF_AN_HOUR_S)
    monkeypatch.setattr(transfer, "POPULATE_S", HALF_AN_HOUR_S)
    cluster = CalmCluster()
    cluster.start()
    cluster.until(cluster.has_told(mev.MachineStarted))
    yield cluster
    cluster.world.bury()


def test_populating_may_take_half_an_hour(calm: CalmCluster) -> None:
    calm.migrate(deadline_ns=HOUR_NS)
    calm.until(calm.has_told(ev.MigrationEnded))
    assert len(calm.told(ev.MachineActivated)) == 1
    (begun,) = calm.told(ev.PrecopyStarted)
    assert isinstance(begun, ev.PrecopyStarted)
    assert begun.populate_ns > HALF_AN_HOUR_S / 2 * 1e9
    assert calm.judge.violations == []


def test_a_destination_that_dies_while_it_populates_is_found_at_once(calm: CalmCluster) -> None:
    calm.migrate(deadline_ns=HOUR_NS)
    calm.until(calm.has_told(ev.MigrationStarted))
    calm.rest()
    began_s = calm.world.loop.time()
    calm.cluster.running["destination-host-2"].process.die("killed")
    calm.until(calm.has_told(ev.MigrationAbandoned))
    (ended,) = calm.told(ev.MigrationAbandoned)
    assert isinstance(ended, ev.MigrationAbandoned)
    assert ended.reason is AbortReason.DESTINATION_LOST
    assert calm.world.loop.time() - began_s < HALF_AN_HOUR_S / 10


def test_populating_ends_with_the_migrations_deadline(calm: CalmCluster) -> None:
    calm.migrate(deadline_ns=HOUR_NS // 10)
    calm.until(calm.has_told(ev.MigrationAbandoned))
    (ended,) = calm.told(ev.MigrationAbandoned)
    assert isinstance(ended, ev.MigrationAbandoned)
    assert ended.reason is AbortReason.DEADLINE_PASSED


def test_a_log_of_who_gave_up_connecting_after_two_minutes_still_verifies(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As releases before this did, whatever the migration's deadline was."""
    begin = source.begin

    def hasty(*given: Any, now_ns: int, **named: Any) -> Any:
        state, effects = begin(*given, now_ns=now_ns, **named)
        return msgspec.structs.replace(state, deadline_ns=now_ns + 120_000_000_000), effects

    monkeypatch.setattr(source, "begin", hasty)
    migration = calm.migrate(deadline_ns=HOUR_NS)
    calm.until(calm.has_told(ev.MigrationEnded))
    monkeypatch.undo()
    (ended,) = calm.told(ev.MigrationAbandoned)
    assert isinstance(ended, ev.MigrationAbandoned)
    assert ended.reason is AbortReason.DEADLINE_PASSED
    stored = calm.cluster.server.streams[subjects.EVENTS].messages
    assert verify(migration, dict(stories_of(stored))[migration]).faults == ()


class SlowShelf:
    """What a host holds, of which nothing is known for long."""

    async def stocked(self, _machine_bytes: int) -> bool:
        await asyncio.sleep(HALF_AN_HOUR_S / 2)
        return False

    async def close(self) -> None:
        """Nothing is open."""


def test_what_populating_took_is_told_without_what_was_waited_for_besides(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "POPULATE_S", 1.0)
    monkeypatch.setattr(ContentStore, "shelf_for", lambda *_: SlowShelf())
    calm.migrate(deadline_ns=HOUR_NS)
    calm.until(calm.has_told(ev.MigrationEnded))
    (begun,) = calm.told(ev.PrecopyStarted)
    assert isinstance(begun, ev.PrecopyStarted)
    assert 1e9 <= begun.populate_ns < 3e9
    assert len(calm.told(ev.MachineActivated)) == 1
