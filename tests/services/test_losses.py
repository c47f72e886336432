"""Proof that hosts are off: a fencing program may take their power; nobody is asked too early. And
what of a register may be written over.
"""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest

from godwit.coordinator.losses import WRITES_MAX, Losses
from godwit.host.fencing import NotFencedError, Proof
from godwit.host.registers import Overruled, Registers
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import register as reg
from godwit_protocol.errors import ConflictError, UnreachableError
from godwit_protocol.roles.inputs import CasSettled, CasUnclear


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


STARTED = reg.started("m", "host-1", None)
MOVED = reg.moved(STARTED, "host-2", "some-migration")
GONE_ON = reg.moved(MOVED, "host-3", "another-migration")


class Register(Registers):
    """One that shows, in turn, what a test has it show, and takes or does not take what comes."""

    def __init__(self, *shown: Overruled, settled: CasSettled | CasUnclear | None = None) -> None:
        super().__init__(create_autospec(NatsLog))
        self.written: list[reg.RegisterRecord] = []
        self._shown = list(shown)
        self._settled = settled

    async def to_overrule(self, machine: str) -> Overruled:
        return self._shown.pop(0) if len(self._shown) > 1 else self._shown[0]

    async def compare_and_set(
        self, record: reg.RegisterRecord, expected_sequence: int
    ) -> CasSettled | CasUnclear:
        self.written.append(record)
        return self._settled or CasSettled(won=False, standing=reg.NO_REGISTER)


def shows(record: reg.RegisterRecord, seen: reg.RegisterRecord | None = None) -> Overruled:
    return Overruled(reg.RegisterView(record, 7), reg.RegisterView(seen, 8 if seen else 0))


async def written_off(register: Register) -> int:
    losing = losses(Power())
    losing._registers = register
    return await losing.write_off("m", "some-migration", STARTED.epoch)


@pytest.mark.parametrize(
    "overruled", [shows(GONE_ON), shows(MOVED, seen=GONE_ON)], ids=["shown", "seen before"]
)
async def test_a_machine_that_has_gone_on_is_not_written_off(overruled: Overruled) -> None:
    """Also where the register has lost the write that said so."""
    register = Register(overruled)
    assert await written_off(register) == 0
    assert register.written == []


async def test_who_has_lost_a_write_to_another_looks_again() -> None:
    register = Register(shows(MOVED), shows(GONE_ON))
    assert await written_off(register) == 0
    (record,) = register.written
    assert (record.value, record.epoch) == (reg.RegisterValue.LOST, MOVED.epoch + 1)


async def test_a_register_that_does_not_answer_is_not_asked_again_and_again() -> None:
    register = Register(shows(MOVED), settled=CasUnclear(message="silent"))
    with pytest.raises(UnreachableError, match="does not answer"):
        await written_off(register)
    assert len(register.written) == 1


async def test_a_register_that_others_write_all_the_time_is_given_up() -> None:
    register = Register(shows(MOVED))
    with pytest.raises(ConflictError, match="all the time"):
        await written_off(register)
    assert len(register.written) == WRITES_MAX


async def test_a_write_off_that_the_register_has_lost_is_written_again() -> None:
    """It is of no migration, and so might be taken for somebody who has gone on."""
    ours = reg.lost(STARTED, "m", "some-migration", STARTED.epoch)
    assert ours is not None
    register = Register(shows(STARTED, seen=ours), shows(ours))
    assert await written_off(register) == ours.epoch
    assert register.written == [ours]


async def test_a_register_that_has_lost_everything_is_written_all_the_same() -> None:
    register = Register(Overruled(reg.NO_REGISTER, reg.RegisterView(STARTED, 1)), shows(MOVED))
    with pytest.raises(ConflictError):
        await written_off(register)
    assert register.written[0] == reg.lost(None, "m", "some-migration", STARTED.epoch)
