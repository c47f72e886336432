"""Does a migration pay for being watched?

An idle machine is moved to and fro, four times with 50 subscribers and four times with none, turn
by turn in changing order. The subscribers are one process of its own with 50 connections, each as
the user that may only watch (deploy/nats-users.conf), and each does what ``godwit watch`` does: it
follows all events from the log, decodes them, and hears the telemetry. Who watches has a computer
of his own: so the process is stopped while the machine moves, everything is sent to it all the
same, and it reads afterwards. What is measured is what the server and the services do for it.
In some turns the process also runs meanwhile, at the lowest priority, on the cores that the
migration needs. Half of the moves have all of what the two cores can do, the others a link of 5
Gbit/s, which they can fill. No move counts unless each subscriber has heard every event of it.

    python bench/watchers.py [--size-mib 1024] [--turns 24] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import ending
import records
import servers
from moves import Lab, Move, lab
from sampling import cpu_s

from godwit.pictures import reading
from godwit.pictures.board import progress_subject, told_progress
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.watching_log import INBOX_PREFIX, WatchingLog
from godwit_protocol.events.migration import Limits

SUBSCRIBERS = 50
LINK = Limits(bandwidth_bytes_per_second=5_000_000_000 // 8)
MOVES = 4
"""Even: after them the machine is where it was, and either host has been the source as often."""
HERE_EACH = 4
NAME = "watched"
ANSWER_S_MAX = 60.0
LISTEN = "--listen-at"
USERS = Path(__file__).parents[1] / "deploy" / "nats-users.conf"
PASSWORDS = {"GODWIT_NATS_PASSWORD": "owner", "GODWIT_NATS_WATCH_PASSWORD": "looker"}


class Subscriber:
    """One connection, in the subscribers' process."""

    def __init__(self, log: NatsLog, after: int) -> None:
        self._watching = WatchingLog(log)
        self._after = self._last = after
        self._moved_on = asyncio.Event()
        self.heard: list[int] = []

    async def follow(self) -> None:
        """Take every event, until cancelled."""
        filters = reading.ALL_EVENTS
        events = reading.events(self._watching, filters, after_sequence=self._after, follow=True)
        async with aclosing(events):
            async for recorded in events:
                self._last = recorded.sequence
                self.heard.append(self._last)
                self._moved_on.set()

    async def listen(self) -> None:
        """The same for telemetry."""
        async for subject, data in self._watching.listen([progress_subject("*")]):
            told_progress(subject, data)

    async def until(self, sequence: int) -> None:
        """Wait until it has heard of that place."""
        while self._last < sequence:
            self._moved_on.clear()
            await self._moved_on.wait()


async def subscribers(url: str, count: int) -> None:
    """Their process: at a line that it reads they come, at the next they go and tell of it."""
    while await _line():
        async with AsyncExitStack() as opened:
            logs = [await _connected(url, opened) for _ in range(count)]
            end = await _end(logs[0])
            # They begin one before the end: who has heard that one is there.
            there = [Subscriber(log, end - 1) for log in logs]
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(each.follow()) for each in there]
                working += [tasks.create_task(each.listen()) for each in there]
                await asyncio.gather(*(each.until(end) for each in there))
                print("there", flush=True)
                _yield_to_others(os.SCHED_IDLE)
                await _line()
                _yield_to_others(os.SCHED_OTHER)
                up_to = await _end(logs[0])
                await asyncio.gather(*(each.until(up_to) for each in there))
                for task in working:
                    task.cancel()
        heard = [sum(place <= up_to for place in each.heard) for each in there]
        told = {"after": end - 1, "up_to": up_to, "heard": heard}
        print(json.dumps(told), flush=True)


def _yield_to_others(policy: int) -> None:
    """All threads of this process."""
    for task in Path("/proc/self/task").iterdir():
        os.sched_setscheduler(int(task.name), policy, os.sched_param(0))


async def _connected(url: str, opened: AsyncExitStack) -> NatsLog:
    log = await NatsLog.connect(url, name="subscriber", inbox_prefix=INBOX_PREFIX)
    opened.push_async_callback(log.close)
    return log


async def _end(log: NatsLog) -> int:
    """The place of the last event."""
    lasts = [await WatchingLog(log).last(subject) for subject in reading.ALL_EVENTS]
    return max(last.sequence for last in lasts if last is not None)


async def _line() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


class Watchers(Enum):
    """Who watches a move."""

    NOBODY = "nobody watches"
    ELSEWHERE = "watched from elsewhere"
    HERE = "watched from the same cores"


class Audience:
    """The subscribers' process, from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @asynccontextmanager
    async def there(self, log: NatsLog, watchers: Watchers) -> AsyncIterator[None]:
        """Meanwhile all of them listen. Fails if one of them has missed an event."""
        if watchers is Watchers.NOBODY:
            yield
            return
        assert await self._ask() == b"there\n"
        if watchers is Watchers.ELSEWHERE:
            self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)
        told = json.loads(await self._ask())
        messages = reading.messages(log, reading.ALL_EVENTS, after_sequence=told["after"])
        async with aclosing(messages):
            written = sum([1 async for stored in messages if stored.sequence <= told["up_to"]])
        assert set(told["heard"]) == {written}, (told, written)

    async def _ask(self) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        async with asyncio.timeout(ANSWER_S_MAX):
            return await self._process.stdout.readline()


@asynccontextmanager
async def audience(url: str, count: int = SUBSCRIBERS) -> AsyncIterator[Audience]:
    """So many subscribers of the server at ``url``, in one process. None of them is there yet."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, LISTEN, url, str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Audience(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass(frozen=True)
