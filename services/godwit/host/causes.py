"""What a host's facts came of: of what was heard by the log or by the link, the event they answer.

What the link tells may not be in the log yet, and if this host's peer dies never will be. It stands
in a header then, for traces, and not in the event, where a cause must stand before what it caused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from godwit_protocol import link
from godwit_protocol.events import Event, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.replay.causes import ANSWERS

ANSWERED: Final[Mapping[type[Event], tuple[type[Event], ...]]] = {
    **ANSWERS,
    ev.MigrationAbandoned: (ev.AbortOrdered,),
    ev.MachineTakenBack: (ev.RunOrdered,),
    ev.ActivationStarted: (ev.GoGiven, ev.RunOrdered),
}
TELLS: Final[Mapping[type[link.LinkMessage], type[Event]]] = {
    link.Stage: ev.FinalCopySent,
    link.Staged: ev.ImageStaged,
    link.Go: ev.GoGiven,
    link.Active: ev.MachineActivated,
    link.Abort: ev.MigrationAbandoned,
    link.Runs: ev.MigrationAbandoned,
    link.Quarantined: ev.ImageQuarantined,
}
"""Which fact of the sender says the same in the log, before or after."""


class Cause(NamedTuple):
    """The id of an event, and whether the log had it when this host heard of it."""

    event_id: str = ""
    is_logged: bool = False


class CausesHeard:
    """Of one migration."""

    def __init__(self) -> None:
        self._heard: dict[type[Event], Cause] = {}

    def by_log(self, decision: Recorded) -> None:
        """An event of somebody else's that the log has."""
        self._heard[type(decision.event)] = Cause(decision.envelope.id, is_logged=True)

    def by_link(self, message: link.LinkMessage) -> None:
        """What the peer says."""
        kind = TELLS.get(type(message))
        if kind is not None and message.fact:
            self._heard.setdefault(kind, Cause(message.fact))

    def of(self, kind: type[Event]) -> Cause:
        """What a fact of that kind came of, as far as it was heard."""
        known = (self._heard[each] for each in ANSWERED.get(kind, ()) if each in self._heard)
        return next(known, Cause())


class FactIds:
    """The ids of one lane's facts, also of those that the link tells before they are written."""

    def __init__(self) -> None:
        self._written: dict[type[Event], str] = {}
        self._promised: dict[type[Event], str] = {}

    def told_by(self, message: link.LinkMessage, new_id: str) -> link.LinkMessage:
        """The message with the id of its fact: the one that is written, or else ``new_id``."""
        kind = TELLS.get(type(message))
        if kind is None:
            return message
        fact = self._written.get(kind) or self._promised.setdefault(kind, new_id)
        return msgspec.structs.replace(message, fact=fact)

    def promised(self, kind: type[Event]) -> str:
        """The id that the next fact of the kind must have; nothing if any will do."""
        return self._promised.pop(kind, "")

    def wrote(self, kind: type[Event], event_id: str) -> None:
        """A fact is written under that id."""
        self._written[kind] = event_id
