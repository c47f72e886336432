"""What the signatures of a migration's lanes hold: which events, by whose keys. Pure.

A signature holds all of its lane before it, by the chain; a coordinator's holds all events that it
had read, of all lanes in their order. Whoever owns the log can write a lane anew, but not sign it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from ..errors import InvalidInputError
from ..events import Envelope, Lane, Recorded
from ..events import migration as ev
from ..events.signed import SIGNATURE_BYTES, LaneSigned, signed_part
from ..stored import Stored
from .chains import Noted, note
from .findings import UNCLOSED, Fault

PUBLIC_KEY_BYTES: Final = 32
KEY_SHOWN: Final = 16
"""So many hexadecimal digits tell keys apart for people."""

UNTRUSTED: Final = "whose keys have signed: none were given from outside"

IsSigned = Callable[[bytes, bytes, bytes], bool]
"""Whether ``(public_key, signature, message)`` fit together."""


class Entry(NamedTuple):
    """An event with its message."""

    message: Stored
    recorded: Recorded


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Whose signatures count. ``keys``: those of each writer, from outside of the log; None: none
    were given, and a signature proves that its lane is of one hand, but not of whose.
    """

    is_signed: IsSigned
    keys: Mapping[str, frozenset[bytes]] | None = None


class _Name(NamedTuple):
    lane: Lane
    writer: str
    life: str

    def __str__(self) -> str:
        return "/".join(filter(None, self))


