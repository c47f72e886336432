"""The harness' event log: outboxes that lag behind, and what is stored, in its order."""

from __future__ import annotations

import hashlib
from collections import deque

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
        self._chains: dict[str, list[bytes]] = {}
        self._ids = 0

    def put(self, role: Role, effect: fx.Append, now_ns: int, epoch: int) -> None:
        """Seal an event and leave it in the role's outbox, unless it is a decision that stands."""
        if role is Role.COORDINATOR and self._stands(effect):
            return
        data = self._seal(effect.event, role.lane, role.host, now_ns, epoch)
        waits = effect.durability is fx.Durability.LOGGED
        self.outbox[role].append(Outgoing(data, effect.event, effect.to, waits))

    def _stands(self, decision: fx.Append) -> bool:
        """Whether the coordinator has written it before, or a later one of its kind."""
        told = [(item.event, item.to) for item in self.outbox[Role.COORDINATOR]]
        for recorded, to in zip(self.recorded, self.addressed, strict=True):
            if recorded.envelope.lane is Lane.COORDINATOR:
                told.append((recorded.event, to))
        return any(
            type(event) is type(decision.event)
            and to == decision.to
            and _number(event) >= _number(decision.event)
            for event, to in told
        )

    def store_next(self, role: Role, now_ns: int) -> Outgoing:
        """The oldest event of the outbox reaches the log."""
        outgoing = self.outbox[role].popleft()
        self._store(outgoing.data, outgoing.event, outgoing.to, now_ns)
        return outgoing

    def give_up_waiting(self, role: Role) -> Event:
        """Nobody waits for the oldest event any more; it goes out all the same."""
        head = self.outbox[role].popleft()
        self.outbox[role].appendleft(head._replace(acknowledges=False))
        return head.event

    def forget(self, role: Role, lost: int) -> None:
        """The service of ``role`` died, and its journal has not the last so many of its facts: what
        of them the log has not got either is as if it had never been. Nobody waits for the rest.
        """
        outbox, chain = self.outbox[role], self._chains.get(role.host, [])
        for _ in range(min(lost, len(outbox))):
            outbox.pop()
            chain.pop()
        self.outbox[role] = deque(item._replace(acknowledges=False) for item in outbox)

    def say(self, event: Event, lane: Lane, host: str, now_ns: int, epoch: int) -> None:
        """Store an event of somebody outside."""
        self._store(self._seal(event, lane, host, now_ns, epoch), event, None, now_ns)

    def _store(self, data: bytes, event: Event, to: fx.Address | None, now_ns: int) -> None:
        recorded = codec.decode(data, len(self.recorded) + 1)
        assert recorded.event == event
        self.stored.append(data)
        self.addressed.append(to)
        self.times_ns.append(now_ns)
        self.recorded.append(recorded)

    def _seal(self, event: Event, lane: Lane, host: str, now_ns: int, epoch: int) -> bytes:
        self._ids += 1
        seed = hashlib.sha256(self._ids.to_bytes(8, "big")).digest()
        chain = self._chains.setdefault(host, [])
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
            prev_hash=chain[-1] if chain else CHAIN_START,
            body=codec.encode_body(event),
        )
        data = codec.encode(envelope)
        chain.append(stored_hash(data))
        return data


def _number(event: Event) -> int:
    """Of a decision among those of its kind: all but one kind are taken once."""
    return event.change if isinstance(event, BandwidthOrdered) else 1
