"""What a tracker writes, says and leaves alone, a step at a time."""

from __future__ import annotations

from collections.abc import Sequence

from test_ledger import CATALOGUE, H100, L40S, picture, wanted

from godwit_protocol.events import Event
from godwit_protocol.events.reservation import (
    ReservationConfirmed,
    ReservationExpired,
    ReservationGranted,
    ReservationRefused,
    ReservationReleased,
)
from godwit_protocol.ledger import EntryKind, HostPicture, LedgerEntry, RefusalCode
from godwit_protocol.placement.policy import DeviceGroup, Policy
from godwit_protocol.roles import tracker
from godwit_protocol.roles.effects import Durability, Effect
from godwit_protocol.roles.inputs import Input

HOSTS = ("host-1", "host-2")
DUE_NS = 10


def want(
    name: str, *profiles: str, host: str = "host-1", due_ns: int = 0
) -> tracker.ReservationWanted:
    return tracker.ReservationWanted(
        reservation=name,
        machine=f"m-{name}",
        host=host,
        vgpus=wanted(*profiles),
        expires_wall_ns=due_ns,
    )


def used(name: str) -> tracker.ReservationUsed:
    return tracker.ReservationUsed(reservation=name)


def over(name: str) -> tracker.ReservationOver:
    return tracker.ReservationOver(reservation=name, why="it is stopped")


def lapsed(name: str, now_ns: int = DUE_NS) -> tracker.ReservationLapsed:
    return tracker.ReservationLapsed(reservation=name, now_wall_ns=now_ns)


class Desk:
    """A tracker, and the ledger that it writes."""

    def __init__(self, *models: str) -> None:
        gpus = picture(*models).gpus
        hosts = {name: HostPicture(host=name, announced=True, gpus=gpus) for name in HOSTS}
        self.state = tracker.TrackerState(catalogue=CATALOGUE, hosts=hosts)
        self.lines: list[LedgerEntry] = []

    def tell(self, given: Input) -> tuple[Effect, ...]:
        self.state, effects = tracker.step(self.state, given)
        return effects

    def store(self, entry: LedgerEntry) -> tuple[Effect, ...]:
        """The log takes a line, whoever wrote it."""
        self.lines.append(entry)
        return self.tell(tracker.LedgerStored(entry=entry, sequence=len(self.lines)))

    def done(self, given: Input) -> list[Event]:
        """Tell it, and store what it writes, to the end. Returns what it says."""
        effects = [*self.tell(given)]
        said = []
        while effects:
            effect = effects.pop(0)
            if isinstance(effect, tracker.WriteLedger):
                assert effect.expected_sequence == len(self.lines)
                effects += self.store(effect.entry)
            else:
                said += answers([effect])
        return said


def answers(effects: Sequence[Effect]) -> list[Event]:
    told = []
    for effect in effects:
        assert isinstance(effect, tracker.Answer)
        assert effect.append.durability is Durability.LOGGED
        told.append(effect.append.event)
    return told


def line_of(effect: Effect) -> LedgerEntry:
    assert isinstance(effect, tracker.WriteLedger), effect
    return effect.entry


def test_a_reservation_lives_from_its_request_to_its_end_and_each_is_said() -> None:
    desk = Desk(H100)
    (granted,) = desk.done(want("r", "7g.80gb", due_ns=DUE_NS))
    assert isinstance(granted, ReservationGranted)
    assert (granted.reservation, granted.target, granted.expires_wall_ns) == ("r", "host-1", DUE_NS)
    assert [place.profile for place in granted.placements] == ["7g.80gb"]
    assert desk.done(used("r")) == [ReservationConfirmed(reservation="r", target="host-1")]
    (released,) = desk.done(over("r"))
    assert released == ReservationReleased(reservation="r", target="host-1", why="it is stopped")
    kinds = [EntryKind.HELD, EntryKind.CONFIRMED, EntryKind.RELEASED]
    assert [line.kind for line in desk.lines] == kinds
    assert all(line.machine == "m-r" for line in desk.lines)
    assert all(line.placements == granted.placements for line in desk.lines)
    assert [line.why for line in desk.lines] == ["", "", "it is stopped"]
    assert [line.refusal for line in desk.lines] == [None, None, None]
    assert not any(desk.state.waiting.values())


