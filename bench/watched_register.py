"""Does what a stun waits for in the event log take longer when it is watched?

Of all that a stun waits for, one thing is the server's: the register's compare-and-set. What the
hosts have to tell goes out after it. So this writes to a server what a migration does, and nothing
else: the last round and the intent to stun, whose acknowledgement it awaits, and then the
compare-and-set, through the production's own writers; and times the latter. Once at once, when the
server has what it has just stored still to send to those who watch, and once after as long as a
stun takes to come to it. The subscribers are those of ``bench/watchers.py``: 50, each as the user
that may only watch, in one process that is stopped meanwhile.

    python bench/watched_register.py [--turns 80] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import ending
import records
from watchers import SUBSCRIBERS, Audience, Watchers, audience, guarded_server

from godwit.host.registers import Registers
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.provision import provision
from godwit_protocol import register as reg
from godwit_protocol.convergence import Decision, DecisionReason
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.roles.inputs import CasSettled

MACHINE = "watched"
STUNS = 20
"""In each way of a turn. What they have the server send to one subscriber, who is stopped, must fit
into that one's socket.
"""
LEADS_S = {"at once": 0.0, "2 ms after": 0.002}
"""How long after the intent was acknowledged."""
GOAL_US = 50.0
"""A hundredth of a stun of 5 ms."""

Turn = dict[tuple[Watchers, str], float]
"""Microseconds that the compare-and-set took, by who watched and by its lead; medians."""


class Stuns:
    """What the log sees of a migration's stun, again and again."""

    def __init__(self, log: NatsLog) -> None:
        self._log = log
        self._registers = Registers(log)
        self._clock = SystemClock()
        self._standing = reg.NO_REGISTER

    async def begin(self) -> None:
        """Have the machine in the register, and an event in the log."""
        started = reg.started(MACHINE, "host-1", None)
        self._standing = await self._won(started)
        await self._tell(self._lane(), ev.StunIntended(predicted_stun_ns=0, remaining_bytes=0))

    async def one(self, lead_s: float) -> float:
        """Microseconds that the compare-and-set took."""
        lane = self._lane()
        await asyncio.gather(
            self._tell(lane, _round()),
            self._tell(lane, ev.StunIntended(predicted_stun_ns=4_000_000, remaining_bytes=4096)),
        )
        if lead_s:
            await asyncio.sleep(lead_s)
        owner = self._standing.record
        assert owner is not None
        moved = reg.moved(owner, "host-2", lane.scope.id)
        began = time.perf_counter()
        self._standing = await self._won(moved)
        return (time.perf_counter() - began) * 1e6

    async def _won(self, record: reg.RegisterRecord) -> reg.RegisterView:
        settled = await self._registers.compare_and_set(record, self._standing.sequence)
        assert isinstance(settled, CasSettled), settled
        assert settled.won, settled
        return settled.standing

    def _lane(self) -> LaneWriter:
        scope = Scope.of_migration(self._clock.new_id(), MACHINE)
        return LaneWriter(self._clock, Lane.SOURCE, "host-1", scope)

    async def _tell(self, lane: LaneWriter, event: Event) -> None:
        sealed = lane.seal(event)
        lane.advance(sealed)
        await sealed.append_to(self._log)


def _round() -> ev.RoundCompleted:
    figures = ev.RoundFigures(
        round=2,
        pages=1,
        sent_bytes=4096,
        wire_bytes=4096,
        duration_ns=1_000_000,
        scan_ns=100_000,
        remaining_bytes=4096,
        bytes_by_region={"ram": 4096},
    )
    return ev.RoundCompleted(
        figures=figures,
        bandwidth_bytes_per_second=3e9,
        dirty_bytes_per_second=1e6,
        predicted_stun_ns=4_000_000,
        stun_limit_ns=100_000_000,
        decision=Decision.STUN,
        reason=DecisionReason.SMALL_ENOUGH,
    )


async def turn(stuns: Stuns, audience: Audience, log: NatsLog, number: int) -> Turn:
    """Each way once; in the other order in each second turn."""
    found: Turn = {}
    ways = [Watchers.NOBODY, Watchers.ELSEWHERE]
    for watchers in ways[:: -1 if number % 2 else 1]:
        async with audience.there(log, watchers):
            for lead, lead_s in LEADS_S.items():
                took = [await stuns.one(lead_s) for _ in range(STUNS)]
                found[watchers, lead] = statistics.median(took)
    return found


def rows(turns: Sequence[Turn]) -> list[records.Row]:
    """The table."""
    told = []
    for lead in LEADS_S:
        watched = [each[Watchers.ELSEWHERE, lead] for each in turns]
        alone = [each[Watchers.NOBODY, lead] for each in turns]
        more = [ours - theirs for ours, theirs in zip(watched, alone, strict=True)]
        told += [
            records.Row(
                f"compare-and-set, {lead}",
                "µs",
                watched,
                peer=Watchers.NOBODY.value,
                theirs=alone,
                interval=True,
            ),
            records.Row(f"more of it, {lead}", "µs", more, GOAL_US),
        ]
    return told


def verdict(row: records.Row) -> str:
    """What a row of differences says, with its interval."""
    low, high = records.interval(row.ours)
    return f"{row.measure}: {low:.0f} to {high:.0f} µs (95 % interval of the median)."


async def measure(log: NatsLog, audience: Audience, turns: int) -> records.Record:
    """On a server whose streams are there."""
    stuns = Stuns(log)
    await stuns.begin()
    found = [await turn(stuns, audience, log, number) for number in range(turns)]
    told = rows(found)
    notes = [
        f"{SUBSCRIBERS} subscribers in one process, which is stopped meanwhile; a turn's figure is"
        f" the median of {STUNS} in each way.",
        "Ratios with the 95 % interval of their median.",
        *(verdict(row) for row in told if row.goal is not None),
    ]
    return records.Record("bench/watched_register.py", told, turns, notes)


@asynccontextmanager
async def watched_server(count: int) -> AsyncIterator[tuple[NatsLog, Audience]]:
    """A server with the streams and nothing in them, and so many subscribers."""
    async with AsyncExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="watchers-")))
        port, _ = await opened.enter_async_context(guarded_server(directory))
        log = await NatsLog.connect(f"nats://godwit:owner@127.0.0.1:{port}", name="bench")
        opened.push_async_callback(log.close)
        await provision(log)
        url = f"nats://watch:looker@127.0.0.1:{port}"
        yield log, await opened.enter_async_context(audience(url, count))


async def main() -> None:
    given = records.given(__doc__, size_mib=0, quick_mib=0, turns=80)
    async with watched_server(SUBSCRIBERS) as (log, heard):
        record = await measure(log, heard, given.turns)
    records.tell(record, given.json)


if __name__ == "__main__":
    ending.run(main())
