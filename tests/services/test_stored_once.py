"""An event whose acknowledgement was lost is in the log once, however late it is tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from uuid import uuid4

import pytest
import pytest_asyncio

from godwit.catalogue.loading import load as load_catalogue
from godwit.coordinator.conductor import Conductor
from godwit.coordinator.links import not_looked_at
from godwit.coordinator.losses import Losses
from godwit.gpu_state_tracker.answers import Answers, Asked
from godwit.gpu_state_tracker.histories import Histories
from godwit.host.fencing import NoFencing
from godwit.runtime import patience
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.estimation.forecast import Basis, Estimate, Span
from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.estimate import EstimateCompared
from godwit_protocol.events.signed import LaneSigned
from signers import SIGNERS

CLOCK, SIGNER, NAME = SystemClock(), SIGNERS["tracker-1"], "test"


class ForgetfulLog(NatsLog):
    """Loses the first acknowledgement of each event, and knows no message id again: as a log that
    was away for longer than its deduplication window. Another replica writes meanwhile.
    """

    lost: set[str]

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str,
        expected_last_sequence: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> int:
        if expected_last_sequence is not None:
            return await super().append(
                subject, data, message_id=message_id, expected_last_sequence=expected_last_sequence
            )
        if message_id in self.lost:
            return await super().append(subject, data, message_id=uuid4().hex)
        await super().append(subject, data, message_id=message_id)
        await super().append(subject, b"another replica's", message_id=uuid4().hex)
        self.lost.add(message_id)
        raise UnreachableError("no answer")


@pytest_asyncio.fixture
async def forgetful(
    log: NatsLog, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ForgetfulLog]:
    monkeypatch.setattr(patience, "READ_BACK_AFTER_S", 0.05)  # within the first wait
    opened = await ForgetfulLog.connect(nats_server.url, name="forgetful")
    opened.lost = set()
    yield opened
    await opened.close()


async def sign_an_answer(log: ForgetfulLog, migration: str) -> str:
    request = rev.ReservationRequested(
        reservation=migration, machine="m", target="h", profiles=(), framebuffer_bytes=()
    )
    asked = Asked(request, Scope.of_migration(migration, "m"), None, "cause", 1, 1)
    released = rev.ReservationReleased(reservation=migration, target="h", why="over")
    await Answers(log, CLOCK, NAME, SIGNER).tell(asked, released)
    return subjects.migration(migration, Lane.TRACKER, LaneSigned.TYPE)


async def sign_a_comparison(log: ForgetfulLog, migration: str) -> str:
    span = Span(median=1, bound=2)
    estimate = Estimate(
        stun_ns=span,
        total_ns=span,
        rounds=span,
        sent_bytes=span,
        converging=1.0,
        bytes_per_second=1.0,
        dirty_bytes_per_second=0.0,
        basis=Basis.OWN_MOVES,
        windows=1,
        moves=1,
    )
    compared = EstimateCompared(
        estimate=estimate, stun_ns=1, total_ns=1, rounds=1, sent_bytes=1, within=True
    )
    histories = Histories(log, CLOCK, NAME, SIGNER)
    await histories._write(Scope.of_migration(migration, "m"), compared)
    return subjects.migration(migration, Lane.TRACKER, LaneSigned.TYPE)


async def nobody_lives(host: str) -> bool:
    return False


async def refuse_an_order(log: ForgetfulLog, migration: str) -> str:
    requested = ev.MigrationRequested(machine="m", destination="h", limits=ev.Limits())
    losses = Losses(log, NoFencing(), nobody_lives)
    told = (
        migration,
        requested,
        log,
        CLOCK,
        NAME,
        "a",
        load_catalogue(),
        None,
        not_looked_at,
        losses,
    )
    lane = LaneWriter(CLOCK, Lane.COORDINATOR, NAME, Scope.of_migration(migration, "m"))
    refused = ev.RunOrderRefused(order="order", message="both hosts may run")
    await Conductor(*told)._say(refused, lane, "cause")
    return subjects.migration(migration, Lane.COORDINATOR, refused.TYPE)


@pytest.mark.parametrize("tell", [sign_an_answer, sign_a_comparison, refuse_an_order])
async def test_it_is_looked_for_before_a_late_repeat(
    forgetful: ForgetfulLog, tell: Callable[[ForgetfulLog, str], Awaitable[str]]
) -> None:
    subject = await tell(forgetful, CLOCK.new_id())
    found = [stored.data async for stored in forgetful.read([subject])]
    assert len(forgetful.lost) == 1
    assert len(found) == 2
    assert found[0] != found[1] == b"another replica's"


async def test_what_was_not_stored_is_stored_late(
    log: NatsLog, forgetful: ForgetfulLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = LaneWriter(CLOCK, Lane.COORDINATOR, NAME, Scope.of_migration(CLOCK.new_id(), "m"))
    sealed = lane.seal(ev.RunOrderRefused(order="order", message="both hosts may run"))
    answers = iter([UnreachableError("no answer"), None])

    async def append_to(*_: object) -> None:
        if (error := next(answers)) is not None:
            raise error
        await log.append(sealed.subject, sealed.data, message_id=sealed.message_id)

    monkeypatch.setattr(type(sealed), "append_to", append_to)
    await patience.append_patiently(forgetful, sealed)
    assert [stored.data async for stored in log.read([sealed.subject])] == [sealed.data]
