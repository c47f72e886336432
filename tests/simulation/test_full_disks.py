"""A host's disk fills up: migrations are refused or given up, in so many words; no service ends."""

from collections.abc import Iterator

import pytest
from calm_cluster import CalmCluster

from godwit.proof.simulator import folds
from godwit_protocol import subjects
from godwit_protocol.events import Event
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.replay.verification import verify
from recorded_logs import stories_of

ALWAYS_S = 1e9


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[CalmCluster]:
    """A cluster with a running machine, whose journals keep their room as the real ones do."""
    monkeypatch.setattr("godwit.proof.simulator.disk.USED_UP_CHANCE", 0.0)
    cluster = CalmCluster()
    cluster.start()
    cluster.until(cluster.has_told(mev.MachineStarted))
    yield cluster
    cluster.world.bury()


def fill(calm: CalmCluster, host: str) -> None:
    calm.place(host).disk.full_until_s = ALWAYS_S


def ends(calm: CalmCluster) -> list[ev.MigrationEnded]:
    return [event for event in calm.told(ev.MigrationEnded) if isinstance(event, ev.MigrationEnded)]


def check(calm: CalmCluster) -> None:
    """No service has ended, nothing is left, each story verifies, and the machine can be moved."""
    assert not calm.cluster.restarts
    calm.cluster.heal()
    calm.rest()
    number = len(ends(calm)) + 1
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded, number))
    assert ends(calm)[-1].outcome is Outcome.COMPLETED
    calm.rest()
    calm.judge.close()
    assert calm.judge.violations == []
    assert list(folds.differences(calm.cluster, calm.judge)) == []
    for story in stories_of(calm.cluster.server.streams[subjects.EVENTS].messages):
        assert verify(story.migration, story.messages).faults == ()


@pytest.mark.parametrize(
    ("host", "reason"),
    [("host-1", AbortReason.DISK_FULL), ("host-2", AbortReason.DESTINATION_REFUSED)],
)
def test_what_cannot_be_journaled_is_refused_each_time(
    calm: CalmCluster, host: str, reason: AbortReason
) -> None:
    fill(calm, host)
    for number in (1, 2, 3):
        calm.migrate()
        calm.until(calm.has_told(ev.MigrationEnded, number))
    assert [end.reason for end in ends(calm)] == [reason] * 3
    assert all("no room" in end.message for end in ends(calm))
    check(calm)


@pytest.mark.parametrize("moment", [ev.MigrationStarted, ev.PrecopyStarted])
def test_a_disk_that_fills_before_the_stun_ends_the_migration(
    calm: CalmCluster, moment: type[Event]
) -> None:
    """Pre-copy may be long, and its journal with it: no room is kept for that."""
    calm.migrate()
    calm.until(calm.has_told(moment))
    calm.until(lambda: bool(calm.place("host-1").disk.files))
    fill(calm, "host-1")
    calm.until(calm.has_told(ev.MigrationEnded))
    (end,) = ends(calm)
    assert (end.outcome, end.reason) == (Outcome.ABORTED, AbortReason.DISK_FULL)
    check(calm)


@pytest.mark.parametrize(
    ("host", "moment"), [("host-1", ev.StunIntended), ("host-2", ev.PreparationOrdered)]
)
def test_a_disk_that_fills_when_its_room_is_kept_hinders_nothing(
    calm: CalmCluster, host: str, moment: type[Event]
) -> None:
    calm.migrate()
    calm.until(calm.has_told(moment))
    calm.until(lambda: bool(calm.place(host).disk.files))
    fill(calm, host)
    calm.until(calm.has_told(ev.MigrationEnded))
    assert [end.outcome for end in ends(calm)] == [Outcome.COMPLETED]
    assert not calm.cluster.restarts
