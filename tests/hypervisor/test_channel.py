"""A VMM is asked without a turn of the event loop where a stun waits for its answer."""

import asyncio
import os
import socket
import threading
from pathlib import Path

import pytest

from godwit.hypervisor.native import channel, wire
from godwit.hypervisor.native.memory import MachineMemory
from godwit_protocol.errors import RefusedError
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

RUNNING = wire.Running(began_ns=7)


def vmm_at(path, may_answer):
    """A VMM that answers one question, once it may."""
    listener = wire.listen(path)
    listener.setblocking(True)

    def serve():
        connection, _ = listener.accept()
        connection.setblocking(True)
        connection.recv(2**16)
        assert may_answer.wait(10)
        connection.sendall(wire.frame(RUNNING))
        connection.recv(1)
        connection.close()
        listener.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


async def asked(path, turns, may_answer):
    vmm, loop = channel.Channel(path), asyncio.get_running_loop()

    def turn():
        turns.append(loop.time())
        may_answer.set()

    loop.call_later(0.01, turn)
    try:
        return await vmm.ask(wire.OpenGate(1), wire.Running, 10.0, at_once=True)
    finally:
        vmm.close()


async def test_an_answer_that_comes_at_once_is_taken_without_a_turn_of_the_loop(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(channel, "AT_ONCE_MS", 10_000)  # however busy this machine is
    turns, may_answer = [], threading.Event()
    may_answer.set()
    vmm = vmm_at(tmp_path / "socket", may_answer)
    asyncio.get_running_loop().call_soon(turns.append, 0.0)
    assert await asked(tmp_path / "socket", turns, may_answer) == RUNNING
    vmm.join()
    assert turns == []


async def test_the_loop_goes_on_while_a_vmm_takes_its_time(tmp_path):
    turns, may_answer = [], threading.Event()
    vmm = vmm_at(tmp_path / "socket", may_answer)
    assert await asked(tmp_path / "socket", turns, may_answer) == RUNNING
    vmm.join()
    assert len(turns) == 1


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_descriptors_that_do_not_all_come_are_refused_and_none_stays_open(tmp_path):
    listener = wire.listen(tmp_path / "socket")
    listener.setblocking(True)

    def serve():
        connection, _ = listener.accept()
        with connection, (tmp_path / "file").open("wb") as file:
            connection.setblocking(True)
            connection.recv(2**16)
            answer = wire.frame(wire.Regions(()))
            socket.send_fds(connection, [answer], [file.fileno()] * (wire.FDS_MAX + 1))

    thread = threading.Thread(target=serve)
    thread.start()
    vmm = channel.Channel(tmp_path / "socket")
    before = open_files()
    with pytest.raises(RefusedError, match="did not all come"):
        await vmm.ask_with_fds(wire.GetRegions(), wire.Regions, 10.0)
    thread.join()
    assert open_files() == before
    listener.close()


def test_memory_that_cannot_be_adopted_leaves_no_descriptor_open():
    specs = [RegionSpec("ram", PAGE_BYTES), RegionSpec("vgpu0.framebuffer", PAGE_BYTES)]
    before = open_files()
    fds = [os.memfd_create("region") for _ in range(3)]
    for fd in fds:
        os.ftruncate(fd, PAGE_BYTES)
    with pytest.raises(ValueError, match="longer"):
        MachineMemory.adopt(specs, fds, [0, 0])
    assert open_files() == before
