"""What a host holds for an arriving machine: real machines' memory, and files below a directory."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from godwit.content.holding import CHUNK_BYTES, Holding
from godwit.content.shelf import CANDIDATES_MAX, FRESH_S, Shelf
from godwit.content.store import ContentStore
from godwit.hypervisor.native.memory import MachineMemory
from godwit.hypervisor.port import VmmState, VmmStatus
from godwit.transfer.digest import chunk_digest
from godwit_protocol.errors import InvalidInputError, UnreachableError
from godwit_protocol.machine import MachineSpec

CHUNKS = 4
WAIT_S = 5.0


def spec(name: str, tenant: str = "default") -> MachineSpec:
    return MachineSpec(name=name, guest="g:G", ram_bytes=CHUNKS * CHUNK_BYTES, tenant=tenant)


class OneVmm:
    """A machine of this host: its memory is real, the guest is this test."""

    def __init__(self, its_spec: MachineSpec, state: VmmState = VmmState.RUNNING) -> None:
        self.spec, self.state = its_spec, state
        self.memory = MachineMemory.allocate(its_spec.regions())
        self.dead = False

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def fd(self) -> int:
        return self.memory.regions[0].fd

    def write(self, chunk: int, seed: int) -> bytes:
        content = np.random.default_rng(seed).bytes(CHUNK_BYTES)
        self.memory.regions[0].view[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES] = content
        return content

    async def status(self) -> VmmStatus:
        if self.dead:
            raise UnreachableError("it is dead")
        return VmmStatus(self.spec, self.state, 1, 1, 0, "")

    async def region_files(self) -> list[int]:
        return [os.dup(region.fd) for region in self.memory.regions]


class Hypervisor:
    """Of these machines."""

    def __init__(self, *vmms: OneVmm) -> None:
        self.vmms = vmms

    async def find_all(self) -> tuple[OneVmm, ...]:
        return self.vmms


def store_of(*vmms: OneVmm, directory: Path | None = None, enabled: bool = True) -> ContentStore:
    return ContentStore(Hypervisor(*vmms), directory, enabled=enabled)  # type: ignore[arg-type]


async def stocked(store: ContentStore, tenant: str = "default") -> Shelf:
    shelf = store.shelf_for(spec("arriving", tenant))
    assert shelf is not None
    await shelf.stocked(2**30)
    return shelf


async def has(store: ContentStore, content: bytes, tenant: str = "default") -> bool:
    """Whether an arriving machine of the tenant is given this content, and rightly."""
    shelf = await stocked(store, tenant)
    place = bytearray(CHUNK_BYTES)
    given = shelf.fill(chunk_digest(content), memoryview(place))
    await shelf.close()
    assert not given or place == content
    return given


async def test_a_machine_that_runs_here_is_filled_from_at_any_place() -> None:
    vmm = OneVmm(spec("other"))
    content = vmm.write(3, seed=1)
    assert await has(store_of(vmm), content)
    assert not await has(store_of(vmm), content[1:] + content[:1])
    assert os.fstat(vmm.fd).st_blocks * 512 == CHUNK_BYTES, "its holes are holes still"


@pytest.mark.parametrize("state", [VmmState.GATED, VmmState.LOADED, VmmState.FAILED])
async def test_a_machine_that_does_not_run_is_not(state: VmmState) -> None:
    vmm = OneVmm(spec("other"), state)
    content = vmm.write(0, seed=1)
    assert not await has(store_of(vmm), content)


async def test_content_is_shared_within_a_tenant_only() -> None:
    theirs, ours = OneVmm(spec("theirs", "acme")), OneVmm(spec("ours", "globex"))
    their_content, our_content = theirs.write(0, seed=1), ours.write(0, seed=2)
    store = store_of(theirs, ours)
    assert await has(store, their_content, "acme")
    assert not await has(store, our_content, "acme"), "also when another arrival has learnt it"
    assert await has(store, our_content, "globex")
    assert not await has(store, their_content, "globex")


async def test_what_was_written_since_it_was_digested_is_not_given() -> None:
    """The digest that is known is old: what was filled is digested itself."""
    vmm = OneVmm(spec("other"))
    before = vmm.write(0, seed=1)
    shelf = await stocked(store_of(vmm))
    vmm.memory.regions[0].view[CHUNK_BYTES - 1] ^= 1
    assert not shelf.fill(chunk_digest(before), memoryview(bytearray(CHUNK_BYTES)))
    await shelf.close()


async def test_what_is_known_for_long_is_learnt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    vmm = OneVmm(spec("other"))
    store = store_of(vmm)
    assert await has(store, vmm.write(0, seed=1))
    again = vmm.write(0, seed=2)
    assert not await has(store, again)
    assert await has(store, vmm.write(1, seed=3)), "what is new is learnt at once"
    monkeypatch.setattr("godwit.content.shelf.FRESH_S", -FRESH_S)
    shelf = store.shelf_for(spec("arriving"))
    assert shelf is not None
    await asyncio.wait({shelf._stocking})  # an arrival that comes at once would break it off
    assert await shelf.stocked(0)
    assert shelf.fill(chunk_digest(again), memoryview(bytearray(CHUNK_BYTES)))
    await shelf.close()


async def test_an_arrival_waits_no_longer_than_it_may_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known is given at once; what is not known yet is for the next one."""
    vmm = OneVmm(spec("other"))
    store = store_of(vmm)
    known = vmm.write(0, seed=1)
    with monkeypatch.context() as hurry:
        hurry.setattr("godwit.content.shelf.WAIT_S_MAX", 0.0)
        assert not await has(store, known)
    assert await has(store, known)
    unknown = vmm.write(2, seed=3)
    monkeypatch.setattr("godwit.content.shelf.WAIT_S_MAX", 0.0)
    assert await has(store, known)
    assert not await has(store, unknown)


