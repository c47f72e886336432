"""Proof that hosts are off: a fencing program may take their power; nobody is asked too early."""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest

from godwit.coordinator.losses import Losses
from godwit.host.fencing import NotFencedError, Proof
from godwit.runtime.nats_log import NatsLog


class Power:
    """A fencing program that notes whose power it took."""

    needs_operator = False

    def __init__(self, *, may_fail: bool = False) -> None:
        self.off: list[str] = []
        self._may_fail = may_fail

    async def prove_off(self, host: str, vouched_by: str = "") -> Proof:
        if self._may_fail:
            raise NotFencedError(f"{host} stays on")
        self.off.append(host)
        return Proof(vouched_by=vouched_by)


def losses(power: Power, *alive: str) -> Losses:
    async def is_alive(host: str) -> bool:
        return host in alive

    return Losses(create_autospec(NatsLog), power, is_alive)


@pytest.mark.parametrize("alive", ["host-1", "host-2"])
async def test_no_host_loses_its_power_while_the_other_answers(alive: str) -> None:
    power = Power()
    with pytest.raises(NotFencedError, match=f"{alive} answers: it is not off"):
        await losses(power, alive).prove_off(["host-1", "host-2"], "ada@desk")
    assert power.off == []


async def test_of_hosts_that_are_silent_each_is_proven_off() -> None:
    power = Power()
    proofs = await losses(power, "host-3").prove_off(["host-1", "host-2"], "ada@desk")
    assert [(proof.target, proof.vouched_by) for proof in proofs] == [
        ("host-1", "ada@desk"),
        ("host-2", "ada@desk"),
    ]
    assert power.off == ["host-1", "host-2"]


async def test_silence_is_no_proof() -> None:
    with pytest.raises(NotFencedError, match="host-1 stays on"):
        await losses(Power(may_fail=True)).prove_off(["host-1"], "ada@desk")


async def test_a_migration_that_is_not_in_doubt_is_not_given_up() -> None:
    with pytest.raises(NotFencedError, match="not in doubt"):
        await losses(Power()).prove_off([], "ada@desk")
