"""How the bench's peers get here and what they are asked, with programs that only tell of it."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import peers
import pytest

APT_GET = """#!/bin/sh
echo "$DEBIAN_FRONTEND: $*" >> {log}
case "$*" in *install*) ;; *) exit ;; esac
for program in {brings}; do
  : > {bin}/$program
  /bin/chmod +x {bin}/$program
done
"""
SETPRIV = """#!/bin/sh
echo "$*" >> {log}
shift 2
exec "$@"
"""
IPERF3 = """#!{python}
import json, signal, socket, sys
port = int(sys.argv[sys.argv.index("-p") + 1])
if "-s" in sys.argv:
    server = socket.create_server(("127.0.0.1", port))
    signal.pause()
assert {{"-Z", "-J", "-t", "3"}} <= set(sys.argv)
print(json.dumps({{"end": {{"sum_received": {{"bits_per_second": 16e9}}}}}}))
"""


class Programs:
    """A folder that is all of PATH."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self._log = folder / "log"

    def add(self, name: str, text: str = "#!/bin/sh\n", **words: str) -> None:
        named = {"log": self._log, "bin": self.bin, "python": sys.executable, **words}
        (self.bin / name).write_text(text.format(**named))
        (self.bin / name).chmod(0o755)

    def asked(self) -> list[str]:
        """What those that tell of it were given, one after the other."""
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    found = Programs(tmp_path)
    monkeypatch.setenv("PATH", str(found.bin))
    monkeypatch.delenv("DEBIAN_FRONTEND", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return found


def test_what_is_missing_is_installed_as_root_and_nothing_is_asked(programs: Programs) -> None:
    programs.add("apt-get", APT_GET, brings="iperf3 qemu-system-x86_64")
    assert peers.missing() == ["iperf3", "qemu-system-x86_64"]
    assert peers.install() == []
    update, install = programs.asked()
    assert update == "noninteractive: -o DPkg::Lock::Timeout=300 -qq update"
    assert install.endswith("install -y --no-install-recommends iperf3 qemu-system-x86")


def test_only_what_is_missing_is_installed(programs: Programs) -> None:
    programs.add("apt-get", APT_GET, brings="qemu-system-x86_64")
    programs.add("iperf3")
    assert peers.install() == []
    assert programs.asked()[-1].endswith("--no-install-recommends qemu-system-x86")
    asked = programs.asked()
    assert peers.install() == []
    assert programs.asked() == asked


def test_what_could_not_be_installed_is_said(programs: Programs) -> None:
    programs.add("apt-get", APT_GET, brings="iperf3")
    assert peers.install() == ["qemu-system-x86_64: apt-get could not install qemu-system-x86"]


@pytest.mark.parametrize(("user", "has_apt"), [(1000, True), (0, False)])
def test_without_root_or_apt_an_operator_is_told_what_to_install(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, user: int, has_apt: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if has_apt:
        programs.add("apt-get", APT_GET, brings="")
    (told,) = peers.install()
    assert told.endswith("as root, apt-get install iperf3 qemu-system-x86")
    assert programs.asked() == []


def test_iperf3_sends_without_copies_to_a_server_that_does_not_outlive_us(
    programs: Programs,
) -> None:
    programs.add("setpriv", SETPRIV)
    programs.add("iperf3", IPERF3)
    assert peers.iperf3_bytes_per_second(3) == 2e9
    (server,) = programs.asked()
    assert server.startswith("--pdeathsig KILL iperf3 -s -1 -p ")
    assert server.endswith(" -B 127.0.0.1")


def dies(_commands: Connection, _size_bytes: int) -> None:
    sys.exit(7)


def says_nothing(_commands: Connection, _size_bytes: int) -> None:
    signal.pause()


def test_a_bare_loop_whose_other_process_dies_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "_receive", dies)
    with (
        peers.bare_loop(peers.CHUNK_BYTES) as loop,
        pytest.raises(RuntimeError, match="receiver has ended: 7"),
    ):
        loop.bytes_per_second()


def test_a_bare_loop_whose_other_process_says_nothing_is_given_up_and_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "_receive", says_nothing)
    monkeypatch.setattr(peers, "ANSWER_S_MAX", 0.0)
    with (
        peers.bare_loop(peers.CHUNK_BYTES) as loop,
        pytest.raises(TimeoutError, match="says nothing"),
    ):
        loop.bytes_per_second()
    assert not loop._receiver.is_alive()


def test_a_bare_loop_moves_what_it_is_given_again_and_again() -> None:
    with peers.bare_loop(peers.CHUNK_BYTES + 1) as loop:
        assert loop.bytes_per_second() > 0
        assert loop.bytes_per_second() > 0
    assert loop._receiver.exitcode == 0
