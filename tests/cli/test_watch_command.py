"""``godwit watch`` as a process: on a terminal, which it leaves as it was, and into a pipe."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path

import pytest
from conftest import Godwit
from told_log import Teller

from godwit.pictures.figures import short_id
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol.events.migration import AbortReason, Outcome
from pseudo_terminal import on_terminal

GODWIT = str(Path(sys.executable).with_name("godwit"))
LINE_S_MAX = 30.0


@pytest.fixture
def environ(nats_server: NatsServer, tmp_path: Path) -> Mapping[str, str]:
    return {"GODWIT_DIR": str(tmp_path), "GODWIT_NATS_URL": nats_server.url}


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)]
)
async def test_the_terminal_is_as_it_was_whatever_ends_it(
    teller: Teller,
    unique_name: str,
    environ: Mapping[str, str],
    number: signal.Signals,
    status: int,
) -> None:
    migration = await teller.request(unique_name, "host-2")
    async with on_terminal(GODWIT, "watch", migration, environ=environ) as terminal:
        before = terminal.mode()
        await terminal.shows(unique_name)
        assert terminal.mode() != before
        terminal.process.send_signal(number)
        assert await terminal.ended() == status
        assert terminal.mode() == before
        await terminal.shows("")
        assert "Traceback" not in terminal.text


async def test_into_a_pipe_it_is_a_line_a_change_until_the_end(
    teller: Teller, unique_name: str, environ: Mapping[str, str]
) -> None:
    migration = await teller.request(unique_name, "host-2")
    process = await asyncio.create_subprocess_exec(
        *(GODWIT, "watch", migration), env=dict(environ), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(LINE_S_MAX):
        today = (await process.stdout.readline()).decode().strip()
        first = (await process.stdout.readline()).decode()
        await teller.end(migration, unique_name, Outcome.ABORTED, AbortReason.CANCELLED)
        second, end = (await process.communicate())[0].decode().splitlines()[0], process.returncode
    assert date.fromisoformat(today) <= datetime.now().date()
    named = f"{unique_name} {short_id(migration)}"
    assert named in first
    assert first.endswith("requested\n")
    assert named in second
    assert second.endswith("aborted, cancelled")
    assert (first + second).replace("\n", "").isprintable()
    assert end == 0


async def test_as_json_it_tells_the_same(godwit: Godwit, teller: Teller, unique_name: str) -> None:
    migration = await teller.request(unique_name, "host-2")
    await teller.end(migration, unique_name, Outcome.ABORTED, AbortReason.CANCELLED)
    ended = await godwit("watch", migration, "--json")
    told = json.loads(ended.out)
    assert (told["id"], told["phase"], told["reason"]) == (migration, "aborted", "cancelled")


async def test_it_says_that_the_log_is_away_and_back(
    own_server: NatsServer, own_log: NatsLog, tmp_path: Path
) -> None:
    await Teller(own_log).request("m", "host-2")
    environ = {"GODWIT_DIR": str(tmp_path), "GODWIT_NATS_URL": own_server.url}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(GODWIT, "watch"), env=environ, stdout=pipe, stderr=pipe
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(LINE_S_MAX):
            assert await process.stdout.readline(), "it watches"
        for turn, told in ((own_server.stop, "does not answer"), (own_server.restart, "again")):
            await turn()
            async with asyncio.timeout(LINE_S_MAX):
                assert told in (await process.stderr.readline()).decode()
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.usefixtures("log")  # whose streams are there
async def test_one_that_is_not_there_is_said_so(godwit: Godwit) -> None:
    ended = await godwit("watch", "ffffffff")
    assert ended.status == 3
    assert "there is no migration" in ended.err