class Found:
    """Moves one after the other, watched alike. ``on_link``: those that had a link of 5 Gbit/s;
    ``server_share``: of one core, that the event log's server took during the others.
    """

    moves: tuple[Move, ...]
    server_share: float
    on_link: tuple[Move, ...]

    @property
    def precopy_gbit(self) -> float:
        """Gbit/s, the median."""
        return _precopy_gbit(self.moves)

    @property
    def precopy_on_link_gbit(self) -> float:
        """The same of those that had a link of 5 Gbit/s."""
        return _precopy_gbit(self.on_link)

    @property
    def stun_ms(self) -> float:
        """The median."""
        return statistics.median(it.stun_ms for it in self.moves)


def _precopy_gbit(moves: Sequence[Move]) -> float:
    return statistics.median(it.precopy_bytes_per_second for it in moves) * 8 / 1e9


Turn = dict[Watchers, Found]


async def turn(there: Lab, audience: Audience, server_pid: int, number: int, moves: int) -> Turn:
    """Moves in each way, to and fro; in the other order in each second turn."""
    ways = [Watchers.NOBODY, Watchers.ELSEWHERE]
    ways += [Watchers.HERE] if number % HERE_EACH == 0 else []
    found: Turn = {}
    for watchers in ways[:: -1 if number % 2 else 1]:
        async with audience.there(there.log, watchers):
            before, began = cpu_s(server_pid), time.monotonic()
            moved = [await there.move(NAME) for _ in range(moves)]
            took = time.monotonic() - began
            share = (cpu_s(server_pid) - before) / took
            on_link = [await there.move(NAME, LINK) for _ in range(moves)]
        found[watchers] = Found(tuple(moved), share, tuple(on_link))
    return found


def rows(turns: list[Turn]) -> list[records.Row]:
    """The table."""
    figures: list[tuple[str, str, Callable[[Found], float], float | None, bool]] = [
        ("pre-copy", "Gbit/s", lambda it: it.precopy_gbit, 0.99, True),
        ("pre-copy at 5 Gbit/s", "Gbit/s", lambda it: it.precopy_on_link_gbit, 0.99, True),
        ("stun", "ms", lambda it: it.stun_ms, 1.01, False),
        ("the event log's server", "% of a core", lambda it: it.server_share * 100, None, False),
    ]
    return [
        records.Row(
            f"{what}, {watchers.value}",
            unit,
            [figure(each[watchers]) for each in turns if watchers in each],
            goal if watchers is Watchers.ELSEWHERE else None,
            at_least=at_least,
            peer=Watchers.NOBODY.value,
            theirs=[figure(each[Watchers.NOBODY]) for each in turns if watchers in each],
            interval=True,
        )
        for watchers in (Watchers.ELSEWHERE, Watchers.HERE)
        for what, unit, figure, goal, at_least in figures
    ]


def verdict(ratios: Sequence[float]) -> str:
    """What the ratios of the stuns say, watched to not."""
    low, high = records.interval(ratios)
    if low > 1:
        return f"The stun's ratio lies above 1: watching costs at least {low - 1:.1%} of a stun."
    if high < 1:
        return "The stun's ratio lies below 1: something else differed."
    return (
        "The stun's ratio has 1 in its interval: no cost is seen, and one of more than"
        f" {high - 1:.1%} is unlikely."
    )


async def measure(
    there: Lab,
    audience: Audience,
    server_pid: int,
    size_mib: int,
    turns: int,
    moves: int = MOVES,
) -> records.Record:
    """``server_pid``: of the event log's server; ``moves``: in each way of a turn."""
    async with there.memhog(NAME, f"{size_mib}MiB"):
        await there.move(NAME)
        found = [await turn(there, audience, server_pid, each, moves) for each in range(turns)]
    told = rows(found)
    (stuns,) = (row.ratios for row in told if row.measure == f"stun, {Watchers.ELSEWHERE.value}")
    notes = [
        f"An idle machine of {size_mib} MiB; {SUBSCRIBERS} subscribers in one process, which is"
        " stopped meanwhile (elsewhere) or has the lowest priority (the same cores).",
        f"A turn's figure is the median of {moves} moves, to and fro;"
        f" in each {HERE_EACH}th turn some are watched from the same cores.",
        "Ratios with the 95 % interval of their median.",
        verdict(stuns),
    ]
    return records.Record("bench/watchers.py", told, turns, notes)


def _configured(directory: Path) -> Path:
    shutil.copy(USERS, directory)
    config = directory / "nats.conf"
    store = f"store_dir: {json.dumps(str(directory / 'jetstream'))}, sync_interval: always"
    config.write_text(f'max_payload: 8388608\njetstream {{ {store} }}\ninclude "{USERS.name}"\n')
    return config


@asynccontextmanager
async def guarded_server(directory: Path) -> AsyncIterator[tuple[int, int]]:
    """A server that knows the user who may only watch; its port and its process."""
    words = ("-c", _configured(directory), "-l", directory / "nats.log")
    async with servers.running(words, "godwit:owner@", environ=PASSWORDS) as (port, pid):
        yield port, pid


async def main() -> None:
    given = records.given(__doc__, size_mib=1024, quick_mib=64, turns=24)
    async with AsyncExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="watchers-")))
        port, pid = await opened.enter_async_context(guarded_server(directory))
        there = await opened.enter_async_context(lab(f"nats://godwit:owner@127.0.0.1:{port}"))
        heard = await opened.enter_async_context(audience(f"nats://watch:looker@127.0.0.1:{port}"))
        record = await measure(there, heard, pid, given.size_mib, given.turns)
    records.tell(record, given.json)


if __name__ == "__main__":
    if LISTEN in sys.argv:
        ending.run(subscribers(sys.argv[2], int(sys.argv[3])))
    else:
        ending.run(main())
