"""One migration's log held against the rules: what is proven of it, what is not, what is wrong.

Its chains, its places, its causes, its single end, and each transition and decision against the
core. It reads nothing but the migration's own events; what that leaves open is in ``OUTSIDE``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from .. import codec
from ..errors import CorruptError
from ..events import Event, Lane, Recorded
from ..events import migration as ev
from ..events.machine import MachineFailed
from ..stored import Stored
from .chains import Chains, Noted, note
from .findings import Fault, Verification
from .roles_traced import RolesTraced
from .signatures import Entry, Signatures, Trust

OUTSIDE: Final = (
    "what register, inventories and ledgers held when they were read: they are other streams",
    "the times at which the server says that it stored something",
    "what was said on the direct link, but for what the hosts wrote about it",
)
"""What no migration's own events can prove."""
UNHELD: Final = "the last event of each lane: no later hash holds it, no signature, no digest"
UNENDED: Final = "how it ends: it has not ended"


def verify(
    migration: str,
    messages: Iterable[Stored],
    noted: Noted | None = None,
    trust: Trust | None = None,
) -> Verification:
    """Verify one migration: all of its messages, in the log's order. ``noted``: what was noted of
    it elsewhere, when it was exported. ``trust``: how signatures are checked; None: not at all.
    """
    stored = list(messages)
    entries, faults = _decoded(stored)
    if noted is not None and note(stored, noted.events) != noted:
        faults.append(Fault(0, f"its first {noted.events} events are not those that were noted"))
    story = [entry.recorded for entry in entries]
    faults += _faults_of_chains(migration, entries)
    faults += _faults_of_causes(story)
    faults += _faults_of_ends(story)
    traced = RolesTraced(migration, story)
    for entry in entries:
        traced.take(entry.recorded, entry.message.subject, entry.message.time_ns)
    faults += traced.faults
    signatures = Signatures(entries, trust)
    faults += signatures.faults
    is_held = noted is not None and noted.events >= len(story)
    open_ends = () if is_held else tuple(_open_ends(signatures))
    return Verification(
        migration=migration,
        events=len(entries),
        proven=tuple(_proven(entries, traced, faults, noted, signatures)),
        unproven=(*traced.unproven, *signatures.unproven(), *open_ends, *_unproven(story)),
        open_ends=open_ends,
        faults=tuple(sorted(faults, key=lambda fault: fault.sequence)),
    )


def _decoded(messages: Iterable[Stored]) -> tuple[list[Entry], list[Fault]]:
    entries: list[Entry] = []
    faults: list[Fault] = []
    for message in messages:
        try:
            recorded = codec.decode(message.data, message.sequence)
        except CorruptError as error:
            faults.append(Fault(message.sequence, error.message))
        else:
            entries.append(Entry(message, recorded))
    return entries, faults


def _faults_of_chains(migration: str, entries: Sequence[Entry]) -> Iterator[Fault]:
    chains = Chains()
    for message, recorded in entries:
        envelope = recorded.envelope
        yield from chains.take(message, envelope)
        if envelope.migration != migration:
            yield Fault(message.sequence, f"{envelope.type} is of {envelope.migration!r}")


def _faults_of_ends(story: Sequence[Recorded]) -> Iterator[Fault]:
    """It ends once, and nothing contradicts it."""
    types = Counter(type(recorded.event) for recorded in story)
    for kind in (ev.MigrationEnded, ev.MachineActivated, ev.MachineReleased, ev.GoGiven):
        if types[kind] > 1:
            yield Fault(0, f"{kind.TYPE} stands {types[kind]} times")
    hosts = {
        type(recorded.event): recorded.envelope.host
        for recorded in story
        if isinstance(recorded.event, ev.MachineActivated | ev.MachineTakenBack)
    }
    if len(hosts) == 2 and not any(_is_overruled(story, kind) for kind in hosts):
        yield Fault(0, "activated and taken back, both")


def _is_overruled(story: Sequence[Recorded], kind: type[Event]) -> bool:
    """Whether the machine ran where ``kind`` says because an operator had ordered it to, when the
    other host had said that nothing runs there, or was proven to be off.
    """
    ordered: set[str] = set()
    silenced: set[str] = set()
    for recorded in story:
        event, host = recorded.event, recorded.envelope.host
        if isinstance(event, ev.RunOrdered):
            ordered.add(event.target)
        elif isinstance(event, ev.HostFenced):
            silenced.add(event.target)
        elif isinstance(event, MachineFailed):
            silenced.add(host)
        elif isinstance(event, kind):
            return host in ordered and bool(silenced - {host})
    return False


def _faults_of_causes(story: Sequence[Recorded]) -> Iterator[Fault]:
    known: set[str] = set()
    for recorded in story:
        envelope = recorded.envelope
        if envelope.causation and envelope.causation not in known:
            yield Fault(recorded.sequence, f"the cause of {envelope.type} does not stand before it")
        known.add(envelope.id)


def _proven(
    entries: Sequence[Entry],
    traced: RolesTraced,
    faults: Sequence[Fault],
    noted: Noted | None,
    signatures: Signatures,
) -> Iterator[str]:
    if faults:
        return
    envelopes = [recorded.envelope for _, recorded in entries]
    lanes = {(envelope.lane, envelope.host, envelope.life) for envelope in envelopes}
    yield f"{len(entries)} events in {len(lanes)} lanes: no gap, no double, every hash fits"
    told = ", ".join(f"{lane} {number}" for lane, number in traced.explained.items())
    yield f"{traced.explained.total()} events follow by legal transitions of the core ({told})"
    rounds = sum(isinstance(recorded.event, ev.RoundCompleted) for _, recorded in entries)
    if rounds:
        yield f"what was decided at each round's end ({rounds}) is the core's, from the figures"
    yield from signatures.proven()
    if noted is not None:
        yield f"the first {noted.events} events, in this order, are those that were noted"


def _open_ends(signatures: Signatures) -> Iterator[str]:
    if signatures.are_there or signatures.is_needed:
        yield from signatures.open_ends()
    else:
        yield UNHELD


def _unproven(story: Sequence[Recorded]) -> Iterator[str]:
    types: set[type[Event]] = {type(recorded.event) for recorded in story}
    if ev.MigrationEnded not in types:
        yield UNENDED
    if not story or story[0].envelope.lane is not Lane.OPERATOR:
        yield "its beginning: the request does not stand first"