async def test_a_dead_machine_and_a_store_that_is_switched_off_hold_nothing() -> None:
    dead, alive = OneVmm(spec("dead")), OneVmm(spec("alive"))
    dead.write(0, seed=1)
    content = alive.write(0, seed=2)
    dead.dead = True
    assert await has(store_of(dead, alive), content)
    assert store_of(alive, enabled=False).shelf_for(spec("arriving")) is None


async def test_a_machine_is_not_filled_from_itself() -> None:
    vmm = OneVmm(spec("arriving"))
    assert not await has(store_of(vmm), vmm.write(0, seed=1))


async def test_no_file_is_open_once_the_shelf_is_closed() -> None:
    """An open one would keep the memory of a machine that has gone."""
    vmm = OneVmm(spec("other"))
    vmm.write(0, seed=1)
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    shelf = await stocked(store_of(vmm))
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1  # noqa: PTH208
    await shelf.close()
    await shelf.close()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert not shelf.fill(chunk_digest(vmm.write(0, seed=1)), memoryview(bytearray(CHUNK_BYTES)))


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_what_is_closed_does_not_hold_up_the_service(
    monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    """The memory of a machine that has ended goes with its last descriptor. All are closed, also
    if who closes them is cancelled meanwhile.
    """
    shelf = await stocked(store_of(OneVmm(spec("other")), OneVmm(spec("another"))))
    begun, may_end, closed, close = (
        asyncio.Event(),
        threading.Event(),
        threading.Semaphore(0),
        os.close,
    )
    loop = asyncio.get_running_loop()

    def slow(fd: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert may_end.wait(WAIT_S)
        close(fd)
        closed.release()

    monkeypatch.setattr("godwit.content.shelf.os.close", slow)
    closing = asyncio.create_task(shelf.close())
    await begun.wait()
    if is_cancelled:
        closing.cancel()
    may_end.set()
    await asyncio.wait({closing})
    assert closing.cancelled() == is_cancelled
    for _ in range(2):
        assert await asyncio.to_thread(closed.acquire, timeout=WAIT_S)


async def test_files_are_every_tenants_and_those_in_a_folder_its_own(tmp_path: Path) -> None:
    """Their last bytes that make no chunk are none; a file that is written anew is read anew."""
    common, own, later = (np.random.default_rng(seed).bytes(CHUNK_BYTES) for seed in (1, 2, 3))
    (tmp_path / "acme").mkdir()
    (tmp_path / "model.bin").write_bytes(common + b"end")
    (tmp_path / "acme" / "secret.bin").write_bytes(own)
    store = store_of(directory=tmp_path)
    assert await has(store, common, "acme")
    assert await has(store, common, "globex")
    assert await has(store, own, "acme")
    assert not await has(store, own, "globex")
    (tmp_path / "model.bin").write_bytes(later)
    assert await has(store, later)
    assert not await has(store_of(directory=tmp_path / "not there"), later)


def test_a_tenant_is_a_name_and_no_path() -> None:
    with pytest.raises(InvalidInputError, match="tenant"):
        spec("arriving", "../acme").checked()


async def test_a_digest_has_few_candidates(tmp_path: Path) -> None:
    """A thousand chunks of one content are not all tried when they have changed."""
    same = np.random.default_rng(1).bytes(CHUNK_BYTES)
    reads: list[int] = []
    fd = os.open(_file(tmp_path, same * (CANDIDATES_MAX + 3)), os.O_RDONLY)
    holding = Holding(fd, CHUNK_BYTES * (CANDIDATES_MAX + 3), is_memory=False, known={})

    async def find(take: Callable[[Holding], None]) -> None:
        take(holding)

    shelf = Shelf(find)
    assert await shelf.stocked(2**30)
    _file(tmp_path, bytes(CHUNK_BYTES * (CANDIDATES_MAX + 3)))
    original = Holding.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Holding, "read", lambda each, *to: reads.append(to[0]) or original(each, *to))
        assert not shelf.fill(chunk_digest(same), memoryview(bytearray(CHUNK_BYTES)))
    assert len(reads) == CANDIDATES_MAX
    await shelf.close()


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "chunks"
    path.write_bytes(content)
    return path
