"""The destination goes through a stun that is near while the machine still runs at the source."""

import pytest
from calm_cluster import CalmCluster

from godwit.host.role import RoleRunner
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import inputs as inp


def test_a_destination_that_hears_of_it_rehearses_all_of_its_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rehearsed: list[type] = []
    rehearse = RoleRunner.rehearse

    def noted(self: RoleRunner, show: object, *inputs: inp.Input) -> None:
        rehearsed.extend(type(each) for each in inputs)
        rehearse(self, show, *inputs)

    monkeypatch.setattr(RoleRunner, "rehearse", noted)
    calm = CalmCluster()
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.migrate()
    calm.until(calm.has_told(ev.MachineActivated))
    calm.world.bury()
    first = rehearsed.index(inp.PeerStage)
    assert rehearsed[first : first + 3] == [inp.PeerStage, inp.ImageLoaded, inp.PeerGo]
    assert calm.judge.violations == []
