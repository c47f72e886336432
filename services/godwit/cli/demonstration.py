"""The demo's run: a machine with a real model is moved while it answers, and every answer checked.

Two machines with the same guest and the same requests in the same order: one is moved, the other
never. What a moved machine answers must be, byte for byte, what the other one answers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from godwit.pictures.figures import milliseconds
from godwit.pictures.migrations import error_of, stun_components_ms, throughput_bytes_per_second
from godwit_protocol.errors import DataLossError, GuestError
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import DEFAULT_TENANT
from godwit_protocol.projections import MigrationSummary

from .guest_client import Exchange, GuestClient
from .machine import make_spec, start_machine
from .migration import request_migration
from .progress import Display, follow

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from godwit.runtime.event_log import EventLog

MOVED: Final = "searcher"
WITNESS: Final = "witness"
"""The machine that is never moved."""
SOURCE: Final = "host-1"
DESTINATION: Final = "host-2"
TENANT: Final = "witness"
"""The witness's. What it holds is not used for the moved machine, all of which is to be moved."""
GUEST: Final = "godwit.guests.embedder:Embedder"
PROFILE: Final = "H100XM-4C"
SENTENCES_FIRST: Final = 1000
"""Sentences in the index before the questions begin; the rest is added between them."""
SENTENCES_AT_ONCE: Final = 16
ADD_EVERY: Final = 8
"""One request in so many adds a sentence: the machine's memory changes while it is moved."""
QUESTIONERS: Final = 2
HITS: Final = 3
BEFORE_S: Final = 1.5
AFTER_S: Final = 1.0
REPLY_S_MAX: Final = 30.0
MIGRATION_S_MAX: Final = 60.0

Say = Callable[[str], None]
Displayed = Callable[[str], "AbstractContextManager[Display]"]


@dataclass(frozen=True, slots=True)
class Findings:
    """What the demo found. ``usual_gap_ns``: the longest gap before the migration."""

    summary: MigrationSummary
    asked: int
    answered: int
    doubled: int
    different: int
    gap_ns: int
    usual_gap_ns: int

    @property
    def lost(self) -> int:
        """Questions that never got an answer."""
        return self.asked - self.answered

    @property
    def throughput_gbps(self) -> float:
        """Of the pre-copy, in 10^9 bits a second."""
        return throughput_bytes_per_second(self.summary) * 8 / 1e9

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        summary = self.summary
        stun_ns = summary.stun_ns
        return {
            "migration": summary.id,
            "verify": summary.verify.value,
            "rounds": len(summary.rounds),
            "bytes_sent": summary.sent_bytes,
            "throughput_gbps": round(self.throughput_gbps, 3),
            "stun_ms": None if stun_ns is None else milliseconds(stun_ns),
            "stun_components_ms": stun_components_ms(summary),
            "client_gap_ms": milliseconds(self.gap_ns),
            "queries_asked": self.asked,
            "queries_answered": self.answered,
            "queries_lost": self.lost,
            "queries_doubled": self.doubled,
            "answers_equal": not self.different,
        }

    def check(self) -> None:
        """Raise ``DataLossError`` if anything was lost, doubled or different."""
        if self.lost or self.doubled or self.different:
            raise DataLossError(
                f"{self.lost} queries lost, {self.doubled} doubled,"
                f" {self.different} answered differently from the machine that was not moved"
            )