def test_who_asks_again_is_told_the_same_and_nothing_is_written() -> None:
    desk = Desk(H100)
    granted = desk.done(want("r", "7g.80gb", due_ns=DUE_NS))
    assert desk.done(want("r", "7g.80gb", due_ns=DUE_NS)) == granted
    refused = desk.done(want("s", "7g.80gb"))
    assert [type(said) for said in refused] == [ReservationRefused]
    lines = [*desk.lines]
    assert desk.done(want("s", "7g.80gb")) == refused
    assert desk.lines == lines


def test_who_asks_again_for_what_is_over_is_told_nothing() -> None:
    """The end was the last word; asked for by the same name, it is not held again."""
    desk = Desk(H100)
    desk.done(want("r", "7g.80gb"))
    desk.done(over("r"))
    lines = [*desk.lines]
    assert desk.done(want("r", "7g.80gb")) == []
    assert desk.lines == lines


def test_what_expires_is_said_to_have_and_refused_from_then_on() -> None:
    desk = Desk(H100)
    desk.done(want("r", "7g.80gb", due_ns=DUE_NS))
    assert desk.done(lapsed("r", DUE_NS - 1)) == []
    assert desk.done(lapsed("r")) == [ReservationExpired(reservation="r", target="host-1")]
    assert desk.lines[-1].kind is EntryKind.EXPIRED
    assert desk.lines[-1].refusal is not None
    (refused,) = desk.done(want("r", "7g.80gb", due_ns=DUE_NS))
    assert isinstance(refused, ReservationRefused)
    assert refused.code == RefusalCode.EXPIRED


def test_what_is_used_does_not_expire_and_is_used_once() -> None:
    desk = Desk(H100)
    desk.done(want("r", "7g.80gb", due_ns=DUE_NS))
    desk.done(used("r"))
    lines = [*desk.lines]
    assert desk.done(used("r")) == desk.done(lapsed("r")) == []
    assert desk.lines == lines


def test_what_is_just_being_used_or_ended_does_not_expire() -> None:
    for known in (used("r"), over("r")):
        desk = Desk(H100)
        desk.done(want("r", "7g.80gb", due_ns=DUE_NS))
        (busy,) = desk.tell(want("s"))
        desk.tell(lapsed("r"))
        desk.tell(known)
        _, write = desk.store(line_of(busy))
        assert line_of(write).kind is not EntryKind.EXPIRED, known


def test_what_another_waits_for_lets_a_reservation_expire() -> None:
    desk = Desk(H100)
    desk.done(want("r", "7g.80gb", due_ns=DUE_NS))
    (busy,) = desk.tell(want("s"))
    desk.tell(lapsed("r"))
    desk.tell(want("t"))
    _, write = desk.store(line_of(busy))
    assert (line_of(write).reservation, line_of(write).kind) == ("r", EntryKind.EXPIRED)


def test_the_end_of_what_nobody_has_asked_for_is_nothing() -> None:
    desk = Desk(H100)
    for given in (used("r"), over("r"), lapsed("r")):
        before = desk.state
        assert desk.tell(given) == ()
        assert desk.state == before


def test_an_end_waits_where_its_request_does() -> None:
    desk = Desk(H100)
    for host in HOSTS:
        desk.tell(want(f"first on {host}", host=host))
        desk.tell(want(f"second on {host}", host=host))
    desk.tell(over("second on host-2"))
    waiting = {host: [item.reservation for item in desk.state.waiting[host]] for host in HOSTS}
    assert waiting == {
        "host-1": ["first on host-1", "second on host-1"],
        "host-2": ["first on host-2", "second on host-2", "second on host-2"],
    }


