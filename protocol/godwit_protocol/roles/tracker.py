"""The tracker's part: the cluster's GPUs, and reservations on them. Pure.

Each host has one ledger, an exact subject written by compare-and-set. The ledger is the truth; the
tracker's state is its fold. A request is decided against the fold and written with the sequence
that it was decided at: if another tracker wrote first, the write fails, the fold catches up, and
the request is decided again. So no two reservations can ever overlap, whoever decides, and since a
refusal is a line too, no two trackers can answer one request differently. A host's writes go one
after the other; what waits is kept in order.

Replicas do not race for each line: whoever loses a write stands aside from that host's ledger until
the next ``retry``, and the winner goes on alone. So replicas share out the hosts by themselves, and
one that dies is missed for no longer than the time between two retries.

Where a profile fits is the placement solver's to say, from the catalogue that the state carries.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..catalogue import Catalogue
from ..errors import LocalProtocolError
from ..events import Event
from ..events import reservation as rev
from ..events.machine import GpuInventory
from ..ledger import (
    EntryKind,
    Holding,
    HostPicture,
    LedgerEntry,
    ProfileWanted,
    Refusal,
    RefusalCode,
    apply,
    decide,
    narrowed,
)
from ..placement.policy import DeviceGroup, Policy
from . import effects as fx
from .effects import Durability, Effect
from .inputs import Input

WAITING_MAX: Final = 10_000
"""Requests that may wait for one host's ledger; more are refused, without a line in the ledger."""
_EXPIRED: Final = Refusal(
    code=RefusalCode.EXPIRED, message="the reservation was not used by its deadline; ask anew"
)


class HostSeen(Input, frozen=True, kw_only=True):
    """A host announced its GPUs."""

    host: str
    gpus: tuple[GpuInventory, ...]


class LedgerStored(Input, frozen=True, kw_only=True):
    """A line of a host's ledger, whoever wrote it."""

    entry: LedgerEntry
    sequence: int


class LedgerUnreadable(Input, frozen=True, kw_only=True):
    """A line of a host's ledger that says nothing, but stands there: the next comes after it."""

    host: str
    sequence: int


class LedgerRefused(Input, frozen=True, kw_only=True):
    """Our write lost: another line was there first, or the log did not answer."""

    host: str


class ReservationWanted(Input, frozen=True, kw_only=True):
    """Somebody wants capacity."""

    reservation: str
    machine: str
    host: str
    vgpus: tuple[ProfileWanted, ...]
    policy: Policy = Policy.CONSOLIDATE
    group: DeviceGroup = DeviceGroup.NONE
    expires_wall_ns: int = 0
    """When it ends if it is not used by then; 0: never."""
    gpus: tuple[int, ...] | None = None


class ReservationUsed(Input, frozen=True, kw_only=True):
    """The machine runs where the reservation is: it is occupied now."""

    reservation: str


class ReservationOver(Input, frozen=True, kw_only=True):
    """Whatever held the reservation is over."""

    reservation: str
    why: str


class ReservationLapsed(Input, frozen=True, kw_only=True):
    """The deadline of a reservation has passed, and the log knows nobody who uses it or might."""

    reservation: str
    now_wall_ns: int


class WriteLedger(Effect, frozen=True, kw_only=True):
    """Append to a host's ledger if its last sequence is still ``expected_sequence``."""

    entry: LedgerEntry
    expected_sequence: int


class Answer(Effect, frozen=True, kw_only=True):
    """Tell whoever asked, in the scope that the reservation was asked for in."""

    reservation: str
    append: fx.Append


Waiting = ReservationWanted | ReservationUsed | ReservationOver | ReservationLapsed


