"""Proof that hosts are off: a fencing program may take their power; nobody is asked too early."""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest

from godwit.coordinator.losses import Losses
from godwit.host import registers
from godwit.host.fencing import NoFencing, NotFencedError, Proof
from godwit.runtime.event_log import AppendConflictError
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import register as reg
from godwit_protocol.stored import Stored


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


class Register:
    """One machine's register, which may lose its last write."""

    def __init__(self, *records: reg.RegisterRecord) -> None:
        self.records = [*records]
        self.loses_next = False

    def stored(self) -> Stored:
        return Stored("", len(self.records), 0, reg.encode(self.records[-1]), {})

    def log(self) -> NatsLog:
        async def last(_subject: str) -> Stored:
            return self.stored()

        async def append(
            _subject: str, data: bytes, *, expected_last_sequence: int, **_: object
        ) -> int:
            if expected_last_sequence != len(self.records):
                raise AppendConflictError("somebody was faster")
            sequence = expected_last_sequence + 1
            if self.loses_next:
                self.loses_next = False
            else:
                self.records.append(reg.decode(data))
            return sequence

        log: NatsLog = create_autospec(NatsLog)
        log.last, log.append = last, append  # type: ignore[method-assign, assignment]
        return log


async def nobody_lives(_host: str) -> bool:
    return False


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registers, "LOOK_S", 0.0)


STARTED = reg.started("m", "host-1", None, "start")


@pytest.mark.usefixtures("impatient")
async def test_a_machine_that_was_seen_to_go_on_is_not_written_off() -> None:
    ours = reg.moved(STARTED, "host-2", "ours")
    register = Register(STARTED, ours, reg.moved(ours, "host-3", "later"))
    losses = Losses(register.log(), NoFencing(), nobody_lives)
    assert await losses.write_off("m", "ours", STARTED.epoch) == 0
    del register.records[1:]
    assert await losses.write_off("m", "ours", STARTED.epoch) == 0
    assert register.records == [STARTED]


@pytest.mark.usefixtures("impatient")
async def test_a_write_off_that_the_register_has_lost_is_written_again() -> None:
    register = Register(STARTED)
    register.loses_next = True
    losses = Losses(register.log(), NoFencing(), nobody_lives)
    epoch = await losses.write_off("m", "ours", STARTED.epoch)
    assert register.records[-1].value is reg.RegisterValue.LOST
    assert register.records[-1].epoch == epoch == STARTED.epoch + 2
