"""What does the switchover cost over the transfer of the pages, and how much of it is ours?

An idle machine is moved there and back on a real cluster. Each instant of a stun is put down to
what went on then: the transfer of the dirty pages, the compare-and-set, a flush of a journal, a
question to the VMM, or none of these, which is the link and our own handing over. The price is all
but the transfer. Before each move the bare costs are measured on the same disk and the same
loopback: a flushed append and overwrite, a publish that the server has flushed, a round trip.

    python bench/switchover.py [--moves 20] [--ram 256MiB] [--dir DIR] [--json FILE] [--timeline]

DIR should be on the disk that is meant: a tmpfs flushes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import ending

from godwit.cli.machine import make_spec, start_machine
from godwit.cli.migration import request_migration
from godwit.cli.progress import SilentDisplay, follow
from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import subjects
from godwit_protocol.events.migration import Limits, Verify
from godwit_protocol.projections import MigrationSummary

TARGET_MS = 3.0
HOSTS = ("host-1", "host-2")
MACHINE = "idle"
GUEST = "godwit.guests.memhog:Memhog"
PROBES = 5
"""Measurements of each bare cost before each move."""
RECORD_BYTES = 4096
SPANS_S_MAX = 10.0
KINDS = {"scan": "transfer", "send": "transfer", "cas": "cas", "journal": "journal", "vmm": "vmm"}
"""What a span counts as; at an instant with several, the first of these."""
REST = "link and handing over"
BARE_OF = {
    "cas": {"publish": 1.0},
    "journal": {"overwrite": 3.0},
    "vmm": {"round trip": 3.0},
    REST: {"round trip": 1.5},
}
"""What the switchover cannot do without: how often each bare cost. STAGED, GO and ACTIVATING are
flushed one after the other (FROZEN beside the transfer); Stage, Staged and Go are half a round trip
each; a pause, a load and the opening of the gate are a round trip to a VMM each."""

Span = dict[str, Any]


class BareCosts:
    """The same disk, loopback and server, without Godwit: blocking calls on one thread."""

    def __init__(self, directory: Path, nats_url: str) -> None:
        self._append = os.open(directory / "append", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._overwrite = os.open(directory / "overwrite", os.O_RDWR | os.O_CREAT)
        os.write(self._overwrite, bytes(RECORD_BYTES * 16 * 1024))
        os.fsync(self._overwrite)
        self._place = 0
        self._record = os.urandom(RECORD_BYTES)
        self._echo = _echo_server()
        self._nats = _BareNats(nats_url)

    def measure(self) -> dict[str, list[float]]:
        """Milliseconds, ``PROBES`` of each."""
        questions: dict[str, Callable[[], None]] = {
            "append": self._flushed_append,
            "overwrite": self._flushed_overwrite,
            "publish": self._nats.publish,
            "round trip": self._round_trip,
        }
        return {
            name: [_timed(question) for _ in range(PROBES)] for name, question in questions.items()
        }

    def _flushed_append(self) -> None:
        os.write(self._append, self._record)
        os.fdatasync(self._append)

    def _flushed_overwrite(self) -> None:
        os.pwrite(self._overwrite, self._record, self._place)
        os.fdatasync(self._overwrite)
        self._place += RECORD_BYTES

    def _round_trip(self) -> None:
        self._echo.sendall(b"x" * 64)
        self._echo.recv(64)


class _BareNats:
    """One publish at a time with the least that the server's protocol wants."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._sock = socket.create_connection((where.hostname, where.port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._subject = subjects.register(f"bare-{uuid4().hex[:8]}").encode()
        self._sock.recv(65536)
        self._sock.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nSUB bare 1\r\nPING\r\n')
        self._read_until(b"PONG\r\n")

    def publish(self) -> None:
        """As large as a register's record."""
        payload = b"x" * 200
        self._sock.sendall(b"PUB %b bare %d\r\n%b\r\n" % (self._subject, len(payload), payload))
        answer = self._read_until(b"}\r\n")
        assert b'"seq"' in answer, answer

    def _read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            piece = self._sock.recv(65536)
            assert piece, "the server hung up"
            data += piece
            if data.endswith(b"PING\r\n"):
                self._sock.sendall(b"PONG\r\n")
        return data


def _echo_server() -> socket.socket:
    """A peer in a process of its own that sends everything back."""
    listener = socket.create_server(("127.0.0.1", 0))
    if os.fork() == 0:
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := peer.recv(64):
            peer.sendall(data)
        os._exit(0)
    client = socket.create_connection(listener.getsockname())
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _timed(question: Callable[[], None]) -> float:
    before = time.perf_counter_ns()
    question()
    return (time.perf_counter_ns() - before) / 1e6


def what_went_on(spans: Sequence[Span], begin_ns: int, end_ns: int) -> dict[str, float]:
    """Milliseconds of the stun by kind; they add up to the stun."""
    inside = [span for span in spans if span["began_ns"] < end_ns and span["ended_ns"] > begin_ns]
    edges = {begin_ns, end_ns}
    edges |= {edge for span in inside for edge in (span["began_ns"], span["ended_ns"])}
    ordered = [edge for edge in sorted(edges) if begin_ns <= edge <= end_ns]
    found = dict.fromkeys([*KINDS.values(), REST], 0.0)
    for left, right in itertools.pairwise(ordered):
        active = {s["name"] for s in inside if s["began_ns"] <= left and s["ended_ns"] >= right}
        kind = next((kind for name, kind in KINDS.items() if name in active), REST)
        found[kind] += (right - left) / 1e6
    return found


