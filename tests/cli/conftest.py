"""The command as a process, and a log to look at."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from told_log import Teller

from godwit.cli.main import main
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer

COMMAND_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str


Godwit = Callable[..., Awaitable[Ended]]


@pytest.fixture
def godwit(nats_server: NatsServer, tmp_path: Path) -> Godwit:
    """Runs the command on the tests' event log, or on ``url``; an empty one is none at all."""

    async def run(*arguments: str, url: str = nats_server.url) -> Ended:
        environ = {**os.environ, "GODWIT_DIR": str(tmp_path), "GODWIT_NATS_URL": url}
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "godwit",
            *arguments,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(COMMAND_S_MAX):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    return run


Here = Callable[..., Ended]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Runs the command in this process, where there is no event log."""
    monkeypatch.setenv("GODWIT_DIR", str(tmp_path))
    monkeypatch.delenv("GODWIT_NATS_URL", raising=False)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["godwit", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def teller(log: NatsLog) -> Teller:
    return Teller(log)
