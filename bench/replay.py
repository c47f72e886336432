"""How fast a log is folded, from a file and from a server: ``python bench/replay.py``.

A file of a golden migration over and over, each time under another id, is folded as the commands
fold it. Memory is the process's most, at a tenth of the events and at all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import ending

from godwit.runtime.log_file import LogFile
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.provision import provision
from godwit_protocol import codec, subjects
from godwit_protocol.events import Recorded
from godwit_protocol.projections import MigrationSummary, fold
from godwit_protocol.replay import lines
from godwit_protocol.replay.stories import Stories
from godwit_protocol.replay.verification import verify

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "logs" / "v1-completed.ndjson"
VERIFIED_EVENTS = 20_000
FOLLOWED_MAX = 1000
SERVED_EVENTS = 50_000
"""Few, unless asked otherwise: storing them takes long, each is flushed to the disk."""
APPENDS_AT_ONCE = 256


def copies(count: int) -> Iterator[lines.Message]:
    """At least ``count`` events: the same migration, each time under another id."""
    messages = list(LogFile(GOLDEN).messages())
    own = LogFile(GOLDEN).head().of
    for number in range(-(-count // len(messages))):
        other = f"{own[:-8]}{number:08x}"
        for place, stored in enumerate(messages, start=1):
            yield lines.Message(
                subject=stored.subject.replace(own, other),
                sequence=number * len(messages) + place,
                time_ns=stored.time_ns,
                data=stored.data.replace(own.encode(), other.encode()),
                headers=dict(stored.headers),
            )


def write(path: Path, count: int) -> None:
    with path.open("wb") as opened:
        opened.write(lines.encode_head())
        opened.writelines(map(lines.encode_line, copies(count)))


class Summaries:
    """The last migrations, folded."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, MigrationSummary] = OrderedDict()

    def take(self, recorded: Recorded) -> None:
        migration = recorded.envelope.migration
        known = self._known.get(migration) or MigrationSummary(id=migration)
        self._known[migration] = fold(known, recorded)
        if len(self._known) > FOLLOWED_MAX:
            self._known.popitem(last=False)


def folded(path: Path) -> tuple[int, float]:
    """How many events the file had, and seconds of processor time that folding them took."""
    began_s, events = time.process_time(), 0
    summaries = Summaries()
    for recorded in LogFile(path).events():
        summaries.take(recorded)
        events += 1
    return events, time.process_time() - began_s


async def stored(log: NatsLog, count: int) -> None:
    """Put copies into a server, many at a time; each keeps its place in its own migration."""
    batch: list[lines.Message] = []

    async def flush() -> None:
        ids = (str(message.sequence) for message in batch)
        await asyncio.gather(*(log.append(m.subject, m.data, message_id=next(ids)) for m in batch))
        batch.clear()

    for message in copies(count):
        batch.append(message)
        if len(batch) >= APPENDS_AT_ONCE:
            await flush()
    await flush()


async def served(folder: Path, count: int) -> tuple[int, float, float]:
    """As ``folded``, from a server: seconds that passed, and those of this process."""
    server = await NatsServer.start(folder)
    try:
        return await _read_from(server.url, count)
    finally:
        await server.stop()


async def _read_from(url: str, count: int) -> tuple[int, float, float]:
    log = await NatsLog.connect(url, name="bench")
    await provision(log)
    await stored(log, count)
    began_s, used_s, events = time.perf_counter(), time.process_time(), 0
    summaries = Summaries()
    async for message in log.read(subjects.whole_migration("*")):
        summaries.take(codec.decode(message.data, message.sequence))
        events += 1
    taken = events, time.perf_counter() - began_s, time.process_time() - used_s
    await log.close()
    return taken


def verified() -> tuple[int, float]:
    """As ``folded``, with each migration verified. Copies have the first one's hashes: but for that
    the work is the same.
    """
    began_s, events = time.perf_counter(), 0
    together = Stories[lines.Message]()
    for number, message in enumerate(copies(VERIFIED_EVENTS)):
        events = number + 1
        for story in together.take(message):
            verify(*story)
    for story in together.rest():
        verify(*story)
    return events, time.perf_counter() - began_s


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--served", type=int, default=SERVED_EVENTS)
    given = arguments.parse_args()
    count = given.events
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        for events in (count // 10, count):
            write(path, events)
            read, took_s = folded(path)
            print(
                f"folded   {read:>9,} events: {read / took_s:>9,.0f} a second, {peak_mib():.0f} MiB"
            )
        for events in (given.served // 10, given.served):
            place = Path(folder) / f"server-{events}"
            read, took_s, used_s = ending.run(served(place, events))
            print(
                f"served   {read:>9,} events: {read / took_s:>9,.0f} a second,"
                f" {read / used_s:,.0f} a second of processor time, {peak_mib():.0f} MiB"
            )
        read, took_s = verified()
        print(f"verified {read:>9,} events: {read / took_s:>9,.0f} a second")


if __name__ == "__main__":
    main()
