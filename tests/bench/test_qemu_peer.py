"""What QEMU's monitor says is read as it is meant: recorded of QEMU 7.2 (``qmp/``)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import qemu_peer
from qemu_peer import PAGE_BYTES, Qemu

RECORDED = Path(__file__).parent / "qmp"
STOPPED_S, RESUMED_S = 1795470090.299951, 1795470090.305548
REFUSED = '{"error": {"class": "CommandNotFound", "desc": "The command has not been found"}}\n'
FAILED = '{"return": {"status": "failed"}}\n'


def recorded(name: str) -> list[str]:
    return (RECORDED / f"{name}.ndjson").read_text().splitlines(keepends=True)


@contextmanager
def monitor(folder: Path, lines: Sequence[str]) -> Iterator[Qemu]:
    """Somebody who greets and then, at each command, says the lines up to the next answer."""
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "monitor"))
        server.listen()
        playing = threading.Thread(target=play, args=(server, list(lines)))
        playing.start()
        qemu = Qemu(folder)
        try:
            yield qemu
        finally:
            qemu.close()
            playing.join()


def play(server: socket.socket, lines: list[str]) -> None:
    sock, _ = server.accept()
    with sock:
        sock.sendall(lines.pop(0).encode())
        while lines and sock.recv(1 << 16):
            while lines:
                line = lines.pop(0)
                sock.sendall(line.encode())
                if not {"return", "error"}.isdisjoint(json.loads(line)):
                    break


class Clock:
    """Waiting takes no time, and is counted."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_peer, "time", Clock())


def test_a_migration_is_told_by_both_sides_events_and_the_sources_figures(tmp_path: Path) -> None:
    with (
        monitor(tmp_path / "source", recorded("source")) as source,
        monitor(tmp_path / "destination", recorded("destination")) as destination,
    ):
        assert source.written_bytes_per_second() == (0x1293 - 0x5F) * PAGE_BYTES
        destination.ask("migrate-incoming", uri="tcp:127.0.0.1:1")
        source.ask("migrate-set-parameters")
        source.ask("migrate", uri="tcp:127.0.0.1:1")
        found = qemu_peer.followed(source, destination, 4e6)
    ram = json.loads(recorded("source")[-3])["return"]["ram"]
    assert found.stun_ms == pytest.approx((RESUMED_S - STOPPED_S) * 1e3)
    assert (found.downtime_ms, found.total_s, found.rounds) == (5, 0.152, 3)
    assert found.bytes_per_second == pytest.approx(ram["transferred"] / (0.152 - 0.005))
    assert found.written_bytes_per_second == 4e6


def test_a_command_that_is_refused_is_named(tmp_path: Path) -> None:
    lines = [*recorded("source")[:2], REFUSED]
    with (
        monitor(tmp_path / "source", lines) as source,
        pytest.raises(RuntimeError, match=r"migrate: .*has not been found"),
    ):
        source.ask("migrate")


def test_a_migration_that_failed_is_not_waited_for(tmp_path: Path) -> None:
    lines = [*recorded("source")[:2], FAILED]
    with (
        monitor(tmp_path / "source", lines) as source,
        pytest.raises(RuntimeError, match="did not complete"),
    ):
        qemu_peer.followed(source, source, 0.0)
