"""A look at what a running machine writes: each page once, and never in a migration's way."""

import asyncio
import errno
import gc
import weakref

import pytest
from native_host import machine_spec

from godwit.hypervisor.native import tracking_lease
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.native.tracking_lease import TrackingLease, times_taken
from godwit.hypervisor.port import VmmState, Watchable
from godwit_protocol.errors import ConflictError, DeadlineError, UnreachableError
from godwit_protocol.machine import PAGE_BYTES

FRAMEBUFFER = "vgpu0.framebuffer"


async def running(host):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    return vmm


async def write(client, *pages):
    for page in pages:
        await client.ask(f"stamp 1 {page} 7")


async def test_a_watch_counts_each_page_once(host, client):
    vmm = await running(host)
    assert isinstance(vmm, Watchable)
    await write(client, 1, 2, 700)
    watch = await vmm.watch()
    held = await watch.begin()
    assert held.bytes_by_region[FRAMEBUFFER] == 3 * PAGE_BYTES
    assert (await watch.look()).bytes_by_region[FRAMEBUFFER] == 0
    await write(client, 2, 2, 3, 9000, 2)
    first, second = await watch.look(), await watch.look()
    assert (
        first.bytes_by_region[FRAMEBUFFER] == 3 * PAGE_BYTES == second.bytes_by_region[FRAMEBUFFER]
    )
    assert held.at_ns < first.at_ns < second.at_ns
    await watch.close()
    await watch.close()


async def test_a_migration_goes_before_a_watch(host, client):
    vmm = await running(host)
    watch = await vmm.watch()
    await watch.begin()
    outgoing = await vmm.outgoing()
    with pytest.raises(ConflictError):
        await watch.look()
    with pytest.raises(ConflictError):
        await watch.begin()
    await outgoing.close()
    with pytest.raises(ConflictError):
        await watch.look()  # it may have reset what this watch counts
    await watch.begin()
    assert (await watch.look()).bytes_by_region[FRAMEBUFFER] == 0
    await watch.close()


async def test_a_look_that_fails_keeps_no_handle(host, client):
    """One would keep its socket until Python's collector came by."""
    vmm = await running(host)
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    gc.disable()
    try:
        # A thread of the pool lets go of its last job a moment after that is done.
        handle = await looked_in_vain(host, lambda _: loop.call_soon_threadsafe(gone.set))
        async with asyncio.timeout(10):
            await gone.wait()
        assert handle() is None
    finally:
        gc.enable()
    assert (await vmm.status()).state is VmmState.RUNNING


async def looked_in_vain(host, when_gone):
    """A migration takes the lease during a look. Returns what is left of the handle."""
    (vmm,) = await host.hypervisor.find_all()
    handle = weakref.ref(vmm, when_gone)
    watch = await vmm.watch()
    await watch.begin()
    outgoing = await vmm.outgoing()
    try:
        await watch.look()
    except ConflictError:
        await watch.close()
    await outgoing.close()
    return handle


async def test_the_watch_of_a_dead_machine_says_so(host, client):
    vmm = await running(host)
    watch = await vmm.watch()
    await watch.begin()
    await vmm.stop()
    with pytest.raises(UnreachableError):
        await watch.look()
    await watch.close()


async def test_one_at_a_time_holds_the_lease(tmp_path, monkeypatch):
    folder = MachineFolder(tmp_path)
    assert times_taken(folder) == 0
    first = await TrackingLease.take(folder)
    assert TrackingLease.try_take(folder) is None
    waiting = asyncio.create_task(TrackingLease.take(folder))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.release()
    first.release()
    second = await waiting
    assert (first.number, second.number, times_taken(folder)) == (1, 2, 2)
    monkeypatch.setattr(tracking_lease, "TAKE_S_MAX", 0.01)
    with pytest.raises(DeadlineError):
        await TrackingLease.take(folder)
    second.release()


def test_a_lease_that_cannot_be_written_is_not_left_locked(tmp_path, monkeypatch):
    folder = MachineFolder(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(tracking_lease.os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            TrackingLease.try_take(folder)
    lease = TrackingLease.try_take(folder)
    assert lease is not None
    lease.release()
