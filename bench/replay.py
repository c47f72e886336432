"""How fast a log is folded, from a file and from a server: ``python bench/replay.py``.

A file of a golden migration over and over, each time under another id, is folded as
``godwit migration list`` folds a log. The resident memory is told as it was after a tenth of the
events, and at its most after that: it is flat if these are equal.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import ending
import nats
import records
import servers

from godwit.pictures import reading
from godwit.runtime.event_log import LogReader
from godwit.runtime.log_file import LogFile
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.provision import provision
from godwit_protocol import subjects
from godwit_protocol.events import Recorded
from godwit_protocol.projections import MigrationSummary, fold
from godwit_protocol.replay import lines
from godwit_protocol.replay.stories import Stories
from godwit_protocol.replay.verification import verify
from godwit_protocol.stored import MESSAGE_ID_HEADER, Stored

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "logs" / "v1-completed.ndjson"
FOLLOWED_MAX = 1000
PIPELINED = 500
"""So many are sent to a server before it must have acknowledged the last of them."""
ACKNOWLEDGED_S_MAX = 30.0


def copies(count: int) -> Iterator[Stored]:
    """At least ``count`` events: the same migration, each time under another id."""
    messages = list(LogFile(GOLDEN).messages())
    own = LogFile(GOLDEN).head().of
    for number in range(-(-count // len(messages))):
        other = f"{own[:-8]}{number:08x}"
        for place, stored in enumerate(messages, start=1):
            yield Stored(
                subject=stored.subject.replace(own, other),
                sequence=number * len(messages) + place,
                time_ns=stored.time_ns,
                data=stored.data.replace(own.encode(), other.encode()),
                headers={**stored.headers, MESSAGE_ID_HEADER: f"{number}-{place}"},
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


@dataclass
class Folded:
    """What folding a log took; seconds of this process's processor time, and those that passed."""

    events: int = 0
    used_s: float = 0.0
    took_s: float = 0.0
    early_mib: float = 0.0
    most_mib: float = 0.0

    def told(self, what: str) -> str:
        """A line."""
        return (
            f"{what:8} {self.events:>9,} events: {self.events / self.used_s:>9,.0f} a second of"
            f" processor time, {self.events / self.took_s:,.0f} a second;"
            f" memory {self.early_mib:.0f} MiB after a tenth, {self.most_mib:.0f} at most"
        )


async def folded(log: LogReader, count: int) -> Folded:
    """Fold a log of about ``count`` events."""
    found, summaries = Folded(), Summaries()
    began_s, used_s = time.perf_counter(), time.process_time()
    async for recorded in reading.events(log, subjects.whole_migration("*")):
        summaries.take(recorded)
        found.events += 1
        if found.events % max(count // 10, 1) == 0:
            mib = resident_mib()
            found.early_mib = found.early_mib or mib
            found.most_mib = max(found.most_mib, mib)
    found.took_s = time.perf_counter() - began_s
    found.used_s = time.process_time() - used_s
    return found


async def served(folder: Path, count: int) -> Folded:
    """As ``folded``, from a server. It takes the events without flushing each to the disk: what is
    measured is how they are read.
    """
    async with servers.running(("-js", "-sd", folder)) as (port, _):
        url = f"nats://127.0.0.1:{port}"
        log = await NatsLog.connect(url, name="bench")
        try:
            await provision(log)
            await stored(url, count)
            found = await folded(log, count)
            assert found.events >= count, f"the server has {found.events} of {count} events"
            return found
        finally:
            await log.close()


async def stored(url: str, count: int) -> None:
    """Put copies into a server, many at a time. What is before an acknowledged one is stored."""
    client = await nats.connect(url)
    try:
        for number, message in enumerate(copies(count), start=1):
            put = (message.subject, message.data)
            if number % PIPELINED:
                await client.publish(*put, headers=message.headers)
            else:
                await client.request(*put, timeout=ACKNOWLEDGED_S_MAX, headers=message.headers)
        await client.flush()
    finally:
        await client.close()


def resident_mib() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def verified(count: int) -> tuple[int, float]:
    """As ``folded``, with each migration verified; events and the seconds that they took. Copies
    have the first one's hashes: but for that the work is the same.
    """
    began_s, events = time.perf_counter(), 0
    together = Stories()
    for number, message in enumerate(copies(count)):
        events = number + 1
        for story in together.take(message):
            verify(*story)
    for story in together.rest():
        verify(*story)
    return events, time.perf_counter() - began_s


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--served", type=int, default=50_000)
    arguments.add_argument("--verified", type=int, default=20_000)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        write(path, given.events)
        from_file = ending.run(folded(LogFile(path), given.events))
        path.unlink()
        from_server = ending.run(served(Path(folder), given.served))
    read, took_s = verified(given.verified)
    told = [from_file.told("folded"), from_server.told("served")]
    told += [f"verified {read:>9,} events: {read / took_s:>9,.0f} a second"]
    figures = {"folded": asdict(from_file), "served": asdict(from_server)}
    figures["verified"] = {"events": read, "took_s": took_s}
    records.tell_text("bench/replay.py", "\n".join(told), given.json, **figures)


if __name__ == "__main__":
    main()