def test_an_end_that_comes_before_the_grant_frees_what_is_granted() -> None:
    desk = Desk(H100)
    (write,) = desk.tell(want("r", "7g.80gb"))
    desk.tell(over("r"))
    granted, release = desk.store(line_of(write))
    assert [type(said) for said in answers([granted])] == [ReservationGranted]
    assert line_of(release).kind is EntryKind.RELEASED
    desk.store(line_of(release))
    assert desk.state.hosts["host-1"].holdings == {}


def test_who_asks_again_while_a_line_of_it_is_written_is_answered_after_it() -> None:
    desk = Desk(H100)
    desk.done(want("r", "7g.80gb", due_ns=DUE_NS))
    (write,) = desk.tell(lapsed("r"))
    desk.tell(want("r", "7g.80gb", due_ns=DUE_NS))
    said = answers(desk.store(line_of(write)))
    assert [type(event) for event in said] == [ReservationExpired, ReservationRefused]


def test_an_end_that_is_told_again_and_again_waits_once() -> None:
    """Ends have no bound of their own: there are only as many as there are reservations."""
    desk = Desk(H100)
    desk.done(want("r"))
    desk.tell(want("busy"))
    for _ in range(3):
        desk.tell(over("r"))
    assert [item.reservation for item in desk.state.waiting["host-1"]] == ["busy", "r"]


def test_one_line_is_written_at_a_time_and_each_request_once() -> None:
    """What is said of a line comes before the next line: whoever reads the log sees it so."""
    desk = Desk(H100)
    (first,) = desk.tell(want("r"))
    assert desk.tell(want("r")) == desk.tell(want("s")) == ()
    told, second = desk.store(line_of(first))
    assert [type(said) for said in answers([told])] == [ReservationGranted]
    assert line_of(second).reservation == "s"
    assert tracker.retry(desk.state) == (desk.state, ()), "it is being written"
    assert len(desk.store(line_of(second))) == 1


def test_a_refusal_ends_the_wait_of_its_request() -> None:
    desk = Desk(H100)
    (write,) = desk.tell(want("r", *["7g.80gb"] * 2))
    assert line_of(write).kind is EntryKind.REFUSED
    assert line_of(write).placements == ()
    assert line_of(write).expires_wall_ns == 0
    (refused,) = answers(desk.store(line_of(write)))
    assert isinstance(refused, ReservationRefused)
    assert refused.code == RefusalCode.DOES_NOT_FIT
    assert not any(desk.state.waiting.values())
    assert desk.state.writing == {}


def test_a_refusal_has_no_deadline() -> None:
    desk = Desk(H100)
    (write,) = desk.tell(want("r", *["7g.80gb"] * 2, due_ns=DUE_NS))
    assert line_of(write).expires_wall_ns == 0


def test_a_line_that_is_read_again_changes_nothing() -> None:
    """A tracker that was reconnected reads from before: what has ended is not held again."""
    desk = Desk(H100)
    desk.done(want("r", "7g.80gb"))
    desk.done(over("r"))
    before = desk.state
    for sequence, line in enumerate(desk.lines, start=1):
        assert desk.tell(tracker.LedgerStored(entry=line, sequence=sequence)) == ()
    assert desk.state == before


def test_what_another_tracker_decided_is_said_and_waited_for_no_more() -> None:
    desk, other = Desk(H100), Desk(H100)
    desk.tell(want("r", "7g.80gb"))
    (write,) = other.tell(want("r", "7g.80gb"))
    desk.tell(tracker.LedgerRefused(host="host-1"))
    (granted,) = answers(desk.store(line_of(write)))
    assert isinstance(granted, ReservationGranted)
    assert not any(desk.state.waiting.values())


