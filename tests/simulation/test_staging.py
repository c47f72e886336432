"""A destination loads what was staged, once, or says why not."""

from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from calm_cluster import CalmCluster

from godwit.destination_host.arrival import Arrival
from godwit.hypervisor.port import VmmState
from godwit.proof.simulator.transfer import ProcessSession
from godwit.source_host.departure import Departure
from godwit_protocol import link
from godwit_protocol.errors import RemoteProtocolError
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome

Say = Callable[[Departure, link.LinkMessage], None]


def ended(calm: CalmCluster, verify: ev.Verify = ev.Verify.OFF) -> ev.MigrationEnded:
    calm.migrate(verify=verify)
    calm.until(calm.has_told(ev.MigrationEnded))
    (end,) = calm.told(ev.MigrationEnded)
    assert isinstance(end, ev.MigrationEnded)
    assert calm.judge.violations == []
    return end


def falsified(monkeypatch: pytest.MonkeyPatch, falsify: Callable[[link.Stage], link.Stage]) -> None:
    """What any source says of what it has staged."""
    say: Say = Departure._say

    def lie(self: Departure, message: link.LinkMessage) -> None:
        say(self, falsify(message) if isinstance(message, link.Stage) else message)

    monkeypatch.setattr(Departure, "_say", lie)


def assert_refused(calm: CalmCluster, end: ev.MigrationEnded, says: str) -> None:
    """Nothing is loaded of such an image; the machine runs where it was."""
    assert (end.outcome, end.reason) == (Outcome.ABORTED, AbortReason.VERIFICATION_FAILED)
    assert says in end.message
    assert calm.told(ev.ImageStaged) == []
    here, there = (calm.place(host).host.vmms for host in ("host-1", "host-2"))
    assert (here["m"].state, here["m"].epoch, there) == (VmmState.RUNNING, 1, {})
    steps = here["m"].steps
    calm.rest()
    here["m"].advance()
    assert here["m"].steps > steps


@pytest.mark.parametrize("number", [0, -1, -(2**63)])
def test_a_round_that_there_cannot_be_is_refused(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    falsified(monkeypatch, partial(msgspec.structs.replace, round=number))
    assert_refused(calm, ended(calm), f"staged round {number}")


@pytest.mark.parametrize("digests", [{"all": bytes(32)}, {}, {"another": bytes(32)}])
def test_an_image_that_is_not_the_source_s_is_refused(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch, digests: dict[str, bytes]
) -> None:
    falsified(monkeypatch, partial(msgspec.structs.replace, digests=digests))
    end = ended(calm, ev.Verify.FULL)
    assert_refused(calm, end, "regions differ from the source's: all")


def test_both_whole_images_are_compared_if_they_are_to_be(calm: CalmCluster) -> None:
    assert ended(calm, ev.Verify.FULL).outcome is Outcome.COMPLETED
    (staged,) = calm.told(ev.ImageStaged)
    assert isinstance(staged, ev.ImageStaged)
    assert staged.digests


@pytest.mark.parametrize("verify", [ev.Verify.WIRE, ev.Verify.FULL])
def test_what_was_applied_is_compared_with_what_was_sent(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch, verify: ev.Verify
) -> None:
    falsified(monkeypatch, partial(msgspec.structs.replace, sent_digest=bytes(16)))
    end = ended(calm, verify)
    assert_refused(calm, end, "the digest of what was applied is not that of what was sent")


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
    assert_refused(calm, ended(calm), "more has come")
