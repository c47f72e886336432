"""What a peer may not say ends the migration before anything is stunned; and once it is over, no
connection of it is taken.
"""

from collections.abc import Callable

import msgspec
import pytest
from calm_cluster import CalmCluster

from godwit.destination_host.arrival import Arrival
from godwit.destination_host.service import DestinationHost
from godwit.hypervisor.port import VmmState
from godwit.proof.simulator.link import Listener
from godwit.runtime.lane import Scope
from godwit.source_host.departure import Departure
from godwit_protocol import link
from godwit_protocol.bulk import CONNECTIONS_MAX
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.framing import session_of
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

Say = Callable[[link.LinkMessage], None]


def saying(
    monkeypatch: pytest.MonkeyPatch,
    side: type[Arrival] | type[Departure],
    instead: Callable[[Say, link.LinkMessage], None],
) -> None:
    """``instead`` of each message of that side's: it says what it likes."""
    say = side._say

    def lie(self: Arrival | Departure, message: link.LinkMessage) -> None:
        instead(lambda each: say(self, each), message)  # type: ignore[arg-type]

    monkeypatch.setattr(side, "_say", lie)


def check_given_up(calm: CalmCluster, why: str) -> None:
    """The machine runs where it was, and has never stood still."""
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))
    (end,) = calm.told(ev.MigrationEnded)
    assert isinstance(end, ev.MigrationEnded)
    assert end.outcome is Outcome.ABORTED
    assert why in end.message
    assert not calm.told(ev.StunIntended)
    calm.until(lambda: calm.cluster.is_idle)
    here, there = (calm.place(host).host.vmms for host in ("host-1", "host-2"))
    assert (here["m"].state, here["m"].epoch, there) == (VmmState.RUNNING, 1, {})
    assert calm.judge.violations == []


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"version": link.LINK_VERSION + 1}, f"link version {link.LINK_VERSION + 1}, not"),
        ({"version": link.LINK_VERSION - 1}, f"link version {link.LINK_VERSION - 1}, not"),
        ({"migration": "another"}, "not the one that was prepared"),
        ({"regions": (RegionSpec("ram", PAGE_BYTES),)}, "not the one that was prepared"),
        ({"extents": ()}, "not those of its regions"),
        ({"extents": (b"", b"")}, "not those of its regions"),
        ({"connections": 0}, "wants 0 bulk connections"),
        ({"connections": CONNECTIONS_MAX + 1}, f"wants {CONNECTIONS_MAX + 1} bulk connections"),
    ],
)
def test_a_hello_of_anything_but_what_was_prepared_is_refused(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch, what: dict[str, object], why: str
) -> None:
    def falsified(say: Say, message: link.LinkMessage) -> None:
        is_hello = isinstance(message, link.Hello)
        say(msgspec.structs.replace(message, **what) if is_hello else message)

    saying(monkeypatch, Departure, falsified)
    check_given_up(calm, why)


@pytest.mark.parametrize(
    "wrong",
    [
        link.Go(),
        link.Runs(),
        link.Abort(reason=AbortReason.CANCELLED),
        link.Stage(round=1, checkpoint=b"", verify=ev.Verify.OFF),
        link.Ping(asked_ns=1),
    ],
)
def test_a_destination_that_says_what_is_a_source_s_is_lost(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch, wrong: link.LinkMessage
) -> None:
    def first(say: Say, message: link.LinkMessage) -> None:
        if isinstance(message, link.Welcome):
            say(wrong)
        say(message)

    saying(monkeypatch, Arrival, first)
    check_given_up(calm, f"the destination said {type(wrong).__name__}, which is a source's")


@pytest.mark.parametrize(
    "wrong",
    [
        link.Staged(),
        link.Quarantined(),
        link.Active(epoch=2, first_step_ns=1),
        link.Welcome(version=link.LINK_VERSION, populate_ns=0),
        link.Pong(asked_ns=1, heard_ns=1, said_ns=1),
    ],
)
def test_a_source_that_says_what_is_a_destination_s_is_lost(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch, wrong: link.LinkMessage
) -> None:
    def then(say: Say, message: link.LinkMessage) -> None:
        say(message)
        if isinstance(message, link.Hello):
            say(wrong)

    saying(monkeypatch, Departure, then)
    check_given_up(calm, f"the source said {type(wrong).__name__}, which is a destination's")


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_no_connection_is_taken_of_a_migration_that_is_over(
    calm: CalmCluster, is_cancelled: bool
) -> None:
    service = calm.cluster.running["destination-host-2"].service
    assert isinstance(service, DestinationHost)
    assert isinstance(service._listener, Listener)
    expected = service._listener.expected
    migration = calm.migrate()
    calm.until(calm.has_told(ev.PrecopyStarted))
    assert list(expected) == [session_of(migration)]
    if is_cancelled:
        calm.put(Scope.of_migration(migration, "m"), ev.CancelRequested())
    calm.until(lambda: bool(calm.told(ev.MigrationEnded)) and calm.cluster.is_idle)
    assert not expected