async def demonstrate(log: EventLog, say: Say, displayed: Displayed) -> Findings:
    """Run it on the cluster of ``log``; ``displayed`` gives the migration's display for its id.

    Raises the migration's error if it did not complete, and whatever went wrong on the way.
    """
    from godwit.guests.corpus import questions, sentences

    corpus = sentences()
    say(f"starting machine {MOVED} on {SOURCE}, and {WITNESS}, which is never moved")
    await asyncio.gather(_start(log, MOVED, SOURCE), _start(log, WITNESS, DESTINATION, TENANT))
    async with GuestClient(log, MOVED) as client, GuestClient(log, WITNESS) as witness:
        say(f"both embed and index {SENTENCES_FIRST} sentences with all-MiniLM-L6-v2")
        first = corpus[:SENTENCES_FIRST]
        await asyncio.gather(_fill(client, first), _fill(witness, first))
    async with GuestClient(log, MOVED) as client:
        say(f"{QUESTIONERS} clients ask {MOVED} without a pause")
        requests = _requests(questions(), corpus[SENTENCES_FIRST:])
        async with _questioned(client, requests) as exchanges:
            await asyncio.sleep(BEFORE_S)
            usual_gap_ns = client.take_longest_gap_ns()
            say(f"moving {MOVED} to {DESTINATION} while it answers")
            summary = await _migrate(log, displayed)
            await asyncio.sleep(AFTER_S)
        if error := error_of(summary):
            raise error
        # The first client listens on meanwhile: an answer given twice may come late.
        async with GuestClient(log, WITNESS) as witness:
            say(f"asking {WITNESS} the same {len(exchanges)} questions in the same order")
            different = await _count_different(witness, exchanges)
    return Findings(
        summary=summary,
        asked=client.asked,
        answered=client.answered,
        doubled=client.doubled,
        different=different,
        gap_ns=client.take_longest_gap_ns(),
        usual_gap_ns=usual_gap_ns,
    )


async def _start(log: EventLog, name: str, host: str, tenant: str = DEFAULT_TENANT) -> None:
    # One thread each: the machines share the cores with the migration.
    env = ("OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1")
    spec = make_spec(name, GUEST, ram="64MiB", vgpus=(PROFILE,), env=env, tenant=tenant)
    await start_machine(log, spec, host)


async def _fill(client: GuestClient, corpus: Sequence[str]) -> None:
    for start in range(0, len(corpus), SENTENCES_AT_ONCE):
        batch = list(corpus[start : start + SENTENCES_AT_ONCE])
        _checked(await client.ask(_encoded({"op": "add", "text": batch}), timeout_s=REPLY_S_MAX))


def _requests(questions: Sequence[str], additions: Sequence[str]) -> Iterator[bytes]:
    """Questions for ever, with a sentence added now and then as long as there are any."""
    left = iter(additions)
    for number, question in enumerate(itertools.cycle(questions)):
        if number % ADD_EVERY == 0 and (sentence := next(left, "")):
            yield _encoded({"op": "add", "text": sentence})
        yield _encoded({"op": "search", "text": question, "k": HITS})


@asynccontextmanager
async def _questioned(
    client: GuestClient, requests: Iterator[bytes]
) -> AsyncIterator[list[Exchange]]:
    """Ask all the time, each questioner one question after the other; all are answered at the end.

    A question without an answer ends its questioner: it is counted as lost.
    """
    exchanges: list[Exchange] = []
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            exchanges.append(await client.exchange(next(requests), timeout_s=REPLY_S_MAX))

    questioners = [asyncio.create_task(ask()) for _ in range(QUESTIONERS)]
    try:
        yield exchanges
        over.set()
        await asyncio.wait(questioners)
    finally:
        over.set()
        for questioner in questioners:
            questioner.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await questioner


async def _migrate(log: EventLog, displayed: Displayed) -> MigrationSummary:
    migration = await request_migration(log, MOVED, DESTINATION, ev.Limits())
    with displayed(migration) as display:
        return await follow(log, migration, display, wait_s=MIGRATION_S_MAX)


async def _count_different(witness: GuestClient, exchanges: Sequence[Exchange]) -> int:
    """How many of the answers differ from those of the witness, asked in the same order."""
    different = 0
    for exchange in sorted(exchanges, key=lambda item: item.sequence):
        answer = await witness.ask(exchange.payload, timeout_s=REPLY_S_MAX)
        different += answer != exchange.reply
    return different


def _encoded(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def _checked(reply: bytes) -> None:
    error = json.loads(reply).get("error")
    if error:
        raise GuestError(f"the guest refused a request: {error['message']}")
