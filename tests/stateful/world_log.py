"""The harness' event log: outboxes that lag behind, and what is stored, in its order."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable

from parts import MIGRATION, SPEC, Outgoing, Role

from godwit_protocol import codec
from godwit_protocol.events import CHAIN_START, Envelope, Event, Lane, Recorded, stored_hash
from godwit_protocol.events.bandwidth import BandwidthOrdered
from godwit_protocol.ids import uuid7
from godwit_protocol.roles import effects as fx


class WorldLog:
    """One stream. Every event is sealed, encoded and decoded for real."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self.stored: list[bytes] = []
        self.addressed: list[fx.Address | None] = []
        self.times_ns: list[int] = []
        """When each event was stored."""
        self.outbox: dict[Role, deque[Outgoing]] = {role: deque() for role in Role}
        self.late: list[Outgoing] = []
        """Decisions that coordinators had on their way when they died."""
        self._life = 0
        """Of the coordinator: each has a chain of its own, for it keeps no journal."""
        self._chains: dict[tuple[str, str], list[bytes]] = {}
        self._ids = 0

    def put(self, role: Role, effect: fx.Append, now_ns: int, epoch: int) -> None:
        """Leave an event in the role's outbox, unless it is a decision that is there, or stands."""
        waits = effect.durability is fx.Durability.LOGGED
        outgoing = Outgoing(None, effect.event, effect.to, waits)
        if role is not Role.COORDINATOR:
            outgoing = self._sealed(outgoing, role, now_ns, epoch)
        elif self.stands(outgoing) or _is_among(outgoing, self.outbox[role]):
            return
        self.outbox[role].append(outgoing)

    def stands(self, decision: Outgoing) -> bool:
        """Whether a coordinator has written it, or a later one of its kind."""
        told = zip(self.recorded, self.addressed, strict=True)
        return _is_among(
            decision,
            (
                Outgoing(None, recorded.event, to, acknowledges=False)
                for recorded, to in told
                if recorded.envelope.lane is Lane.COORDINATOR
            ),
        )

    def store_next(self, role: Role, now_ns: int, epoch: int) -> Outgoing:
        """The oldest event of the outbox reaches the log. A decision that stands there by now does
        not: the coordinator goes by the one that does, which comes by itself.
        """
        outgoing = self.outbox[role].popleft()
        if outgoing.data is None:
            if self.stands(outgoing):
                return outgoing._replace(acknowledges=False)
            outgoing = self._sealed(outgoing, role, now_ns, epoch)
        self._store(outgoing, now_ns)
        return outgoing

    def end_life(self, now_ns: int, epoch: int, *, is_stored: bool) -> None:
        """The coordinator dies. It writes one decision at a time: that one is stored already, or
        may be later; the others are lost.
        """
        outbox = self.outbox[Role.COORDINATOR]
        if outbox and is_stored:
            self.store_next(Role.COORDINATOR, now_ns, epoch)
        elif outbox and not self.stands(outbox[0]):
            self.late.append(self._sealed(outbox[0], Role.COORDINATOR, now_ns, epoch))
        outbox.clear()
        self._life += 1

    def store_late(self, late: Outgoing, now_ns: int) -> None:
        """What a dead coordinator had on its way arrives. If the decision stands by then, it does
        not count.
        """
        self.late.remove(late)
        if not self.stands(late):
            self._store(late, now_ns)

    def give_up_waiting(self, role: Role) -> Event:
        """Nobody waits for the oldest event any more; it goes out all the same."""
        head = self.outbox[role].popleft()
        self.outbox[role].appendleft(head._replace(acknowledges=False))
        return head.event

    def forget(self, role: Role, lost: int) -> None:
        """A host's service died, and its journal has not the last so many of its facts: what of
        them the log has not got either is as if it had never been. Nobody waits for the rest.
        """
        outbox, chain = self.outbox[role], self._chains.get((role.host, ""), [])
        for _ in range(min(lost, len(outbox))):
            outbox.pop()
            chain.pop()
        self.outbox[role] = deque(item._replace(acknowledges=False) for item in outbox)

    def say(self, event: Event, lane: Lane, host: str, now_ns: int, epoch: int) -> None:
        """Store an event of somebody outside."""
        data = self._seal(event, lane, host, now_ns, epoch)
        self._store(Outgoing(data, event, None, acknowledges=False), now_ns)

    def _store(self, outgoing: Outgoing, now_ns: int) -> None:
        assert outgoing.data is not None
        recorded = codec.decode(outgoing.data, len(self.recorded) + 1)
        assert recorded.event == outgoing.event
        self.stored.append(outgoing.data)
        self.addressed.append(outgoing.to)
        self.times_ns.append(now_ns)
        self.recorded.append(recorded)

    def _sealed(self, outgoing: Outgoing, role: Role, now_ns: int, epoch: int) -> Outgoing:
        data = self._seal(outgoing.event, role.lane, role.host, now_ns, epoch)
        return outgoing._replace(data=data)

    def _seal(self, event: Event, lane: Lane, host: str, now_ns: int, epoch: int) -> bytes:
        self._ids += 1
        seed = hashlib.sha256(self._ids.to_bytes(8, "big")).digest()
        life = str(self._life) if lane is Lane.COORDINATOR else ""
        chain = self._chains.setdefault((host, life), [])
        envelope = Envelope(
            id=uuid7(now_ns, seed[:10]),
            type=event.TYPE,
            migration=MIGRATION,
            machine=SPEC.name,
            lane=lane,
            lane_sequence=len(chain) + 1,
            host=host,
            epoch=epoch,
            correlation=MIGRATION,
            wall_ns=now_ns,
            monotonic_ns=now_ns,
            boot="boot",
            life=life,
            prev_hash=chain[-1] if chain else CHAIN_START,
            body=codec.encode_body(event),
        )
        data = codec.encode(envelope)
        chain.append(stored_hash(data))
        return data


def _is_among(decision: Outgoing, others: Iterable[Outgoing]) -> bool:
    """Whether it is one of ``others``, or a later one of its kind is."""
    return any(
        type(other.event) is type(decision.event)
        and other.to == decision.to
        and _number(other.event) >= _number(decision.event)
        for other in others
    )


def _number(event: Event) -> int:
    """Of a decision among those of its kind: all but one kind are taken once."""
    return event.change if isinstance(event, BandwidthOrdered) else 1
