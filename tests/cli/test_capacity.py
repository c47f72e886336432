"""``godwit gpus`` and ``godwit capacity`` as their users see them: real processes on a real log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from conftest import Godwit
from told_log import Teller

from godwit.catalogue.loading import load
from godwit.cli import watching as cli_watching
from godwit.runtime.event_log import EventLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import ledger, subjects
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.errors import CorruptError, InvalidInputError, NotFoundError
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.reservation import Placement
from godwit_protocol.facts import GpuTelemetry, HostTelemetry
from godwit_protocol.ledger import EntryKind
from godwit_protocol.stored import Stored

WAIT_S = 30.0
INTERRUPTED = 130


def h100(index: int) -> GpuInventory:
    size = load().model("H100-80GB").memory_bytes
    return GpuInventory(index=index, model="H100-80GB", memory_bytes=size, simulated=True)


async def book(
    teller: Teller, host: str, kind: EntryKind, reservation: str, *placed: Placement
) -> None:
    entry = ledger.LedgerEntry(
        kind=kind, reservation=reservation, machine="m", host=host, placements=placed
    )
    subject = subjects.ledger(host)
    await teller.log.append(subject, ledger.encode_entry(entry), message_id=teller.clock.new_id())


def small(start: int, gpu: int = 0) -> Placement:
    return Placement(
        gpu=gpu, profile="1g.10gb", framebuffer_bytes=2**30, mode=GpuMode.MIG, start=start, slots=1
    )


async def test_capacity_is_told_by_profile(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    await teller.announce(unique_name, h100(0), h100(1))
    await book(teller, unique_name, EntryKind.HELD, "one", small(0))
    await book(teller, unique_name, EntryKind.CONFIRMED, "one")
    await book(teller, unique_name, EntryKind.HELD, "two", small(3, gpu=1))
    here = ("--host", unique_name, "--profile", "4g.40gb", "--profile", "1g.10gb")
    text, data = await asyncio.gather(
        godwit("capacity", *here), godwit("capacity", *here, "--json")
    )
    told = json.loads(data.out)
    assert (told["hosts"], told["gpus"], told["simulated_gpus"]) == (1, 2, 2)
    large, one = told["profiles"]
    assert large["remaining"] == 0, "each GPU has one vGPU where it is in the way of 4g"
    assert large["repacked"] == {"at_least": 2, "at_most": 2}
    assert (one["consumed"], one["reserved"], one["remaining"], one["maximum"]) == (1, 1, 12, 14)
    (row,) = [line.split() for line in text.out.splitlines() if line.startswith("4g.40gb")]
    assert row == ["4g.40gb", "0", "0", "0", "2", "2"]
    assert "2 GPUs of 2 SIMULATED" in text.out


async def test_a_ledger_that_cannot_be_right_is_an_error(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    await teller.announce(unique_name, h100(0))
    whole = Placement(gpu=0, profile="7g.80gb", framebuffer_bytes=2**30)
    for reservation in ("one", "two"):
        await book(teller, unique_name, EntryKind.HELD, reservation, whole)
    ended = await godwit("capacity", "--host", unique_name)
    assert ended.status == CorruptError.exit_code
    assert "2 reserved" in ended.err


@pytest.mark.parametrize("command", ["gpus", "capacity"])
@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        (("--host", "nowhere"), NotFoundError, "hosts: "),
        (("--model", "H999"), NotFoundError, "H100-80GB"),
        (("--profile", "9g"), InvalidInputError, "1g.10gb"),
    ],
)
async def test_what_is_not_there_is_named_with_what_is(
    godwit: Godwit,
    teller: Teller,
    unique_name: str,
    command: str,
    arguments: tuple[str, ...],
    kind: type[NotFoundError],
    told: str,
) -> None:
    await teller.announce(unique_name, h100(0))
    ended = await godwit(command, *arguments)
    assert ended.status == kind.exit_code
    assert told in ended.err


async def test_gpus_are_filtered_and_their_load_is_shown(
    godwit: Godwit, teller: Teller, unique_name: str
) -> None:
    await teller.announce(unique_name, h100(0), h100(1))
    whole = Placement(
        gpu=1, profile="7g.80gb", framebuffer_bytes=2**30, mode=GpuMode.MIG, start=0, slots=8
    )
    await book(teller, unique_name, EntryKind.HELD, "one", whole)
    look = GpuTelemetry(gpu=0, utilisation_percent=37, xids=(79,))
    an_hour_behind_ns = time.time_ns() - 3600 * 10**9
    telemetry = msgspec.msgpack.encode(HostTelemetry(wall_ns=an_hour_behind_ns, gpus=(look,)))
    subject = subjects.telemetry("host", unique_name, "gpus")
    await teller.log.append(subject, telemetry, message_id=unique_name)
    arguments = ("gpus", "--host", unique_name, "--model", "H100-80GB", "--profile", "1g.10gb")
    text, data = await asyncio.gather(godwit(*arguments), godwit(*arguments, "--json"))
    (shown,) = json.loads(data.out)
    assert (shown["gpu"], shown["health"], shown["fragmentation"]) == (0, "XID 79", 0.0)
    assert shown["telemetry"]["utilisation_percent"] == 37
    (line,) = [line for line in text.out.splitlines() if line.startswith(unique_name)]
    assert "37 %" in line
    assert "XID 79" in line


@asynccontextmanager
async def watching(*arguments: str, url: str, directory: Path) -> AsyncIterator[Any]:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "godwit",
        *arguments,
        "--watch",
        "--json",
        env={**os.environ, "GODWIT_NATS_URL": url, "GODWIT_DIR": str(directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Whoever runs the tests in the background has them ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        async with asyncio.timeout(WAIT_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("command", ["gpus", "capacity"])
async def test_watching_goes_on_with_the_log_until_ctrl_c(
    nats_server: NatsServer, teller: Teller, unique_name: str, tmp_path: Path, command: str
) -> None:
    await teller.announce(unique_name, h100(0))
    arguments = (command, "--host", unique_name)
    async with watching(*arguments, url=nats_server.url, directory=tmp_path) as process:
        first = json.loads(await process.stdout.readline())
        await book(teller, unique_name, EntryKind.HELD, "one", small(6))
        second = json.loads(await process.stdout.readline())
        await book(teller, unique_name, EntryKind.RELEASED, "one")
        third = json.loads(await process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert first == third != second
    assert (process.returncode, out, err) == (INTERRUPTED, b"", b"")


class Heard:
    """A log from which one look at GPUs is heard."""

    async def listen(self, filters: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        yield filters[0], b""


async def test_what_is_heard_live_came_just_now() -> None:
    arrivals: asyncio.Queue[Stored] = asyncio.Queue()
    before_ns = time.time_ns()
    subject = subjects.telemetry("host", "h", "gpus")
    await cli_watching._follow(cast("EventLog", Heard()), subject, 0, arrivals)
    assert before_ns <= arrivals.get_nowait().time_ns <= time.time_ns()
