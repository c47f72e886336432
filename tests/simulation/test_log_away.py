"""What was asked for while the event log went away, or was full, is done when that is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from calm_cluster import CalmCluster

from godwit.host.side import CAS_PACE_S
from godwit.hypervisor.port import Checkpoint, VmmState
from godwit.proof.simulator.hypervisor import ProcessVmm
from godwit.proof.simulator.log import ProcessLog
from godwit.runtime.event_log import LogFullError
from godwit_protocol.errors import DeadlineError, GodwitError, RefusedError, UnreachableError
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.register import RegisterValue

AWAY = partial(UnreachableError, "the event log did not answer")
FULL = partial(LogFullError, "the event log is full")
Error = Callable[[], GodwitError]


class Trouble:
    """The next appends whose subjects end alike fail: nothing is stored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ends: dict[str, list[Error]] = {}
        self._append = ProcessLog.append
        monkeypatch.setattr(ProcessLog, "append", self._troubled())

    def fail(self, end: str, errors: list[Error]) -> None:
        self._ends[end] = errors

    def _troubled(self):  # type: ignore[no-untyped-def]
        async def append(log: ProcessLog, subject: str, data: bytes, **given: object) -> int:
            for end, errors in self._ends.items():
                if subject.endswith(end) and errors:
                    raise errors.pop(0)()
            return await self._append(log, subject, data, **given)  # type: ignore[arg-type]

        return append


@pytest.fixture
def calm() -> Iterator[CalmCluster]:
    cluster = CalmCluster()
    yield cluster
    cluster.world.bury()


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch)


def moves(calm: CalmCluster) -> None:
    """The machine, in the end."""
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))
    (ended,) = calm.told(ev.MigrationEnded)
    assert isinstance(ended, ev.MigrationEnded)
    assert ended.outcome is ev.Outcome.COMPLETED


@pytest.mark.parametrize("error", [AWAY, FULL])
def test_a_machine_that_was_started_is_told_when_the_log_is_back(
    calm: CalmCluster, trouble: Trouble, error: Error
) -> None:
    trouble.fail(".machine_started", [error] * 3)
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.rest()
    assert len(calm.told(mev.MachineStarted)) == 1
    assert not calm.told(mev.MachineStartRefused)
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))


def test_a_start_whose_register_is_unclear_is_settled_before_anybody_is_told(
    calm: CalmCluster, trouble: Trouble
) -> None:
    trouble.fail(".register.m", [AWAY] * 12)
    calm.start()
    calm.until(lambda: bool(calm.told(mev.MachineStarted) or calm.told(mev.MachineStartRefused)))
    calm.stop()
    calm.until(lambda: bool(calm.told(mev.MachineStopped) or calm.told(mev.MachineStopRefused)))
    calm.start(start="again")
    calm.until(calm.has_told(mev.MachineStarted))


def test_a_stopped_machine_is_told_however_long_its_memory_takes_to_be_freed(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    end = ProcessVmm.stop

    async def slowly(vmm: ProcessVmm) -> None:
        await end(vmm)
        raise DeadlineError("the VMM takes its time to end")

    monkeypatch.setattr(ProcessVmm, "stop", slowly)
    calm.stop()
    calm.until(calm.has_told(mev.MachineStopped))
    assert not calm.told(mev.MachineStopRefused)


def test_what_was_asked_for_later_comes_later(calm: CalmCluster, trouble: Trouble) -> None:
    """A stop that could not be told does not end the machine that was started after it."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    trouble.fail(".machine_stopped", [AWAY] * 8)
    calm.stop()
    calm.until(lambda: calm.judge.registers["m"].value is RegisterValue.STOPPED)
    calm.start(start="again")
    calm.until(calm.has_told(mev.MachineStarted, times=2))
    calm.rest(30.0)
    assert len(calm.told(mev.MachineStopped)) == 1
    assert not calm.told(mev.MachineStopRefused)
    (running,) = calm.judge.machines["m"].vmms
    assert running.state is VmmState.RUNNING


def test_a_machine_whose_replies_wait_for_the_log_is_stunned_when_they_are_stored(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    refused, pause = 5, ProcessVmm.pause

    async def paused(vmm: ProcessVmm) -> Checkpoint:
        nonlocal refused
        if refused:
            refused -= 1
            raise RefusedError("replies wait for the event log")
        return await pause(vmm)

    monkeypatch.setattr(ProcessVmm, "pause", paused)
    moves(calm)


def test_a_migration_goes_on_when_there_is_room_in_the_log_again(
    calm: CalmCluster, trouble: Trouble
) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    trouble.fail(".start_decided", [FULL] * 4)
    moves(calm)


def test_a_tracker_goes_on_when_the_log_has_room_again(calm: CalmCluster, trouble: Trouble) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    trouble.fail(".ledger.host-2", [FULL] * 4)
    moves(calm)
    assert not calm.cluster.restarts


def test_a_register_that_the_log_refuses_is_not_asked_without_a_pause(
    calm: CalmCluster, trouble: Trouble
) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    refused: list[Error] = [FULL] * 10
    trouble.fail(".register.m", refused)
    calm.migrate()
    calm.until(lambda: len(refused) < 10)
    began_s = calm.world.loop.time()
    calm.until(lambda: not refused)
    assert calm.world.loop.time() - began_s >= 8 * CAS_PACE_S
    calm.until(calm.has_told(ev.MigrationEnded))
