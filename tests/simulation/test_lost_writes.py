"""A register that has lost an acknowledged write."""

from calm_cluster import CalmCluster

from godwit.hypervisor.port import VmmState
from godwit_protocol.events import migration as ev


def test_a_machine_leaves_whole_though_its_register_tells_of_an_earlier_epoch(
    calm: CalmCluster,
) -> None:
    """Else what it left stands there for ever: paused, and in the way."""
    here, there = calm.place("host-1").host, calm.place("host-2").host
    here.vmms["m"].epoch = calm.judge.registers["m"].epoch + 1
    calm.migrate()
    calm.until(calm.has_told(ev.ReservationConfirmed))
    assert there.vmms["m"].state is VmmState.RUNNING
    assert "m" not in here.vmms