class TrackerState(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as the tracker knows it."""

    catalogue: Catalogue
    hosts: dict[str, HostPicture] = {}
    waiting: dict[str, tuple[Waiting, ...]] = {}
    """By host: what has not been decided yet; the first is being written if ``writing``."""
    writing: dict[str, int] = {}
    """By host: the sequence that the write under way expects."""
    aside: frozenset[str] = frozenset()
    """Hosts whose last write was lost; others write there until the next ``retry``."""


Result = tuple[TrackerState, tuple[Effect, ...]]


def step(state: TrackerState, given: Input) -> Result:
    """One step. A tracker has one phase: each of its inputs is legal at any time.

    Raises ``LocalProtocolError`` for another role's input.
    """
    match given:
        case HostSeen():
            return _host_seen(state, given)
        case LedgerStored():
            return _stored(state, given)
        case LedgerUnreadable():
            return _passed_over(state, given)
        case LedgerRefused():
            return _refused(state, given.host)
        case ReservationWanted():
            return _enqueue(state, given.host, given)
        case ReservationUsed() | ReservationOver() | ReservationLapsed():
            host = _host_of(state, given.reservation)
            return (state, ()) if host is None else _enqueue(state, host, given)
        case _:
            raise LocalProtocolError(f"tracker: {type(given).__name__} is not an input of it")


def _host_of(state: TrackerState, reservation: str) -> str | None:
    """Where a reservation stands, or will once its request has been decided."""
    for host, picture in state.hosts.items():
        if reservation in picture.holdings:
            return host
    for host, waiting in state.waiting.items():
        if any(item.reservation == reservation for item in waiting):
            return host
    return None


def _host_seen(state: TrackerState, given: HostSeen) -> Result:
    picture = _picture(state, given.host)
    seen = msgspec.structs.replace(picture, gpus=given.gpus, announced=True)
    return _with(state, given.host, seen), ()


def _stored(state: TrackerState, given: LedgerStored) -> Result:
    host = given.entry.host
    picture = _picture(state, host)
    if given.sequence <= picture.sequence:
        return state, ()
    state = _with(state, host, apply(picture, given.entry, given.sequence))
    told = _told(given.entry)
    state = _replace(
        state,
        writing=_without(state.writing, host),
        waiting={**state.waiting, host: _undone(state.waiting.get(host, ()), given.entry)},
    )
    after, effects = _next(state, host)
    return after, (*told, *effects)


def _passed_over(state: TrackerState, given: LedgerUnreadable) -> Result:
    host = given.host
    picture = _picture(state, host)
    if given.sequence <= picture.sequence:
        return state, ()
    passed = msgspec.structs.replace(picture, sequence=given.sequence)
    state = _replace(_with(state, host, passed), writing=_without(state.writing, host))
    return _next(state, host)


def _undone(waiting: tuple[Waiting, ...], entry: LedgerEntry) -> tuple[Waiting, ...]:
    """What still waits, now that ``entry`` is written."""
    kind = EntryKind.HELD if entry.kind is EntryKind.REFUSED else entry.kind
    return tuple(item for item in waiting if not _is(item, entry.reservation, kind))


def _is(item: Waiting, reservation: str, kind: EntryKind) -> bool:
    return item.reservation == reservation and _kind_of(item) is kind


def _kind_of(item: Waiting) -> EntryKind:
    match item:
        case ReservationWanted():
            return EntryKind.HELD
        case ReservationUsed():
            return EntryKind.CONFIRMED
        case ReservationOver():
            return EntryKind.RELEASED
        case ReservationLapsed():
            return EntryKind.EXPIRED


def _refused(state: TrackerState, host: str) -> Result:
    """Stand aside: the line that won is still to come, and its writer will go on."""
    writing = _without(state.writing, host)
    return _replace(state, writing=writing, aside=state.aside | {host}), ()


def _enqueue(state: TrackerState, host: str, item: Waiting) -> Result:
    """Let ``item`` wait its turn. A request over the bound is refused; an end never is, or capacity
    would leak: there are only as many as there are reservations.
    """
    waiting = state.waiting.get(host, ())
    if any(_is(other, item.reservation, _kind_of(item)) for other in waiting):
        return state, ()
    if len(waiting) >= WAITING_MAX and isinstance(item, ReservationWanted):
        message = f"{len(waiting)} requests wait for the ledger of host {host}"
        refusal = Refusal(code=RefusalCode.TOO_MANY_WAITING, message=message)
        return state, (_refusal(item.reservation, host, refusal),)
    state = _replace(state, waiting={**state.waiting, host: (*waiting, item)})
    return _next(state, host)


def retry(state: TrackerState) -> Result:
    """Try again what waits and is not being written; the shell calls it now and then."""
    state = _replace(state, aside=frozenset())
    effects: tuple[Effect, ...] = ()
    for host in state.waiting:
        state, more = _next(state, host)
        effects = (*effects, *more)
    return state, effects


def _next(state: TrackerState, host: str) -> Result:
    """Decide and write the first that waits, if no write is under way and nobody else writes."""
    effects: tuple[Effect, ...] = ()
    if host in state.writing or host in state.aside:
        return state, ()
    while state.waiting.get(host):
        first, *rest = state.waiting[host]
        decided = _decide(state, host, first)
        if isinstance(decided, LedgerEntry):
            expected = _picture(state, host).sequence
            state = _replace(state, writing={**state.writing, host: expected})
            write = WriteLedger(entry=decided, expected_sequence=expected)
            return state, (*effects, write)
        effects = (*effects, *decided)
        state = _replace(state, waiting={**state.waiting, host: tuple(rest)})
    return state, effects


def _decide(state: TrackerState, host: str, item: Waiting) -> LedgerEntry | tuple[Effect, ...]:
    """The line to write, or what to say when there is none to write."""
    picture = _picture(state, host)
    held = picture.holdings.get(item.reservation)
    if not isinstance(item, ReservationWanted):
        if held is None or not _matters(state, host, item, held):
            return ()
        return LedgerEntry(
            kind=_kind_of(item),
            reservation=item.reservation,
            machine=held.machine,
            host=host,
            placements=held.placements,
            why=item.why if isinstance(item, ReservationOver) else "",
            refusal=_EXPIRED if isinstance(item, ReservationLapsed) else None,
        )
    if held is not None:
        return (_granted(item.reservation, host, held.placements, held.expires_wall_ns),)
    if item.reservation in picture.settled:
        refusal = picture.settled[item.reservation]
        return () if refusal is None else (_refusal(item.reservation, host, refusal),)
    decided = decide(
        narrowed(picture, item.gpus),
        host,
        item.vgpus,
        state.catalogue,
        policy=item.policy,
        group=item.group,
    )
    return _line(item, decided)


def _matters(state: TrackerState, host: str, item: Waiting, held: Holding) -> bool:
    """Whether there is anything to write of a reservation that stands."""
    match item:
        case ReservationUsed():
            return not held.confirmed
        case ReservationLapsed():
            others = (other for other in state.waiting[host] if other is not item)
            known = any(other.reservation == item.reservation for other in others)
            return held.has_lapsed(item.now_wall_ns) and not known
        case _:
            return True


def _line(item: ReservationWanted, decided: tuple[rev.Placement, ...] | Refusal) -> LedgerEntry:
    refused = isinstance(decided, Refusal)
    return LedgerEntry(
        kind=EntryKind.REFUSED if refused else EntryKind.HELD,
        reservation=item.reservation,
        machine=item.machine,
        host=item.host,
        placements=() if isinstance(decided, Refusal) else decided,
        refusal=decided if isinstance(decided, Refusal) else None,
        expires_wall_ns=0 if refused else item.expires_wall_ns,
    )


def _told(entry: LedgerEntry) -> tuple[Effect, ...]:
    match entry.kind:
        case EntryKind.HELD:
            return (
                _granted(entry.reservation, entry.host, entry.placements, entry.expires_wall_ns),
            )
        case EntryKind.REFUSED:
            assert entry.refusal is not None
            return (_refusal(entry.reservation, entry.host, entry.refusal),)
        case EntryKind.CONFIRMED:
            confirmed = rev.ReservationConfirmed(reservation=entry.reservation, target=entry.host)
            return (_answer(entry.reservation, confirmed),)
        case EntryKind.RELEASED:
            released = rev.ReservationReleased(
                reservation=entry.reservation, target=entry.host, why=entry.why
            )
            return (_answer(entry.reservation, released),)
        case EntryKind.EXPIRED:
            expired = rev.ReservationExpired(reservation=entry.reservation, target=entry.host)
            return (_answer(entry.reservation, expired),)


def _granted(
    reservation: str, host: str, placements: tuple[rev.Placement, ...], expires_wall_ns: int
) -> Effect:
    granted = rev.ReservationGranted(
        reservation=reservation,
        target=host,
        placements=placements,
        expires_wall_ns=expires_wall_ns,
    )
    return _answer(reservation, granted)


def _refusal(reservation: str, host: str, refusal: Refusal) -> Effect:
    refused = rev.ReservationRefused(
        reservation=reservation, target=host, code=refusal.code, message=refusal.message
    )
    return _answer(reservation, refused)


def _answer(reservation: str, event: Event) -> Effect:
    append = fx.Append(event=event, durability=Durability.LOGGED)
    return Answer(reservation=reservation, append=append)


def _picture(state: TrackerState, host: str) -> HostPicture:
    return state.hosts.get(host, HostPicture(host=host))


def _with(state: TrackerState, host: str, picture: HostPicture) -> TrackerState:
    return _replace(state, hosts={**state.hosts, host: picture})


def _without(writing: dict[str, int], host: str) -> dict[str, int]:
    return {name: sequence for name, sequence in writing.items() if name != host}


_replace = msgspec.structs.replace