class Signatures:
    """The signatures of one migration, checked. Takes its events in the log's order."""

    def __init__(self, entries: Sequence[Entry], trust: Trust | None) -> None:
        self.faults: list[Fault] = []
        self.is_needed = trust is not None and trust.keys is not None
        """Whether what is not signed is wrong."""
        self._trust = trust
        self._ends: dict[_Name, int] = {}
        self._entries = entries
        self._in_order = 0
        """So many first events, in their order, are held by a signature."""
        self._held: dict[_Name, int] = {}
        self._signers: dict[_Name, bytes] = {}
        self._is_over = False
        for entry in entries:
            self._learn(entry)
        for entry in entries:
            if isinstance(entry.recorded.event, LaneSigned):
                self._check(entry, entry.recorded.event)
        self._faults_of_need()

    @property
    def are_there(self) -> bool:
        """Whether any signature holds anything."""
        return bool(self._signers)

    def proven(self) -> Iterator[str]:
        """What they prove."""
        for name, key in self._signers.items():
            by = "a trusted key" if self.is_needed else "key"
            shown = key.hex()[:KEY_SHOWN]
            yield f"{name}: signed up to its event {self._held[name]}, by {by} {shown}"

    def unproven(self) -> Iterator[str]:
        """What they leave open, beside the ends of lanes."""
        if self._signers and not self.is_needed:
            yield UNTRUSTED
        if self._is_over and any(name.lane is Lane.COORDINATOR for name in self._signers):
            yield UNCLOSED
        late = self._unordered()
        if not self._signers or len(late) <= 1:
            return
        if not self._in_order:
            yield f"in which order its {len(self._entries)} events came: nobody has signed that"
            return
        told = "; ".join(f"{name} {', '.join(types)}" for name, types in late.items())
        yield f"in which order these came, after the {self._in_order} that are signed: {told}"

    def _unordered(self) -> dict[_Name, list[str]]:
        """What no signature holds to its place among the others, by lane: a lane's own order is its
        chain's.
        """
        late: dict[_Name, list[str]] = {}
        for entry in self._entries[self._in_order :]:
            envelope = entry.recorded.envelope
            late.setdefault(_name(envelope), []).append(envelope.type)
        return late

    def open_ends(self) -> Iterator[str]:
        """Ends of lanes that no signature holds. Operators have no keys: theirs are witnessed."""
        for name in self._ends:
            if not self._must_be_held(name):
                yield from self._unheld(name)
        if not self.is_needed:
            yield from self._unwitnessed()

    def _must_be_held(self, name: _Name) -> bool:
        return self.is_needed and self._is_over and name.lane is not Lane.OPERATOR

    def _unheld(self, name: _Name) -> Iterator[str]:
        held, end = self._held.get(name, 0), self._ends[name]
        if held < end:
            envelopes = (entry.recorded.envelope for entry in self._entries)
            own = (each for each in envelopes if _name(each) == name)
            types = ", ".join(each.type for each in own if each.lane_sequence > held)
            yield f"{name}: not signed after its event {held}, of {end}: {types}"

    def _unwitnessed(self) -> Iterator[str]:
        if self._is_over and Lane.COORDINATOR not in {name.lane for name in self._signers}:
            yield "that no lane is missing: no coordinator has signed the end"

    def _learn(self, entry: Entry) -> None:
        envelope = entry.recorded.envelope
        name = _name(envelope)
        self._ends[name] = max(self._ends.get(name, 0), envelope.lane_sequence)
        self._is_over = self._is_over or isinstance(entry.recorded.event, ev.MigrationEnded)

    def _check(self, entry: Entry, event: LaneSigned) -> None:
        if self._trust is None:
            return
        sequence, envelope = entry.message.sequence, entry.recorded.envelope
        name = _name(envelope)
        if (wrong := self._objection(entry.message.data, envelope, event)) is not None:
            self.faults.append(Fault(sequence, f"{name}: {wrong}"))
            return
        self._signers[name] = event.public_key
        self._hold(name, envelope.lane_sequence)
        if event.seen_events:
            self._witness(sequence, name, Noted(event.seen_events, event.seen_digest))

    def _objection(self, data: bytes, envelope: Envelope, event: LaneSigned) -> str | None:
        assert self._trust is not None
        if not data.endswith(event.signature) or len(event.signature) != SIGNATURE_BYTES:
            return "its signature does not stand at its end"
        if not self._trust.is_signed(event.public_key, event.signature, signed_part(data)):
            return "its signature does not fit"
        keys = self._trust.keys
        if keys is not None and event.public_key not in keys.get(envelope.host, ()):
            return f"signed by key {event.public_key.hex()[:KEY_SHOWN]}, which is not trusted"
        return None

    def _witness(self, sequence: int, by: _Name, seen: Noted) -> None:
        first = self._entries[: seen.events]
        if note([entry.message for entry in first], seen.events) != seen:
            text = f"the first {seen.events} events are not those that {by} has read"
            self.faults.append(Fault(sequence, text))
            return
        self._in_order = max(self._in_order, seen.events)
        for entry in first:
            self._hold(_name(entry.recorded.envelope), entry.recorded.envelope.lane_sequence)

    def _hold(self, name: _Name, until: int) -> None:
        self._held[name] = max(self._held.get(name, 0), until)

    def _faults_of_need(self) -> None:
        if not self.is_needed:
            return
        for name in filter(self._must_be_held, self._ends):
            self.faults += [Fault(0, text) for text in self._unheld(name)]
        self.faults += [Fault(0, text) for text in self._unwitnessed()]


def _name(envelope: Envelope) -> _Name:
    return _Name(envelope.lane, envelope.host, envelope.life)


def parse_trusted(text: str) -> dict[str, frozenset[bytes]]:
    """Read lines of a writer's name and its public key in hexadecimal; ``#`` begins a comment.

    A writer may have several keys: it may have been given another. Raises ``InvalidInputError``.
    """
    found: dict[str, frozenset[bytes]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            name, key = words[0], bytes.fromhex(words[1])
        except (IndexError, ValueError):
            name, key = "", b""
        if len(key) != PUBLIC_KEY_BYTES or len(words) != 2:
            raise InvalidInputError(
                f"line {number} is no trusted key: {line!r}",
                hint="'godwit keys show FILE' prints such lines: NAME and 64 hexadecimal digits",
            )
        found[name] = found.get(name, frozenset()) | {key}
    return found
