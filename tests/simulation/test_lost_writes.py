"""A register that has lost an acknowledged write."""

from calm_cluster import CalmCluster

from godwit.hypervisor.port import VmmState
from godwit_protocol import subjects
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import RegisterRestored
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.replay.verification import verify
from recorded_logs import stories_of


def test_a_machine_stays_until_its_register_tells_of_its_epoch_again(calm: CalmCluster) -> None:
    """What it left would be taken for a machine that has come back, and a source that takes it back
    would resume it in an epoch that is over.
    """
    here, there = calm.place("host-1").host, calm.place("host-2").host
    here.vmms["m"].epoch = calm.judge.registers["m"].epoch + 1
    early = calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))
    (ended,) = calm.told(ev.MigrationEnded)
    assert isinstance(ended, ev.MigrationEnded)
    assert (ended.outcome, ended.reason) == (Outcome.ABORTED, AbortReason.SUPERSEDED)
    assert here.vmms["m"].state is VmmState.RUNNING
    stored = calm.cluster.server.streams[subjects.EVENTS].messages
    assert verify(early, dict(stories_of(stored))[early]).faults == ()
    calm.until(calm.has_told(RegisterRestored))
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded, times=2))
    calm.rest()
    assert there.vmms["m"].state is VmmState.RUNNING
    assert "m" not in here.vmms
