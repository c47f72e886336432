"""What a fencing program must say, and what is not proof."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from godwit.host import peer_fence
from godwit.host.facts import FactWriter
from godwit.host.fencing import CommandFencing, NoFencing, NotFencedError, Proof, fencing_of
from godwit_protocol.errors import UnreachableError
from godwit_protocol.events import Event
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.effects import Address, Durability, Service

TEST_S_MAX = 40


def program(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "fence"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


async def test_exit_status_0_and_the_line_that_names_the_host_are_proof(tmp_path: Path) -> None:
    path = program(tmp_path, 'echo asking the controller of "$2"; echo "powered-off $2"')
    fencing = fencing_of([str(path), "--bmc"])
    assert not fencing.needs_operator
    proof = await fencing.prove_off("host-2")
    assert proof == Proof(program=str(path), answer="powered-off host-2")


@pytest.mark.parametrize(
    "body",
    [
        'echo "powered-off $1"; exit 1',
        "echo powered-off host-1",
        "echo powered-off",
        'echo "not powered-off $1"',
        'echo "powered-off $1" >&2',
        'echo "powered-off $1"; head -c 100000 /dev/zero',
        'echo "powered-off $1"; kill -KILL $$',
        "true",
    ],
)
async def test_nothing_else_is_proof(tmp_path: Path, body: str) -> None:
    fencing = CommandFencing([str(program(tmp_path, body))])
    with pytest.raises(NotFencedError) as refused:
        await fencing.prove_off("host-2", vouched_by="somebody")
    assert "powered-off host-2" in refused.value.hint


async def test_a_program_that_cannot_be_run_proves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFencedError, match="cannot be run"):
        await CommandFencing([str(tmp_path / "none")]).prove_off("host-2")


async def test_at_the_deadline_the_program_is_killed_with_all_that_it_started(
    tmp_path: Path,
) -> None:
    noted = tmp_path / "pid"
    path = program(tmp_path, f"sleep 100 & echo $! > {noted}; echo powered-off host-2; sleep 100")
    async with asyncio.timeout(TEST_S_MAX):
        with pytest.raises(NotFencedError, match="did not answer"):
            await CommandFencing([str(path)], timeout_s=2).prove_off("host-2")
        await until_gone(int(noted.read_text()))


async def test_who_waits_no_more_leaves_no_program_behind(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    os.mkfifo(told)
    path = program(tmp_path, f"echo $$ > {told}; sleep 100")
    asking = asyncio.create_task(CommandFencing([str(path)]).prove_off("host-2"))
    async with asyncio.timeout(TEST_S_MAX):
        pid = int(await asyncio.to_thread(told.read_text))
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled()
        await until_gone(pid)


async def until_gone(pid: int) -> None:
    """Until it has ended; a child of a killed program is reaped by whoever adopts it."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(process, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process)
        os.close(process)


async def test_without_a_program_only_an_operators_word_is_proof() -> None:
    fencing = fencing_of([])
    assert isinstance(fencing, NoFencing)
    assert fencing.needs_operator
    with pytest.raises(NotFencedError, match="nothing proves that host-2"):
        await fencing.prove_off("host-2")
    assert await fencing.prove_off("host-2", vouched_by="ada@desk") == Proof(vouched_by="ada@desk")


class LogThatIsAway:
    """``FactWriter``, of a host whose events wait for the log."""

    def __init__(self) -> None:
        self.written: list[Event] = []
        self.stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def write(self, event: Event, _durability: Durability, _to: Address) -> asyncio.Future[bool]:
        self.written.append(event)
        return self.stored


class SlowFencing:
    """``Fencing`` that takes until it may."""

    needs_operator = False

    def __init__(self) -> None:
        self.asked = 0
        self.may_end = asyncio.Event()

    async def prove_off(self, host: str, vouched_by: str = "") -> Proof:
        self.asked += 1
        await self.may_end.wait()
        return Proof(program="/fence", answer=f"powered-off {host}", vouched_by=vouched_by)


async def test_an_order_does_not_fence_a_host_that_is_being_fenced() -> None:
    fencing, log, told = SlowFencing(), LogThatIsAway(), []
    own = Address("host-1", Service.SOURCE_HOST)
    fence = peer_fence.PeerFence(fencing, cast(FactWriter, log), own, "host-2", told.append)
    log.stored.set_result(True)
    proofs = [asyncio.create_task(fence.prove(by)) for by in ("", "ada@desk")]
    await until(lambda: bool(fencing.asked))
    fencing.may_end.set()
    await asyncio.gather(*proofs)
    assert (fencing.asked, len(log.written), len(told)) == (1, 1, 2)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_host_is_fenced_once_however_long_the_log_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_fence, "LOG_S_MAX", 0.01)
    noted = tmp_path / "asked"
    fencing = CommandFencing([str(program(tmp_path, f"echo >> {noted}; echo powered-off $1"))])
    log, told = LogThatIsAway(), []
    own = Address("host-1", Service.SOURCE_HOST)
    fence = peer_fence.PeerFence(fencing, cast(FactWriter, log), own, "host-2", told.append)
    for _ in range(2):
        with pytest.raises(UnreachableError):
            await fence.prove()
    log.stored.set_result(True)
    await fence.prove()
    assert (len(log.written), noted.read_text(), told) == (1, "\n", [inp.PeerFenced()])