def test_who_loses_a_write_to_one_host_still_writes_to_another() -> None:
    desk = Desk(H100)
    desk.tell(want("r"))
    desk.tell(want("s", host="host-2"))
    desk.tell(tracker.LedgerRefused(host="host-1"))
    assert desk.state.writing == {"host-2": 0}
    assert desk.tell(want("t")) == (), "another writes there"
    _, effects = tracker.retry(desk.state)
    assert [line_of(effect).host for effect in effects] == ["host-1"]


def test_after_a_lost_write_all_that_waits_is_tried_again() -> None:
    """What needs no line is answered at once, and before the line that follows is written."""
    desk = Desk(H100)
    desk.done(want("r", "7g.80gb"))
    desk.tell(want("busy"))
    desk.tell(want("r", "7g.80gb"))
    desk.tell(want("s"))
    desk.tell(want("on another", host="host-2"))
    for host in HOSTS:
        desk.tell(tracker.LedgerRefused(host=host))
    state, effects = tracker.retry(desk.state)
    assert {line_of(effect).reservation for effect in effects} == {"busy", "on another"}
    desk.state = state
    told, again, write = desk.store(line_of(effects[0]))
    assert [event.reservation for event in answers([told, again])] == ["busy", "r"]
    assert line_of(write).reservation == "s"


def test_a_request_says_on_which_gpus_by_which_policy_and_how_near() -> None:
    near = tracker.ReservationWanted(
        reservation="r",
        machine="m",
        host="host-1",
        vgpus=wanted("1g.10gb"),
        policy=Policy.SPREAD,
        group=DeviceGroup.ONE_GPU,
        gpus=(1,),
    )
    (granted,) = Desk(H100, H100, H100).done(near)
    assert isinstance(granted, ReservationGranted)
    assert [place.gpu for place in granted.placements] == [1]
    two = tracker.ReservationWanted(
        reservation="s", machine="m", host="host-1", vgpus=wanted("1g.10gb", "1g.10gb")
    )
    for policy, group, gpus in (
        (Policy.SPREAD, DeviceGroup.NONE, 2),
        (Policy.SPREAD, DeviceGroup.ONE_GPU, 1),
        (Policy.CONSOLIDATE, DeviceGroup.NONE, 1),
    ):
        asked = tracker.ReservationWanted(
            reservation=two.reservation,
            machine=two.machine,
            host=two.host,
            vgpus=two.vgpus,
            policy=policy,
            group=group,
        )
        (granted,) = Desk(H100, H100).done(asked)
        assert isinstance(granted, ReservationGranted)
        assert len({place.gpu for place in granted.placements}) == gpus, (policy, group)


def test_a_host_is_known_by_what_it_announced_last() -> None:
    desk = Desk()
    desk.tell(tracker.HostSeen(host="host-3", gpus=picture(L40S).gpus))
    assert desk.state.hosts["host-3"].announced
    desk.done(want("r", host="host-3"))
    desk.tell(tracker.HostSeen(host="host-3", gpus=picture(H100).gpus))
    seen = desk.state.hosts["host-3"]
    assert [gpu.model for gpu in seen.gpus] == [H100]
    assert list(seen.holdings) == ["r"], "what is held stays"
    assert seen.sequence == 1
    assert set(desk.state.hosts) == {*HOSTS, "host-3"}


def test_a_line_that_cannot_be_read_is_passed_over_once() -> None:
    """The write that expected to come before it has lost, and is tried again behind it."""
    desk = Desk(H100)
    (first,) = desk.tell(want("r"))
    host = line_of(first).host
    (again,) = desk.tell(tracker.LedgerUnreadable(host=host, sequence=1))
    assert line_of(again) == line_of(first)
    assert (first.expected_sequence, again.expected_sequence) == (0, 1)
    for old in (0, 1):
        before = desk.state
        assert desk.tell(tracker.LedgerUnreadable(host=host, sequence=old)) == ()
        assert desk.state == before
