"""A migration that fails says whose failure it was: the source's own is not the destination's."""

from collections.abc import Callable
from typing import Any

import pytest
from calm_cluster import CalmCluster

from godwit.hypervisor.port import VmmState
from godwit.proof.simulator.hypervisor import ProcessVmm
from godwit.proof.simulator.transfer import ProcessOutgoing
from godwit_protocol.errors import (
    AbortedError,
    ConflictError,
    DeadlineError,
    RefusedError,
    RemoteProtocolError,
    UnreachableError,
)
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason

OWN, PEERS = AbortReason.MACHINE_FAILED, AbortReason.DESTINATION_LOST


def abandoned(calm: CalmCluster) -> ev.MigrationAbandoned:
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))
    (end,) = calm.told(ev.MigrationAbandoned)
    assert isinstance(end, ev.MigrationAbandoned)
    assert calm.judge.violations == []
    return end


def failing(error: Exception) -> Callable[..., Any]:
    async def fail(*_given: object, **_named: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("who", "method", "error", "reason"),
    [
        (ProcessVmm, "outgoing", DeadlineError("somebody else tracks it"), OWN),
        (ProcessOutgoing, "held", UnreachableError("it cannot be looked at"), OWN),
        (ProcessOutgoing, "slow", DeadlineError("it is silent"), OWN),
        (ProcessOutgoing, "slow", ConflictError("it is paused"), OWN),
        (ProcessOutgoing, "dirty", UnreachableError("it cannot be looked at"), OWN),
        (ProcessOutgoing, "connect", RefusedError("no memory to map it"), OWN),
        (ProcessOutgoing, "send_round", KeyError("a defect"), OWN),
        (ProcessOutgoing, "connect", UnreachableError("nobody listens"), PEERS),
        (ProcessOutgoing, "send_round", UnreachableError("the connection broke"), PEERS),
        (ProcessOutgoing, "send_round", RemoteProtocolError("that is no answer"), PEERS),
        (ProcessOutgoing, "slow", AbortedError("it was broken off"), PEERS),
    ],
)
def test_it_is_told_whose_failure_it_was(
    calm: CalmCluster,
    monkeypatch: pytest.MonkeyPatch,
    who: type,
    method: str,
    error: Exception,
    reason: AbortReason,
) -> None:
    monkeypatch.setattr(who, method, failing(error))
    end = abandoned(calm)
    assert (end.reason, end.stun_ns) == (reason, 0)
    assert str(error) in end.message
    assert calm.place("host-1").host.vmms["m"].state is VmmState.RUNNING


def test_a_machine_that_dies_in_a_round_is_no_loss_of_the_destination(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, slow = calm.place("host-1").host, ProcessOutgoing.slow

    async def slow_then_die(self: ProcessOutgoing, percent: int) -> None:
        await slow(self, percent)
        there.kill(there.vmms["m"], "killed")

    monkeypatch.setattr(ProcessOutgoing, "slow", slow_then_die)
    end = abandoned(calm)
    assert end.reason is OWN
    assert "is dead" in end.message
