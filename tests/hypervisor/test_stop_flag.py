"""The flag in shared memory: what it stops, for how long, and that nothing hangs on it."""

import os
import threading
import time

import pytest
from native_host import machine_spec

from godwit.hypervisor.native import wire
from godwit.hypervisor.native.stop_flag import STANDS_NS_MAX, WANTED_NS_MAX, StopFlag

A_MINUTE_NS = 60_000_000_000


@pytest.fixture
def flag():
    flag, fd = StopFlag.allocate()
    flag.theirs = StopFlag(fd)  # as another process maps it
    return flag


def test_one_that_was_never_raised_stops_nobody(flag):
    assert not flag.is_wanted
    assert flag.stands_ns(time.monotonic_ns()) == 0


def test_who_maps_it_elsewhere_raises_and_lowers_it(flag):
    flag.theirs.up()
    assert flag.is_wanted
    assert flag.stands_ns(time.monotonic_ns()) > 0
    flag.theirs.down()
    assert not flag.is_wanted
    assert flag.stands_ns(time.monotonic_ns()) == 0


def test_it_is_good_for_a_time_only(flag, monkeypatch):
    monkeypatch.setattr(time, "monotonic_ns", lambda: A_MINUTE_NS)
    flag.up()
    assert flag.stands_ns(A_MINUTE_NS) == STANDS_NS_MAX
    assert flag.stands_ns(A_MINUTE_NS + STANDS_NS_MAX - 1) == 1
    assert flag.stands_ns(0) == STANDS_NS_MAX, "whatever the word says"
    monkeypatch.setattr(time, "monotonic_ns", lambda: A_MINUTE_NS + WANTED_NS_MAX - 1)
    assert flag.is_wanted
    monkeypatch.setattr(time, "monotonic_ns", lambda: A_MINUTE_NS + WANTED_NS_MAX)
    assert not flag.is_wanted


def test_the_vmm_lowers_one_that_is_too_old(flag, monkeypatch):
    monkeypatch.setattr(time, "monotonic_ns", lambda: A_MINUTE_NS)
    flag.up()
    assert flag.stands_ns(A_MINUTE_NS + STANDS_NS_MAX) == 0
    assert not flag.theirs.is_wanted


async def busy(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await client.ask("idle 0")
    return vmm


async def flag_of(vmm):
    _, fds = await vmm._channel.ask_with_fds(wire.GetStopFlag(), wire.Done, 10)
    return StopFlag(*fds)


class RaisedAgainAndAgain(threading.Thread):
    """So that no time runs out, however slow the machine is that tests."""

    def __init__(self, flag):
        super().__init__()
        self._flag = flag
        self._is_over = threading.Event()

    def run(self):
        while not self._is_over.wait(STANDS_NS_MAX / 1e9 / 50):
            self._flag.up()

    def __enter__(self):
        self._flag.up()
        self.start()

    def __exit__(self, *_):
        self._is_over.set()
        self.join()


async def stepped_since(vmm, steps):
    while (await vmm.status()).steps <= steps:
        pass


async def test_a_busy_guest_stands_still_between_two_steps_until_the_command_comes(host, client):
    vmm = await busy(host, client)
    flag = await flag_of(vmm)
    with RaisedAgainAndAgain(flag):
        stood = (await vmm.status()).steps
        for _ in range(20):
            assert (await vmm.status()).steps == stood
    await vmm.pause()
    assert not flag.is_wanted
    await vmm.resume(1)
    await stepped_since(vmm, stood)


async def test_a_guest_goes_on_by_itself_if_whoever_raised_the_flag_has_died(host, client):
    vmm = await busy(host, client)
    flag = await flag_of(vmm)
    flag.up()
    await stepped_since(vmm, (await vmm.status()).steps)
    assert not flag.is_wanted, "it would end every long step early, for nobody"


async def test_one_that_was_raised_while_the_machine_stood_holds_up_nothing_afterwards(
    host, client
):
    vmm = await busy(host, client)
    flag = await flag_of(vmm)
    await vmm.pause()
    flag.up()
    await vmm.resume(1)
    assert not flag.is_wanted


async def test_who_maps_it_cannot_take_its_page_from_the_vmm(host, client):
    vmm = await busy(host, client)
    _, fds = await vmm._channel.ask_with_fds(wire.GetStopFlag(), wire.Done, 10)
    with pytest.raises(PermissionError):
        os.ftruncate(fds[0], 0)
    os.close(fds[0])


async def test_a_guest_that_looks_at_it_ends_a_long_step_early(host, client):
    vmm = await busy(host, client)
    outgoing = await vmm.outgoing()
    memory = await vmm.memory()
    identity, _ = await client.send("work")
    while not memory["ram"].pages[1, 0]:
        pass
    checkpoint = await vmm.pause()
    assert checkpoint.data
    await outgoing.close()
    memory.close()
    await vmm.resume(1)
    await client.ask("count")
    assert dict(await client.replies())[identity] == b"stopped"


async def test_a_vmm_of_a_version_without_it_is_stopped_by_the_command(host, client, monkeypatch):
    class Unheard(wire.Message, frozen=True):
        """What no VMM knows."""

    vmm = await busy(host, client)
    monkeypatch.setattr(wire, "GetStopFlag", Unheard)
    outgoing = await vmm.outgoing()
    await vmm.pause()
    await outgoing.close()
