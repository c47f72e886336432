"""A rehearsal goes through what is to come and changes nothing: neither state, file nor chain."""

from __future__ import annotations

import asyncio
from pathlib import Path

from godwit.host.facts import FactWriter
from godwit.host.role import RoleRunner
from godwit.runtime.clock import SystemClock
from godwit.runtime.journal import Journal
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.outbox import Outbox
from godwit_protocol import register as reg
from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import destination
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination_state import DestinationState, Phase
from orders import preparation

SPEC = MachineSpec(name="m", guest="guests:Any", ram_bytes=4096)
ORDERED = preparation(SPEC)
PREPARED = inp.Prepared(address="link", port=1, token=b"", create_ns=1)
STANDING = reg.RegisterView(reg.started("m", "host-1", None), 1)


async def test_steps_are_shown_one_after_the_other_and_none_is_taken() -> None:
    done: list[fx.Effect] = []
    shown: list[fx.Effect] = []
    runner: RoleRunner[DestinationState] = RoleRunner(destination, done.append, lambda: 0)
    state, effects = destination.begin(ORDERED, STANDING, migration="m1", now_ns=0)
    running = asyncio.create_task(runner.run(state, effects))
    await asyncio.sleep(0)
    hello = inp.PeerHello(register_epoch=1)
    runner.rehearse(shown.append, PREPARED, hello, inp.PeerGo(heard_ns=1), PREPARED)
    assert [type(effect) for effect in shown] == [fx.Append, fx.Populate], "GO does not fit: over"
    assert runner.state is not None
    assert runner.state.phase is Phase.PREPARING
    assert done == list(effects)
    running.cancel()


async def test_a_fact_that_is_rehearsed_is_nowhere(log: NatsLog, tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal")
    outbox = Outbox(log)
    writer = LaneWriter(SystemClock(), Lane.DESTINATION, "host-2", Scope.of_migration("m1", "m"))
    facts = FactWriter(writer, journal, outbox)
    journal.append(b"before", sync=True)
    before = journal.path.read_bytes()
    told = fx.Append(event=ev.ActivationStarted(go_heard_ns=1), durability=fx.Durability.JOURNALED)
    facts.rehearse(told)
    assert journal.path.read_bytes() == before
    assert outbox.depth == 0
    first = writer.seal(told.event)
    assert first.data.count(b"lane_sequence\x01") == 1, "the chain has not gone on"
    journal.close()
    facts.rehearse(told)
    await outbox.close()
