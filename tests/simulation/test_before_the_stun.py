"""What can be done before the stun is done before: in it is what needs the machine still."""

import pytest
from calm_cluster import CalmCluster

from godwit.proof.simulator.log import ProcessLog
from godwit.proof.simulator.process import Process
from godwit_protocol import subjects
from godwit_protocol.events import migration as ev
from godwit_protocol.stored import Stored

REGISTER = subjects.register("m")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """By which service what was done to a VMM, the link or the log, in order."""
    told: list[tuple[str, str]] = []
    step, last = Process.step, ProcessLog.last

    def told_step(self: Process, name: str) -> None:
        told.append((self.name, name))
        step(self, name)

    async def told_last(self: ProcessLog, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        told.append((self.process.name, f"read {subject}"))
        return await last(self, subject, timeout_s=timeout_s)

    monkeypatch.setattr(Process, "step", told_step)
    monkeypatch.setattr(ProcessLog, "last", told_last)
    return told


def test_the_stun_has_nothing_in_it_that_could_come_before(
    calm: CalmCluster, done: list[tuple[str, str]]
) -> None:
    calm.migrate()
    calm.until(calm.has_told(ev.MachineActivated))
    begin, end = (
        done.index(each)
        for each in (("source-host-1", "pause m"), ("destination-host-2", "open the gate m: done"))
    )

    def of(service: str, part: list[tuple[str, str]]) -> list[str]:
        return [what for who, what in part if who == service and what != "journal written"]

    stun = done[begin : end + 1]
    assert of("source-host-1", stun) == ["pause m", "pause m: done", "send round 2 of m"]
    assert of("destination-host-2", stun) == [
        *("load m", "load m: done"),
        *(f"before the append of {REGISTER}", f"after the append of {REGISTER}"),
        *("open the gate m", "open the gate m: done"),
    ]
    before = done[:begin]
    assert "dial the destination" in of("source-host-1", before)
    assert "after the append of" in before[-1][1]
    assert before[-1][1].endswith(ev.StunIntended.TYPE)
    for ready in ("create a VMM", "VMM created", "populate memory", f"read {REGISTER}"):
        assert ready in of("destination-host-2", before)
