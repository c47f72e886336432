"""Records golden logs from real runs: ``python tests/chaos/record_logs.py FOLDER``.

Of each way a migration can go, one, exported as it stands in the log then. Files that are there are
left alone: golden logs are kept for ever.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from arena import LIMITS, REACHED_S_MAX, Arena, send, until
from steps import step

from godwit.cli import migration as command
from godwit.cli.replay import write_export
from godwit_protocol import subjects
from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.events.signed import LaneSigned
from operations import NO_CONVERGENCE

OPERATOR: Final = "operator@desk"
SIGNED_S_MAX: Final = 60.0


async def completed(arena: Arena) -> str:
    """Nothing happens."""
    migration = await _request(arena, LIMITS)
    await arena.operations.ended(migration)
    return migration


async def aborted(arena: Arena) -> str:
    """An operator cancels it while it is copied."""
    migration = await _request(arena, NO_CONVERGENCE)
    await arena.operations.event(migration, ev.RoundCompleted, 3)
    await command.cancel_migration(arena.operations.log, migration)
    return migration


async def rolled_back(arena: Arena) -> str:
    """The destination's service dies when the whole image is staged, and says so to nobody."""
    source = await arena.owner()
    destination = arena.other(source)
    is_reached = arena.plan(destination, step("d7"))
    migration = await _request(arena, LIMITS)
    await until(is_reached, REACHED_S_MAX, "d7")
    await arena.cluster.kill(f"{destination}-destination_host")
    await arena.operations.event(migration, ev.MigrationAbandoned)
    await arena.cluster.restart(f"{destination}-destination_host")
    await arena.operations.ended(migration)
    await arena.operations.event(migration, ev.ImageDiscarded)
    return migration


async def in_doubt(arena: Arena) -> str:
    """The destination is gone between ACTIVATING and its word that it runs."""
    source = await arena.owner()
    destination = arena.other(source)
    is_reached = arena.plan(destination, step("d9"))
    migration = await _request(arena, LIMITS)
    await until(is_reached, REACHED_S_MAX, "d9")
    vmm = arena.vmm_pid(destination)
    assert vmm is not None
    await arena.cluster.kill(f"{destination}-destination_host")
    send(vmm, signal.SIGKILL)
    await arena.operations.event(migration, ev.DoubtRaised)
    return migration


async def signed(arena: Arena) -> str:
    """Nothing happens, and all who wrote of it have signed."""
    migration = await completed(arena)
    last = f".{Lane.COORDINATOR}.{LaneSigned.TYPE}"
    async with asyncio.timeout(SIGNED_S_MAX):
        async for stored in arena.operations.log.tail(subjects.whole_migration(migration)):
            if stored.subject.endswith(last):
                return migration
    raise AssertionError("a tail has no end")


STORIES: Final[tuple[Callable[[Arena], Awaitable[str]], ...]] = (
    completed,
    aborted,
    rolled_back,
    in_doubt,
    signed,
)


async def _request(arena: Arena, limits: ev.Limits) -> str:
    subject = await arena.machine()
    there = arena.other(await arena.owner())
    return await arena.operations.request(subject.name, there, limits)


async def main(folder: Path) -> None:
    """Record what is missing."""
    command.requested_by = lambda: OPERATOR
    missing = [tell for tell in STORIES if not _file(folder, tell).exists()]
    with tempfile.TemporaryDirectory() as place:
        async with Arena.open(Path(place) / "c", wired=False) as arena:
            for tell in missing:
                migration = await tell(arena)
                file = _file(folder, tell)
                written = await write_export(arena.operations.log, migration, file)
                sys.stdout.write(f"{file}: {written} events\n")


def _file(folder: Path, tell: Callable[[Arena], Awaitable[str]]) -> Path:
    return folder / f"v1-{tell.__name__.replace('_', '-')}.ndjson"


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
