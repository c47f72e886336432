"""What may leave the server: nothing that anybody may still write to."""

from __future__ import annotations

from pathlib import Path

import pytest

from godwit.runtime.log_file import LogFile
from godwit_protocol import codec
from godwit_protocol.events import Lane
from godwit_protocol.replay.findings import Verification
from godwit_protocol.replay.retention import Policy, objection
from godwit_protocol.stored import Stored

SIGNED = LogFile(Path(__file__).parents[1] / "golden" / "logs" / "v1-signed.ndjson")
ANY_TIME = Policy(older_than_ns=0)


def without(lane: Lane | None) -> list[Stored]:
    """A signed migration, of which a lane has said nothing."""
    return [each for each in SIGNED.messages() if codec.decode(each.data).envelope.lane != lane]


def said_against(
    messages: list[Stored],
    policy: Policy = ANY_TIME,
    *,
    claims: bool = False,
    unknown_claims: frozenset[str] = frozenset(),
) -> str:
    sound = Verification(
        migration=SIGNED.head().of, events=len(messages), proven=(), unproven=(), faults=()
    )
    return objection(
        messages, sound, policy, holds=False, claims=claims, unknown_claims=unknown_claims
    )


def test_one_that_all_hosts_have_signed_may_leave() -> None:
    assert said_against(without(None)) == ""


@pytest.mark.parametrize(
    ("lane", "name"), [(Lane.SOURCE, "source/"), (Lane.DESTINATION, "destination/")]
)
def test_a_host_that_was_told_of_it_and_has_said_nothing_may_come_back(
    lane: Lane, name: str
) -> None:
    silent = without(lane)
    told = said_against(silent)
    assert told.startswith(name)
    assert "has not signed its end" in told
    assert said_against(silent, Policy(older_than_ns=0, unsigned=True)) == ""


def test_one_that_a_claim_names_stays() -> None:
    """Its end is what tells coordinators that the claim is as good as free."""
    told = said_against(without(None), Policy(older_than_ns=0, unsigned=True), claims=True)
    assert told == "its machine's claim still names it"


def test_one_stays_that_an_unreadable_claim_may_name() -> None:
    machine = codec.decode(without(None)[0].data).envelope.machine
    told = said_against(without(None), unknown_claims=frozenset({machine}))
    assert told == "its machine's claim cannot be read"
    assert said_against(without(None), unknown_claims=frozenset({"another"})) == ""
