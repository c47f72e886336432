"""The documented commands, as a user types them, from a folder outside the project."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from godwit.hypervisor.native.paths import MachineFolder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

GODWIT = str(Path(sys.executable).with_name("godwit"))
GUESTS_PAGE = Path(__file__).parents[2] / "docs" / "guests.md"
COMMAND_S_MAX = 90
MIGRATION_KEYS = {
    *("id", "machine", "source", "destination", "outcome", "reason", "rounds", "stun_ms"),
    *("stun_components_ms", "bytes_sent", "duration_s"),
}
DEMO_KEYS = {
    *("migration", "verify", "rounds", "bytes_sent", "throughput_gbps", "stun_ms"),
    "stun_components_ms",
    *("client_gap_ms", "queries_asked", "queries_answered", "queries_lost", "queries_doubled"),
    "answers_equal",
}


class Shell:
    """Runs ``godwit`` in a directory of the user's, with the user's environment."""

    def __init__(self, directory: Path, cluster: Path) -> None:
        self.directory = directory
        self.environ: Mapping[str, str] = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GODWIT_")},
            "GODWIT_DIR": str(cluster),
        }

    async def start(self, *words: str, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            GODWIT,
            *words,
            cwd=self.directory,
            env={**self.environ, **environ},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *words: str, status: int = 0, given: str = "", **environ: str) -> str:
        """Standard output, or standard error if ``status`` says that it must fail."""
        process = await self.start(*words, **environ)
        async with asyncio.timeout(COMMAND_S_MAX):
            out, err = await process.communicate(given.encode())
        assert process.returncode == status, (words, out.decode(), err.decode())
        return (err if status else out).decode()

    async def json(self, *words: str) -> Any:
        return json.loads(await self.run(*words, "--json"))

    async def complete(self, *words: str) -> list[str]:
        """What a shell offers when the user asks it to complete the last word."""
        line, at = " ".join(("godwit", *words)), str(len(words))
        asked = {"COMP_WORDS": line, "COMP_CWORD": at, "_GODWIT_COMPLETE": "complete_bash"}
        async with asyncio.timeout(COMMAND_S_MAX):
            while not (offered := (await self.run(**asked)).split()):
                pass  # on a busy machine it gave up, silently: the user presses Tab again
        return offered


@asynccontextmanager
async def cluster_up(shell: Shell) -> AsyncIterator[asyncio.subprocess.Process]:
    """``godwit up`` in the foreground, ended by Ctrl-C."""
    up = await shell.start("up")
    assert up.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await up.stdout.readline()).decode()
        assert "nats://127.0.0.1:" in line
        assert "SIMULATED" in line
        yield up
    finally:
        up.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            await up.communicate()
    assert up.returncode in (0, 130), up.returncode


async def test_a_user_s_own_guest_from_a_file(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", GUESTS_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "notebook.py").write_text(code[1], encoding="utf-8")
    shell = Shell(elsewhere, tmp_path / "cluster")
    async with cluster_up(shell):
        start = ("machine", "start", "notes", "--host", "host-1", "--ram", "16MiB")
        await shell.run(*start, "--guest", "notebook.py:Notebook")
        assert (await shell.run("machine", "ask", "notes", "a bird")).strip() == "line 1"
        assert (await shell.run("machine", "ask", "notes", "-", given="a bee")).strip() == "line 2"
        moved = await shell.json("migrate", "notes", "--to", "host-2")
        assert moved.keys() >= MIGRATION_KEYS
        assert moved["outcome"] == "completed"
        assert sum(moved["stun_components_ms"].values()) == pytest.approx(moved["stun_ms"], abs=0.1)
        assert (await shell.run("machine", "ask", "notes", "read")).strip() == "a bird\na bee"
        await the_rest_of_the_commands(shell, moved["id"])
    for host in ("host-1", "host-2"):
        assert not list(MachineFolder.all(tmp_path / "cluster" / "hosts" / host))


async def the_rest_of_the_commands(shell: Shell, migration: str) -> None:
    machine = await shell.json("machine", "show", "notes")
    assert (machine["host"], machine["state"], machine["epoch"]) == ("host-2", "running", 2)
    assert machine["regions"] == [{"name": "ram", "size_bytes": 16 * 2**20}]
    assert [each["name"] for each in await shell.json("machine", "list")] == ["notes"]
    shown = await shell.json("migration", "show", migration)
    assert (shown["id"], shown["rounds"] > 0) == (migration, True)
    assert [each["id"] for each in await shell.json("migration", "list")] == [migration]
    assert await shell.complete("migration", "show", migration[:6]) == [migration]
    assert await shell.complete("machine", "show", "no") == ["notes"]
    story = await shell.run("events", "--migration", migration)
    for told in ("asked to move", "stunned the machine", "owns the machine", "completed"):
        assert told in story
    gpus = await shell.run("gpus")
    assert gpus.count("SIMULATED") == 4 + 1  # each, and the line that counts them
    again = await shell.run("migrate", "notes", "--to", "host-2", status=5)
    assert "runs on host-2 already" in again
    nowhere = await shell.run("migrate", "notes", "--to", "host-9", status=3)
    assert "host-1" in nowhere
    late = await shell.run("migration", "cancel", migration, status=4)
    assert "too late" in late
    await shell.run("machine", "stop", "notes")
    missing = await shell.run("machine", "ask", "notes", "x", status=3)
    assert "notes" in missing


async def test_without_a_cluster_the_error_says_what_to_do(tmp_path: Path) -> None:
    shell = Shell(tmp_path, tmp_path / "nothing")
    told = await shell.run("machine", "list", status=3)
    assert "godwit up" in told
    assert "Traceback" not in told


async def test_the_demo_loses_nothing(tmp_path: Path) -> None:
    shell = Shell(tmp_path, tmp_path / "unused")
    findings = await shell.json("demo")
    assert findings.keys() == DEMO_KEYS
    assert findings["verify"] == "wire"
    assert findings["queries_asked"] == findings["queries_answered"] > 0
    assert (findings["queries_lost"], findings["queries_doubled"]) == (0, 0)
    assert findings["answers_equal"] is True
    assert findings["bytes_sent"] > 80 * 2**20
    assert 0 < findings["stun_ms"] < findings["client_gap_ms"]
    parts = findings["stun_components_ms"].values()
    assert sum(parts) == pytest.approx(findings["stun_ms"], abs=0.01)
