"""What a coordinator is told of a loss, and of memory that stays: each of it ends a migration."""

from __future__ import annotations

import pytest

from godwit_protocol.events import Event
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import MachineFailed
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.coordinator_facts import Facts, input_of

FAILED = MachineFailed(message="its VMM is dead")


def off(host: str) -> ev.HostFenced:
    return ev.HostFenced(target=host, vouched_by="ada@desk")


def test_a_loss_is_told_once_of_each_host() -> None:
    """Whoever heard only the first would never know that both have nothing."""
    facts = Facts()
    assert [facts.is_new(FAILED, host) for host in ("a", "b", "a")] == [True, True, False]
    proofs = [off("a"), off("b"), off("b")]
    assert [facts.is_new(proof, "a") for proof in proofs] == [True, True, False]


def test_of_whoever_wrote_it_another_fact_is_told_once() -> None:
    facts, refused = Facts(), ev.PreparationRefused(message="full")
    assert [facts.is_new(refused, host) for host in ("a", "b")] == [True, False]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (FAILED, inp.ImageLost(host="a")),
        (off("b"), inp.ImageLost(host="b", is_off=True)),
        (
            ev.MemoryLeft(message="it is in use"),
            inp.Refused(reason=AbortReason.DESTINATION_REFUSED, message="it is in use"),
        ),
    ],
)
def test_what_is_lost_or_left_is_told_with_its_host_or_reason(event: Event, told: object) -> None:
    assert input_of(event, "a") == told