async def moved(log: NatsLog, to: str) -> MigrationSummary:
    migration = await request_migration(log, MACHINE, to, Limits(), Verify.OFF)
    return await follow(log, migration, SilentDisplay(), wait_s=60.0)


async def spans_of(directory: Path, summary: MigrationSummary) -> list[Span]:
    """What both hosts' services did in the stun; they write it down when the migration is over."""
    marks = summary.marks
    files = [
        directory / f"{summary.source}-source_host.jsonl",
        directory / f"{summary.destination}-destination_host.jsonl",
    ]
    async with asyncio.timeout(SPANS_S_MAX):
        while True:
            found = [_read_spans(file) for file in files]
            if all(any(s["began_ns"] > marks.first_step_ns for s in each) for each in found):
                break
            await asyncio.sleep(0.05)
    return [
        {**span, "host": host}
        for host, each in zip(("source", "destination"), found, strict=True)
        for span in each
        if span["began_ns"] < marks.first_step_ns and span["ended_ns"] > marks.stopped_ns
    ]


def _read_spans(file: Path) -> list[Span]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


async def measure(moves: int, ram: str, directory: Path) -> dict[str, Any]:
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"SPANS_DIR": str(directory), "PYTHONPATH": os.pathsep.join(path)}
    result: dict[str, Any] = {"bare_ms": {}, "moves": []}
    async with await Cluster.start(directory / "cluster", launch_through=("spans",)) as cluster:
        log = await NatsLog.connect(cluster.nats_url, name="bench")
        bare = BareCosts(directory, cluster.nats_url)
        await start_machine(
            log, make_spec(MACHINE, GUEST, ram=ram, env=("GODWIT_MEMHOG_RATE=0",)), HOSTS[0]
        )
        for number in range(1, moves + 1):
            for name, times in bare.measure().items():
                result["bare_ms"].setdefault(name, []).extend(times)
            summary = await moved(log, HOSTS[number % 2])
            spans = await spans_of(directory, summary)
            result["moves"].append(_account(summary, spans))
        await log.close()
    return result


def _account(summary: MigrationSummary, spans: Sequence[Span]) -> dict[str, Any]:
    marks = summary.marks
    assert marks.stun_ns() is not None, f"the migration failed: {summary.message}"
    kinds = what_went_on(spans, marks.stopped_ns, marks.first_step_ns)
    stun_ms = (marks.first_step_ns - marks.stopped_ns) / 1e6
    return {
        "stun": stun_ms,
        "price": stun_ms - kinds["transfer"],
        "kinds": kinds,
        "components": {name: ns / 1e6 for name, ns in marks.components_ns().items()},
        "final_pages": summary.final_pages,
        "load_average": os.getloadavg()[0],
        "timeline": _timeline(spans, marks.stopped_ns),
    }


def _timeline(spans: Sequence[Span], begin_ns: int) -> list[str]:
    return [
        f"{(span['began_ns'] - begin_ns) / 1e6:8.3f} {(span['ended_ns'] - begin_ns) / 1e6:8.3f} ms"
        f"  {span['host']:12} {span['name']} {span['detail']}"
        for span in sorted(spans, key=lambda span: int(span["began_ns"]))
    ]


def _spread(values: Sequence[float]) -> dict[str, float]:
    ranked = sorted(values)
    return {
        "median": round(statistics.median(ranked), 3),
        "min": round(ranked[0], 3),
        "p90": round(ranked[int(0.9 * (len(ranked) - 1))], 3),
    }


def summarised(result: dict[str, Any]) -> dict[str, Any]:
    """Medians with their spread, and for each kind the bare cost that it cannot do without."""
    moves = result["moves"]
    bare = {name: _spread(times) for name, times in result["bare_ms"].items()}
    rows = {name: _spread([move[name] for move in moves]) for name in ("stun", "price")}
    for part in ("kinds", "components"):
        for name in moves[0][part]:
            rows[f"{part}: {name}"] = _spread([move[part][name] for move in moves])
    needed = {
        f"kinds: {kind}": round(
            sum(bare[name]["median"] * times for name, times in needs.items()), 3
        )
        for kind, needs in BARE_OF.items()
    }
    needed["price"] = sum(needed.values())
    return {"bare": bare, "rows": rows, "needed": needed}


def show(summary: dict[str, Any], moves: int, load: float) -> None:
    print(f"{moves} moves, load average {load:.1f}; ms")
    print(f"{'':34}{'median':>9}{'min':>9}{'p90':>9}{'bare':>9}{'ratio':>7}")
    for name, spread in summary["bare"].items():
        print(f"{'bare ' + name:34}" + "".join(f"{value:9.3f}" for value in spread.values()))
    for name, spread in summary["rows"].items():
        line = f"{name:34}" + "".join(f"{value:9.3f}" for value in spread.values())
        needs = summary["needed"].get(name)
        print(line + (f"{needs:9.3f}{spread['median'] / needs:7.2f}" if needs else ""))
    price = summary["rows"]["price"]["median"]
    print("target met" if price <= TARGET_MS else "TARGET MISSED", f"({TARGET_MS} ms)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--ram", default="256MiB")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--timeline", action="store_true", help="show the median move's")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="switchover-", dir=given.dir) as directory:
        result = ending.run(measure(given.moves, given.ram, Path(directory)))
    summary = summarised(result)
    if given.json:
        given.json.write_text(json.dumps({**summary, **result}, indent=2) + "\n")
    print(json.dumps(summary))
    if given.timeline:
        ranked = sorted(result["moves"], key=lambda move: float(move["price"]))
        print("\n".join(ranked[len(ranked) // 2]["timeline"]))
    load = statistics.median(move["load_average"] for move in result["moves"])
    show(summary, given.moves, load)


if __name__ == "__main__":
    main()
