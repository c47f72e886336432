"""What the log of a migration holds that a role can have been told: evidence for inputs. Pure.

An order or a proof reaches a role through the log, so that it stands there before anything that the
role does because of it. What the hosts say on their link is not in the log; the events that they
write about it are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from .. import register as reg
from ..events import Event, Lane, Recorded
from ..events import machine as mev
from ..events import migration as ev
from ..roles import inputs as inp


class Evidence:
    """Takes the events of a migration in the log's order.

    ``endings``: by lane, how its role said in the end that it came to that: what moved it may have
    come several events before.
    """

    def __init__(self, endings: Mapping[Lane, Sequence[str]] = {}) -> None:
        self.endings = endings
        self.orders: list[tuple[str, ev.AbortOrdered]] = []
        """Each with the service of the host that it is addressed to."""
        self.run_ordered: set[str] = set()
        self.fenced: set[str] = set()
        """Hosts that are proven to run nothing of it."""

    def take(self, recorded: Recorded, subject: str) -> None:
        """The next event."""
        event, envelope = recorded.event, recorded.envelope
        match event:
            case ev.AbortOrdered():
                self.orders.append((".".join(subject.split(".")[3:5]), event))
            case ev.RunOrdered():
                self.run_ordered.add(event.target)
            case ev.HostFenced():
                self.fenced.add(event.target)
            case mev.MachineFailed() if envelope.lane in (Lane.SOURCE, Lane.DESTINATION):
                self.fenced.add(envelope.host)
            case ev.ImageDiscarded() | ev.MemoryLeft():
                self.fenced.add(envelope.host)
            case _:
                pass

    def messages(self, lane: Lane, event: Event) -> Iterable[str]:
        """What a role can have been told in words, before it wrote ``event``."""
        return dict.fromkeys((getattr(event, "message", ""), *self.endings.get(lane, ())))

    def aborts(self, host: str, service: str) -> Iterator[inp.AbortWanted]:
        """The aborts that were ordered of a service."""
        for place, order in self.orders:
            if place == f"{host}.{service}":
                yield inp.AbortWanted(reason=order.reason, message=order.message)


def endings(story: Iterable[Recorded]) -> dict[Lane, list[str]]:
    """The words in which the roles of a migration ended, by lane."""
    found: dict[Lane, list[str]] = {}
    for recorded in story:
        if isinstance(recorded.event, ev.MigrationAbandoned | ev.ImageDiscarded):
            found.setdefault(recorded.envelope.lane, []).append(recorded.event.message)
    return found


def register_views(
    machine: str, source: str, destination: str, migration: str, epoch: int, event: Event
) -> Iterator[reg.RegisterView]:
    """What the register may hold for a role of this migration, as it was found in ``epoch``.

    The register is in a stream of its own: these are the values that the migration can have made
    of it, that of a later migration, and none. ``event`` may tell at which sequence it stands.
    """
    sequence = getattr(event, "register_sequence", 0)
    owned = reg.RegisterRecord(
        value=reg.RegisterValue.STARTED, machine=machine, owner=source, epoch=epoch
    )
    intended = reg.abort_intended(owned, migration)
    later = reg.moved(reg.moved(owned, destination, migration), source, "a later migration")
    for record in (
        owned,
        reg.moved(owned, destination, migration),
        intended,
        reg.taken_back(owned, migration),
        later,
        None,
    ):
        yield reg.RegisterView(record, sequence)
