"""A slowed guest: its steps are spaced as was asked, and it is itself again when nobody asks."""

import asyncio
import os
import struct
import time

from hypothesis import given
from hypothesis import strategies as st
from native_host import machine_spec

from godwit.hypervisor.native import stop_flag, vmm, wire
from godwit.hypervisor.native.guest_io import GuestIo
from godwit.hypervisor.native.slowing import WAIT_NS_MAX, Slowing

STEP_NS = 2_000_000
SLOWED_GAP_NS = 9 * STEP_NS
GUEST = """
import struct, time

class Pacing:
    '''Writes down the time between the end of a step and the next one's beginning.'''

    idle = False

    def boot(self, machine):
        self.ram, self.steps, self.ended_ns = machine.ram, 0, time.monotonic_ns()

    def step(self, requests):
        gap_ns = time.monotonic_ns() - self.ended_ns
        time.sleep(0.002)
        struct.pack_into("<Q", self.ram, 8 + 8 * self.steps, gap_ns)
        self.steps += 1
        struct.pack_into("<Q", self.ram, 0, self.steps)
        self.ended_ns = time.monotonic_ns()
        return [b""] * len(requests)

    def load(self, machine, checkpoint):
        raise AssertionError("it is never moved")

    def save(self):
        return b""
"""


class Gaps:
    """What the guest has written down."""

    def __init__(self, vmm, memory):
        self.vmm = vmm
        self.ram = memory["ram"].view

    def count(self):
        return struct.unpack_from("<Q", self.ram)[0]

    async def next(self, count):
        """The gaps of the next steps but the one under way."""
        first = self.count() + 1
        async with asyncio.timeout(30):
            while self.count() < first + count:
                await self.vmm.status()
        return struct.unpack_from(f"<{count}Q", self.ram, 8 + 8 * first)

    async def until_short(self):
        async with asyncio.timeout(30):
            while min(await self.next(5)) >= SLOWED_GAP_NS:
                pass


async def running(host):
    spec = machine_spec(guest="pacing.py:Pacing", guest_source=GUEST, vgpus=())
    vmm = await host.hypervisor.create(spec)
    await vmm.start(1)
    return vmm


async def test_steps_are_spaced_until_the_memory_is_let_go(host):
    vmm = await running(host)
    with await vmm.memory() as memory:
        gaps = Gaps(vmm, memory)
        outgoing = await vmm.outgoing()
        await outgoing.slow(90)
        assert min(await gaps.next(5)) >= SLOWED_GAP_NS
        await outgoing.slow(0)
        await gaps.until_short()
        await outgoing.slow(90)
        assert min(await gaps.next(5)) >= SLOWED_GAP_NS
        await outgoing.close()
        await gaps.until_short()


async def test_it_ends_by_itself_if_whoever_asked_is_gone(host):
    vmm = await running(host)
    with await vmm.memory() as memory:
        await vmm.slow(99, 0.5)
        await Gaps(vmm, memory).until_short()


async def test_a_slowed_machine_is_paused_at_once(host):
    vmm = await running(host)
    await vmm.slow(99, 60.0)
    with await vmm.memory() as memory:
        await Gaps(vmm, memory).next(1)
    await vmm.pause()
    await vmm.resume(1)


IDLE_GUEST = """
class Idle:
    idle = True

    def boot(self, machine):
        pass

    def step(self, requests):
        return [b""] * len(requests)

    def load(self, machine, checkpoint):
        pass

    def save(self):
        return b""
"""


class QuietIo(GuestIo):
    """No request ever comes; what wakes the VMM is the test."""

    def start(self):
        self._staying.cancel()
        super().start()

    def waiting(self):
        return False


def test_what_comes_for_an_idle_guest_waits_only_until_it_may_step(tmp_path, monkeypatch):
    monkeypatch.setattr(vmm, "GuestIo", QuietIo)
    spec = machine_spec(guest="idle.py:Idle", guest_source=IDLE_GUEST, vgpus=())
    with wire.listen(tmp_path / "vmm.sock") as listener:
        process = vmm.VmmProcess(wire.Spawn(spec, "nats://127.0.0.1:1"), listener)
        process._run(1)
        process._step()
        assert process._wait_s() == vmm.IDLE_S_MAX
        now_ns = time.monotonic_ns()
        process._slowing.ask(50, now_ns + 60 * 10**9)
        process._slowing.stepped(now_ns - 400_000_000, now_ns)
        os.eventfd_write(process._io.wake_fd, 1)
        process._server.poll(None)
        assert not process._may_step()
        assert process._wait_s() <= 0.4
        process._step()
        assert process._wait_s() == vmm.IDLE_S_MAX
        process._memory.close()


class StandingClock:
    """Of a VMM: it goes when it is told to."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def monotonic_ns(self) -> int:
        return self.now_ns


def test_a_guest_that_is_to_stand_still_is_looked_at_again_when_it_may_step(tmp_path, monkeypatch):
    """Not before: the turns between would take the processor from whoever is to send ``Pause``."""
    clock = StandingClock()
    monkeypatch.setattr(vmm, "time", clock)
    monkeypatch.setattr(stop_flag, "time", clock)
    monkeypatch.setattr(vmm, "GuestIo", QuietIo)
    spec = machine_spec(guest="idle.py:Idle", guest_source=IDLE_GUEST, vgpus=())
    with wire.listen(tmp_path / "vmm.sock") as listener:
        process = vmm.VmmProcess(wire.Spawn(spec, "nats://127.0.0.1:1"), listener)
        process._run(1)
        assert process._may_step()
        assert process._wait_s() == 0
        process._stop_flag.up()
        for left_ns in (stop_flag.STANDS_NS_MAX, 1):
            clock.now_ns = 10**12 + stop_flag.STANDS_NS_MAX - left_ns
            assert not process._may_step()
            assert process._wait_s() == left_ns / 1e9
        clock.now_ns += 1
        assert process._may_step()
        assert process._wait_s() == 0
        process._memory.close()


@given(st.integers(-5, 120), st.integers(0, 10**12), st.integers(0, 10**10), st.integers(0, 10**12))
def test_no_wait_is_longer_than_its_share_or_its_lease(percent, until_ns, took_ns, ended_ns):
    slowing = Slowing()
    slowing.ask(percent, until_ns)
    slowing.stepped(ended_ns - took_ns, ended_ns)
    wait_ns = slowing.wait_ns(ended_ns)
    assert 0 <= wait_ns <= min(max(until_ns - ended_ns, 0), WAIT_NS_MAX)
    if percent <= 0:
        assert wait_ns == 0
    if percent == 50 and took_ns < WAIT_NS_MAX < until_ns - ended_ns:
        assert wait_ns == took_ns
    slowing.ask(0, until_ns)
    assert slowing.wait_ns(ended_ns) == 0
