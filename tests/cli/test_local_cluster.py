"""``godwit up`` with all its real processes."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from godwit.local_cluster import process_tree
from godwit_protocol.errors import ConflictError

pytestmark = pytest.mark.e2e

READY_S_MAX = 60.0
ROOT = Path(__file__).parents[2]
WATCHING = ROOT / "docs" / "watching.md"
GODWIT = Path(sys.executable).parent / "godwit"


def environ(directory: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GODWIT_")}
    return {**ours, "GODWIT_DIR": str(directory)}


async def godwit(directory: Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        GODWIT,
        *arguments,
        env=environ(directory),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def up(directory: Path, hosts: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        GODWIT,
        *("up", "--hosts", str(hosts)),
        env=environ(directory),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(READY_S_MAX):
            ready = (await process.stdout.readline()).decode()
        assert ready.startswith("ready: nats://127.0.0.1:")
        assert "; to watch nats://watch:watch@127.0.0.1:" in ready
        assert (directory / "cluster.json").stat().st_mode & 0o077 == 0, "it may hold a password"
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(READY_S_MAX):
            await process.wait()


@asynccontextmanager
async def documented_example(port: int | None) -> AsyncIterator[asyncio.StreamReader]:
    """What the example prints, run as the docs say, but for the port."""
    line = re.search(r"^\$ python (examples/watch.py .*)$", WATCHING.read_text(), re.MULTILINE)
    assert line is not None
    typed = re.sub(r":\d+$", f":{port}", line[1]).split()
    process = await asyncio.create_subprocess_exec(
        sys.executable, *typed, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.terminate()
        await process.wait()


async def next_report(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(READY_S_MAX):
        return (await process.stderr.readline()).decode().strip()


def environ_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def service_pid(directory: Path, place: str) -> int:
    pid = json.loads((directory / place / "health.json").read_text())["pid"]
    assert isinstance(pid, int)
    return pid


async def test_up_restarts_what_dies_and_ends_all_that_it_started(tmp_path: Path) -> None:
    async with up(tmp_path, hosts=1) as process:
        started = await godwit(
            tmp_path,
            *("machine", "start", "hog", "--host", "host-1", "--ram", "8MiB"),
            *("--guest", "godwit.guests.memhog:Memhog"),
        )
        assert started[0] == 0, started
        again = await godwit(tmp_path, "up")
        assert again[0] == ConflictError.exit_code
        os.kill(service_pid(tmp_path, "hosts/host-1/source_host"), signal.SIGKILL)
        assert "host-1-source_host ended with status -9" in await next_report(process)
        assert await next_report(process) == "host-1-source_host is back"
        status, out, _ = await godwit(tmp_path, "machine", "ask", "hog", '{"op":"status"}')
        assert (status, json.loads(out)["pattern"]) == (0, "uniform")
        os.kill(process.pid, signal.SIGINT)
    assert process.returncode == 0
    assert not process_tree.find_processes(tmp_path)
    assert not process_tree.find_services(tmp_path)
    assert (await godwit(tmp_path, "machine", "list"))[0] != 0


async def test_a_cluster_that_was_killed_leaves_nothing_in_the_way_and_its_machines_running(
    tmp_path: Path,
) -> None:
    async with up(tmp_path, hosts=1) as process:
        started = await godwit(
            tmp_path,
            *("machine", "start", "hog", "--host", "host-1", "--ram", "8MiB"),
            *("--guest", "godwit.guests.memhog:Memhog"),
        )
        assert started[0] == 0, started
        process.kill()
    left = set(process_tree.find_processes(tmp_path))
    machines = left - set(process_tree.find_services(tmp_path))
    assert len(machines) == 1
    async with up(tmp_path, hosts=1) as process:
        assert "of an earlier cluster" in await next_report(process)
        assert machines < set(process_tree.find_processes(tmp_path))
        status, out, _ = await godwit(tmp_path, "machine", "ask", "hog", '{"op":"status"}')
        assert (status, json.loads(out)["pattern"]) == (0, "uniform")
    assert not process_tree.find_processes(tmp_path)


async def test_its_monitor_may_only_watch_and_so_does_the_example_as_it_is_documented(
    tmp_path: Path,
) -> None:
    async with up(tmp_path, hosts=1):
        port = urlsplit(json.loads((tmp_path / "cluster.json").read_text())["nats_url"]).port
        watcher = f"GODWIT_NATS_URL=nats://watch:watch@127.0.0.1:{port}"
        assert watcher in environ_of(service_pid(tmp_path, "services/monitor"))
        assert watcher not in environ_of(
            service_pid(tmp_path, "services/coordinator/coordinator-1")
        )
        hog = ("hog", "--host", "host-1", "--ram", "8MiB", "--guest", "godwit.guests.memhog:Memhog")
        assert (await godwit(tmp_path, "machine", "start", *hog))[0] == 0
        async with documented_example(port) as told:
            heard = asyncio.create_task(told.readline())
            while not heard.done():  # it may have begun to listen only now
                for change in ("pause", "resume"):
                    assert (await godwit(tmp_path, "machine", change, "hog"))[0] == 0
            assert "machine_" in (await heard).decode()


async def test_an_event_log_whose_port_was_taken_meanwhile_starts_on_another_and_says_so(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        described = json.dumps({"nats_url": f"nats://127.0.0.1:{port}"})
        (tmp_path / "cluster.json").write_text(described)
        async with up(tmp_path, hosts=1) as process:
            assert f"could not start on port {port}" in await next_report(process)
            assert (await godwit(tmp_path, "machine", "list"))[0] == 0
