"""The log has what a host says of a migration's end before that host lets go of the memory, which
keeps its cores busy; but memory is not kept for a log that does not answer.
"""

from collections.abc import Callable

import pytest
from calm_cluster import CalmCluster

from godwit.host.facts import FactWriter
from godwit.host.side import TOLD_S_MAX
from godwit.proof.simulator.hypervisor import ProcessVmm
from godwit.proof.simulator.log import ProcessLog
from godwit.proof.simulator.transfer import ProcessIncoming, ProcessOutgoing
from godwit.runtime.lane import Scope
from godwit_protocol.errors import UnreachableError
from godwit_protocol.events import Event
from godwit_protocol.events import migration as ev

LETS_GO = (
    ("the source's mapping", ProcessOutgoing, "close", ev.MachineReleased),
    ("the machine that was left", ProcessVmm, "stop", ev.MachineReleased),
    ("the destination's mapping", ProcessIncoming, "close", ev.MachineActivated),
)


class LetGo:
    """When each was let go of, in seconds, and whether the log knew by then what it came of."""

    def __init__(self, calm: CalmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_s: dict[str, float] = {}
        self.told: dict[str, bool] = {}
        self._calm = calm
        for what, owner, method, event in LETS_GO:
            monkeypatch.setattr(owner, method, self._noting(what, getattr(owner, method), event))

    def _noting(self, what: str, act: Callable[..., object], event: type[Event]):  # type: ignore[no-untyped-def]
        async def noted(*given: object) -> None:
            self.at_s.setdefault(what, self._calm.world.loop.time())
            self.told.setdefault(what, bool(self._calm.told(event)))
            await act(*given)  # type: ignore[misc]

        return noted


@pytest.fixture
def let_go(calm: CalmCluster, monkeypatch: pytest.MonkeyPatch) -> LetGo:
    return LetGo(calm, monkeypatch)


def test_the_log_hears_how_it_ended_before_memory_is_let_go_of(
    calm: CalmCluster, let_go: LetGo
) -> None:
    calm.migrate()
    calm.until(lambda: len(let_go.told) == len(LETS_GO))
    assert let_go.told == dict.fromkeys((what for what, *_ in LETS_GO), True)


def test_memory_is_not_kept_for_a_log_that_does_not_answer(
    calm: CalmCluster, let_go: LetGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, ran_s = ProcessLog.append, []

    async def after_the_move(log: ProcessLog, subject: str, data: bytes, **given: object) -> int:
        if subject.endswith((ev.MachineActivated.TYPE, ev.MachineReleased.TYPE)):
            ran_s.append(calm.world.loop.time())
            raise UnreachableError("the event log did not answer")
        return await append(log, subject, data, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(ProcessLog, "append", after_the_move)
    calm.migrate()
    calm.until(lambda: len(let_go.told) == len(LETS_GO))
    assert not any(let_go.told.values())
    for at_s in let_go.at_s.values():
        assert TOLD_S_MAX / 2 < at_s - ran_s[0] < 2 * TOLD_S_MAX


def test_memory_of_a_migration_that_is_given_up_is_let_go_of_at_once(
    calm: CalmCluster, let_go: LetGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guest may be slowed as long as the source holds it."""
    waits: list[str] = []

    async def told(facts: FactWriter, _at_most_s: float) -> None:
        waits.append(facts.writer.scope.id)

    monkeypatch.setattr(FactWriter, "told", told)
    migration = calm.migrate()
    calm.until(calm.has_told(ev.PrecopyStarted))
    calm.put(Scope.of_migration(migration, "m"), ev.CancelRequested())
    calm.until(lambda: len(let_go.told) == len(LETS_GO) and calm.cluster.is_idle)
    assert not waits
    calm.migrate()
    calm.until(lambda: calm.cluster.is_idle and bool(calm.told(ev.MachineReleased)))
    assert waits
