"""A destination loads what was staged, once, or says why not."""

from collections.abc import Callable

import msgspec
import pytest
from calm_cluster import CalmCluster

from godwit.destination_host.arrival import Arrival
from godwit.proof.simulator.transfer import ProcessSession
from godwit.source_host.departure import Departure
from godwit_protocol import link
from godwit_protocol.errors import RemoteProtocolError
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome

Say = Callable[[Departure, link.LinkMessage], None]


def ended(calm: CalmCluster) -> ev.MigrationEnded:
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))
    (end,) = calm.told(ev.MigrationEnded)
    assert isinstance(end, ev.MigrationEnded)
    assert calm.judge.violations == []
    return end


@pytest.mark.parametrize("number", [0, -1, -(2**63)])
def test_a_round_that_there_cannot_be_is_refused(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    say: Say = Departure._say

    def lie(self: Departure, message: link.LinkMessage) -> None:
        if isinstance(message, link.Stage):
            message = msgspec.structs.replace(message, round=number)
        say(self, message)

    monkeypatch.setattr(Departure, "_say", lie)
    end = ended(calm)
    assert end.reason is AbortReason.VERIFICATION_FAILED
    assert f"staged round {number}" in end.message
    assert calm.told(ev.ImageStaged) == []


def test_what_was_staged_first_is_loaded(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Arrival._heard

    def hear_two(self: Arrival, message: link.AnyLinkMessage) -> None:
        heard(self, message)
        if isinstance(message, link.Stage):
            heard(self, msgspec.structs.replace(message, checkpoint=b"of another machine"))

    monkeypatch.setattr(Arrival, "_heard", hear_two)
    assert ended(calm).outcome is Outcome.COMPLETED


def test_nothing_is_loaded_where_more_has_come(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: ProcessSession, round_number: int) -> None:
        raise RemoteProtocolError(f"more has come after round {round_number}")

    monkeypatch.setattr(ProcessSession, "seal", refuse)
    end = ended(calm)
    assert end.reason is AbortReason.VERIFICATION_FAILED
    assert "more has come" in end.message
    assert calm.told(ev.ImageStaged) == []
