"""All of the bench: what fails of it is named, and what is told to end leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import demo
import pytest
import records
import run_all
import tables

from godwit.local_cluster import process_tree

BENCH = Path(__file__).parents[2] / "bench"
UP_S_MAX, END_S_MAX = 60.0, 60.0
ALONE = (
    "switchover",
    "replay",
    "transfer",
    "placement",
    "convergence",
    "sampling",
    "estimates",
)
"""Scripts that take some seconds and need no cluster, or one that is like no other's."""
DEMO = {
    "stun_ms": 20.5,
    "client_gap_ms": 60.0,
    "throughput_gbps": 8.0,
    "bytes_sent": 90_000_000,
    "stun_components_ms": {"freeze": 1.5, "scan": 2.5},
    "queries_asked": 80,
    "queries_lost": 0,
    "queries_doubled": 0,
    "answers_equal": True,
}
"""As ``godwit demo --json`` says it."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]


def clusters(folder: Path) -> list[Path]:
    return list(folder.glob("godwit-bench-*"))


def vmms(folder: Path) -> list[int]:
    """Those of the clusters below ``folder``."""
    pids = [pid for each in clusters(folder) for pid in left(each)]
    return [pid for pid in pids if process_tree.VMM_MODULE in command(pid)]


def left(folder: Path) -> list[int]:
    return sorted({*process_tree.find_processes(folder), *process_tree.find_services(folder)})


def command(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that leaves room for a socket's."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


async def test_nothing_is_left_of_a_bench_that_is_terminated(short: Path) -> None:
    words = [str(BENCH / "run_all.py"), "--quick", "--only", "guest_share", "--out", str(short)]
    environ = {**os.environ, "TMPDIR": str(short)}
    bench = await asyncio.create_subprocess_exec(sys.executable, *words, env=environ)
    try:
        async with asyncio.timeout(UP_S_MAX):
            while not vmms(short):
                assert bench.returncode is None, "it ended before its machine ran"
                await asyncio.sleep(0.02)
        (folder,) = clusters(short)
        bench.terminate()
        async with asyncio.timeout(END_S_MAX):
            assert await bench.wait() != 0
    finally:
        if bench.returncode is None:
            bench.send_signal(signal.SIGKILL)
            await bench.wait()
    assert left(folder) == []
    assert not clusters(short)


@pytest.mark.parametrize("name", ALONE)
def test_a_script_alone_ends_well_and_keeps_what_it_has_printed(name: str, tmp_path: Path) -> None:
    (job,) = (job for job in run_all.JOBS if job.name == name)
    assert run_all.run(job, tmp_path, quick=True).why == ""
    printed = (tmp_path / f"{name}.txt").read_text()
    kept = json.loads((tmp_path / f"{name}.json").read_text())
    if "script" in kept:
        assert kept["script"] == f"bench/{name}.py"
        assert records.markdown(kept) in printed
    assert len(printed.splitlines()) > 2
    assert kept


def test_the_demo_is_run_as_often_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    godwit, kept = tmp_path / "godwit", tmp_path / "demo.json"
    godwit.write_text(f"#!/bin/sh\necho '{json.dumps(DEMO)}'\n")
    godwit.chmod(0o755)
    monkeypatch.setattr(demo, "GODWIT", godwit)
    monkeypatch.setattr(sys, "argv", ["demo.py", "2", "--json", str(kept)])
    demo.main()
    printed = capsys.readouterr().out
    assert "160 questions, 0 lost, 0 answered twice" in printed
    assert "| stun, ms | 20.5 (20.5 - 20.5) | - | - | - | ≤ 50 | yes |" in printed
    rows = {row["measure"]: row["ours"] for row in json.loads(kept.read_text())["rows"]}
    assert rows["stun: scan"] == [2.5, 2.5]
    assert rows["longest gap a client saw"] == [60.0, 60.0]


def test_a_script_that_fails_is_named_in_its_table_and_in_the_summary(tmp_path: Path) -> None:
    (tmp_path / "nowhere.json").write_text("what an earlier run found")
    ran = [run_all.run(run_all.Job("nowhere"), tmp_path, quick=True), run_all.Ran("other", 2.0)]
    assert "No such file" in ran[0].why
    failed, other, _ = run_all.summary(ran).splitlines()
    assert "nowhere" in failed and "No such file" in failed
    assert "other" in other and "well" in other
    page = "<!-- bench: nowhere -->\nold\n<!-- end of bench -->"
    assert "bench/nowhere.py` failed when it was run last" in tables.renewed(page, tmp_path)
    assert tables.renewed(page, tmp_path, ["other"]) == page
