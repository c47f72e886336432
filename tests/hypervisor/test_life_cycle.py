"""A VMM's life: every command in every state, and what it survives."""

import asyncio
import fcntl
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from native_host import MIB, machine_spec

from godwit.hypervisor.native.driver import NativeVmm
from godwit.hypervisor.native.memory import NO_RUNS, runs_of
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.port import VmmState
from godwit_protocol.errors import (
    ConflictError,
    CorruptError,
    DeadlineError,
    GuestError,
    InvalidInputError,
    RefusedError,
    UnreachableError,
)
from godwit_protocol.machine import PAGE_BYTES

COMMANDS = {
    "start": lambda vmm: vmm.start(5),
    "populate": lambda vmm: vmm.populate([runs_of([(0, 4)]), NO_RUNS]),
    "load": lambda vmm: vmm.load(b"?"),
    "open_gate": lambda vmm: vmm.open_gate(5),
    "pause": lambda vmm: vmm.pause(),
    "resume": lambda vmm: vmm.resume(5),
    "halt": lambda vmm: vmm.halt(halted=True),
}
LEGAL = {
    VmmState.GATED: {"start", "populate", "load"},
    VmmState.LOADED: {"open_gate"},
    VmmState.RUNNING: {"halt", "pause"},
    VmmState.PAUSED: {"pause", "resume"},
    VmmState.FAILED: set(),
}


async def in_state(state, host, client):
    vmm = await host.hypervisor.create(machine_spec())
    if state is VmmState.GATED:
        return vmm
    if state is VmmState.LOADED:
        other = await host.hypervisor.create(machine_spec("other"))
        await other.start(1)
        await vmm.load((await other.pause()).data)
        return vmm
    await vmm.start(1)
    if state is VmmState.PAUSED:
        await vmm.pause()
    if state is VmmState.FAILED:
        await client.send("fail")
        await until_state(vmm, VmmState.FAILED)
    return vmm


async def until_state(vmm, state):
    async with asyncio.timeout(10):
        while (await vmm.status()).state is not state:
            pass


@pytest.mark.parametrize("state", list(VmmState))
async def test_what_a_state_forbids_is_refused_and_changes_nothing(state, host, client):
    vmm = await in_state(state, host, client)
    before = await vmm.status()
    assert before.state is state
    for name in COMMANDS.keys() - LEGAL[state]:
        with pytest.raises(ConflictError, match=f"machine m is {state}"):
            await COMMANDS[name](vmm)
    assert await vmm.status() == before
    memory = await vmm.memory()
    assert [region.name for region in memory.regions] == ["ram", "vgpu0.framebuffer"]
    memory.close()
    await vmm.stop()
    assert await host.hypervisor.find("m") is None
    with pytest.raises(UnreachableError):
        await vmm.status()
    await vmm.stop()


async def test_a_whole_life(host, client):
    assert host.hypervisor.missing() == []
    spec = machine_spec(env={"COLOUR": "teal"})
    vmm = await host.hypervisor.create(spec)
    status = await vmm.status()
    assert (status.spec, status.state, status.epoch, status.steps) == (spec, "gated", 0, 0)
    before_ns = time.monotonic_ns()
    began_ns = await vmm.start(3)
    assert before_ns <= began_ns <= time.monotonic_ns()
    assert await client.ask("env COLOUR") == b"teal"
    assert await client.ask("count") == b"1"
    checkpoint = await vmm.pause()
    assert began_ns < checkpoint.stopped_ns <= time.monotonic_ns()
    assert await vmm.pause() == checkpoint
    with pytest.raises(ConflictError, match="epoch 3"):
        await vmm.resume(2)
    assert await vmm.resume(4) > checkpoint.stopped_ns
    assert await client.ask("count") == b"2"
    status = await vmm.status()
    assert (status.state, status.epoch, status.steps) == ("running", 4, 3)


async def test_memory_is_shared_and_costs_nothing_until_it_is_touched(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await client.ask("stamp 1 1000 77")
    with await vmm.memory() as memory:
        framebuffer = memory["vgpu0.framebuffer"]
        assert framebuffer.extents().tolist() == [[1000, 1]]
        assert framebuffer.pages[1000, 0] == 77
        assert os.fstat(framebuffer.fd).st_blocks * 512 == PAGE_BYTES
        framebuffer.pages[1000, 0] = 78
        assert await client.ask("read 1 1000") == bytes([78, *bytes(7)])


async def test_populate_makes_exactly_these_pages_real(host):
    vmm = await host.hypervisor.create(machine_spec())
    runs = runs_of([(3, 1), (100, 40_000), (50_000, 2)])
    await vmm.populate([runs_of([(7, 2)]), runs])
    with await vmm.memory() as memory:
        assert memory["ram"].extents().tolist() == [[7, 2]]
        assert (memory["vgpu0.framebuffer"].extents() == runs).all()
        assert _resident_bytes((await vmm.status()).pid) >= 40_005 * PAGE_BYTES
    with pytest.raises(InvalidInputError):
        await vmm.populate([runs_of([(2048, 1)]), NO_RUNS])
    assert (await vmm.status()).state is VmmState.GATED


def _resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


async def test_a_checkpoint_that_is_none_is_refused(host):
    vmm = await host.hypervisor.create(machine_spec())
    with pytest.raises(CorruptError):
        await vmm.load(b"nonsense")
    assert (await vmm.status()).state is VmmState.GATED


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("fail", "the guest failed in step: ValueError: told to fail"),
        ("exit", "the guest failed in step: SystemExit: 3"),
        ("short", "the guest gave 0 replies to 1 requests"),
        ("long", "the guest gave a reply of 2000000 bytes"),
    ],
)
async def test_a_guest_that_fails_says_why_and_keeps_its_memory(request_text, said, host, client):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    assert await client.ask("count") == b"1"
    await client.send(request_text)
    await until_state(vmm, VmmState.FAILED)
    assert (await vmm.status()).failure == said
    with await vmm.memory() as memory:
        assert memory["ram"].pages[0, 0] == 1


FAILING_GUEST = """
import asyncio
from godwit_protocol.errors import CorruptError, InvalidInputError

class Mute(Exception):
    def __str__(self):
        raise ValueError

class Undecided:
    def __bool__(self):
        raise ValueError("neither")

class Failing:
    idle = True

    def boot(self, machine):
        machine.ram[0] = 7

    def step(self, requests):
        if b"undecided" in requests:
            self.idle = Undecided()
            return [b""]
        raise eval(requests[0])
    load = save = None.__init__
"""


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("CorruptError('torn')", "the guest failed in step: CorruptError: torn"),
        ("InvalidInputError('odd')", "the guest failed in step: InvalidInputError: odd"),
        ("asyncio.CancelledError()", "the guest failed in step: CancelledError: "),
        ("KeyboardInterrupt()", "the guest failed in step: KeyboardInterrupt: "),
        ("Mute()", "the guest failed in step: Mute"),
        ("undecided", "the guest failed in idle: ValueError: neither"),
    ],
)
async def test_whatever_a_guest_raises_it_fails_and_keeps_its_memory(
    request_text, said, host, client
):
    spec = machine_spec(guest="failing.py:Failing", guest_source=FAILING_GUEST)
    vmm = await host.hypervisor.create(spec)
    await vmm.start(1)
    await client.send(request_text)
    await until_state(vmm, VmmState.FAILED)
    assert (await vmm.status()).failure == said
    with await vmm.memory() as memory:
        assert memory["ram"].pages[0, 0] == 7


async def test_an_interrupt_ends_no_machine(host, client):
    """Which a library may send to the main thread: of a VMM that is what serves and steps."""
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    os.kill((await vmm.status()).pid, signal.SIGINT)
    assert await client.ask("count") == b"1"
    assert (await vmm.status()).state is VmmState.RUNNING


async def test_a_guest_that_refuses_what_it_is_to_load_has_failed(host, client):
    source = FAILING_GUEST.replace(
        "load = save = None.__init__",
        "save = None.__init__\n    def load(self, m, c): raise CorruptError('an old page')",
    )
    other = await host.hypervisor.create(machine_spec("other"))
    await other.start(1)
    checkpoint = await other.pause()
    spec = machine_spec(guest="failing.py:Failing", guest_source=source)
    vmm = await host.hypervisor.create(spec)
    with pytest.raises(GuestError, match="in load: CorruptError: an old page"):
        await vmm.load(checkpoint.data)
    assert (await vmm.status()).state is VmmState.FAILED


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise SystemExit(3)", "the guest failed in construction: SystemExit: 3"),
        ("import no_such_module\nclass G: pass", "No module named 'no_such_module'"),
        ("class G:\n def __init__(self): 1/0", "cannot be constructed"),
        ("class G:\n def boot(self, m): pass", "has no method step, save, load"),
    ],
)
async def test_a_guest_that_cannot_be_constructed_leaves_no_machine(source, said, host):
    with pytest.raises(GuestError, match=said):
        await host.hypervisor.create(machine_spec(guest="g.py:G", guest_source=source))
    assert await host.hypervisor.find("m") is None


async def test_a_machine_exists_once_and_only_if_its_memory_can(host):
    await host.hypervisor.create(machine_spec())
    with pytest.raises(ConflictError, match="machine m exists"):
        await host.hypervisor.create(machine_spec())
    with pytest.raises(RefusedError, match="bytes of RAM"):
        await host.hypervisor.create(machine_spec("vast", ram_bytes=2**50))
    with pytest.raises(InvalidInputError, match="not usable"):
        await host.hypervisor.create(machine_spec("../m"))
    assert [vmm.name for vmm in await host.hypervisor.find_all()] == ["m"]


async def test_machines_outlive_the_launcher_and_are_found_again(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    pid = (await vmm.status()).pid
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
        assert host.end_launcher(number) == code
        with pytest.raises(UnreachableError):
            await host.hypervisor.create(machine_spec("second"))
        host.launch()
    (found,) = await host.hypervisor.find_all()
    assert (found.name, (await found.status()).pid) == ("m", pid)
    with pytest.raises(ConflictError, match="machine m exists"):
        await host.hypervisor.create(machine_spec())
    assert await client.ask("count") == b"1"


DYING_LAUNCHER = """
import os, signal
from godwit.hypervisor.native import launcher

start = launcher._start_vmm

def start_and_die(*arguments):
    start(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

launcher._start_vmm = start_and_die
launcher.main()
"""


@pytest.fixture
def bystander():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("is_stale", [False, True])
async def test_a_vmm_whose_launcher_died_as_it_started_it_can_be_stopped(is_stale, host, bystander):
    folder = MachineFolder.of(host.directory, "m")
    if is_stale:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.pid.write_text(str(bystander.pid))
    host.end_launcher()
    host.launch(sys.executable, "-c", DYING_LAUNCHER)
    with pytest.raises(UnreachableError):
        await host.hypervisor.create(machine_spec())
    host.launcher.wait(10)
    host.launch()
    vmm = await host.hypervisor.find("m")
    await vmm.stop()
    assert bystander.poll() is None
    assert await host.hypervisor.find("m") is None
    assert not folder.path.exists()


async def test_a_vmm_that_does_not_say_which_process_it_is_is_not_taken_for_dead(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("godwit.hypervisor.native.driver.ANSWER_S_MAX", 0.1)
    folder = MachineFolder.of(tmp_path, "m")
    folder.path.mkdir(parents=True)
    with folder.pid.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DeadlineError, match="which process"):
            await NativeVmm(folder).stop()
    assert folder.pid.exists()
    await NativeVmm(folder).stop()
    assert not folder.path.exists()


async def test_one_launcher_a_host(host):
    environment = {**os.environ, "GODWIT_HOST_DIR": str(host.directory)}
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "godwit.hypervisor.native"),
        env=environment,
        stderr=subprocess.PIPE,
    )
    _, said = await second.communicate()
    assert second.returncode == ConflictError.exit_code
    assert b"a launcher already serves" in said


async def test_a_machine_that_died_is_gone_and_can_be_created_again(host):
    vmm = await host.hypervisor.create(machine_spec())
    os.kill((await vmm.status()).pid, signal.SIGKILL)
    await vmm.stop()
    assert await host.hypervisor.find("m") is None
    again = await host.hypervisor.create(machine_spec())
    assert (await again.status()).state is VmmState.GATED


async def test_a_stopped_machine_leaves_no_file(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    folder = host.directory / "machines" / "m"
    assert (folder / "vmm.sock").is_socket()
    await host.hypervisor.forget("m")
    assert (await vmm.status()).state is VmmState.GATED
    await vmm.stop()
    assert not folder.exists()


async def test_a_killed_machine_leaves_its_files_until_it_is_forgotten(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    os.kill((await vmm.status()).pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while await host.hypervisor.find_dead() != ["m"]:
            pass
    await host.hypervisor.forget("m")
    assert not (host.directory / "machines" / "m").exists()
    assert await host.hypervisor.find_dead() == []


async def test_a_guest_that_cannot_be_constructed_leaves_its_log(host):
    with pytest.raises(GuestError):
        await host.hypervisor.create(machine_spec(guest="json:JSONDecoder"))
    assert [path.name for path in (host.directory / "machines" / "m").iterdir()] == ["log"]


async def test_a_machine_is_created_while_another_removes_its_files(host):
    """Whoever removes has found the former VMM dead; the new one must not lose its files to it."""
    over = threading.Event()
    folder = MachineFolder.of(host.directory, "m")

    def remove_all_the_time():
        while not over.is_set():
            folder.remove()

    removing = threading.Thread(target=remove_all_the_time)
    removing.start()
    try:
        for _ in range(5):
            vmm = await _created(host, machine_spec())
            assert (await vmm.status()).state is VmmState.GATED
            await vmm.stop()
    finally:
        over.set()
        removing.join()


def test_who_removes_after_another_leaves_the_files_that_came_since(tmp_path, monkeypatch):
    folder = MachineFolder.of(tmp_path, "m")

    def with_files():
        folder.path.mkdir(parents=True, exist_ok=True)
        for path in (folder.pid, folder.socket, folder.order):
            path.touch()

    def another_was_quicker(lock, how):
        monkeypatch.undo()
        folder.remove()
        with_files()
        fcntl.flock(lock, how)

    with_files()
    monkeypatch.setattr(fcntl, "flock", another_was_quicker)
    folder.remove()
    assert {path.name for path in folder.path.iterdir()} == {"pid", "vmm.sock", "spec"}


async def _created(host, spec):
    """A lock that is held for a moment is a conflict, and no more."""
    async with asyncio.timeout(20):
        while True:
            with suppress(ConflictError):
                return await host.hypervisor.create(spec)


async def test_a_hung_machine_is_stopped(host, client, monkeypatch):
    monkeypatch.setattr("godwit.hypervisor.native.driver.ANSWER_S_MAX", 0.3)
    vmm = await host.hypervisor.create(machine_spec())
    pid = (await vmm.status()).pid
    os.kill(pid, signal.SIGSTOP)
    await vmm.stop()
    assert await host.hypervisor.find("m") is None


async def test_a_machine_survives_clients_that_misbehave(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    path = str(host.directory / "machines/m/vmm.sock")
    talk = f"import socket,sys,time; s=socket.socket(1); s.connect({path!r}); "
    talk += "s.send(b'\\x20\\0\\0\\0half a frame'); print(flush=True); time.sleep(60)"
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", talk), stdout=subprocess.PIPE
    )
    await killed.stdout.readline()
    killed.kill()
    await killed.wait()
    for nonsense in (b"\xff" * 64, b"\x03\0\0\0\x93\x01\x02", b"\0\0\0\0"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.settimeout(5)
            connection.send(nonsense)
            assert connection.recv(1) == b""
    assert await client.ask("count") == b"1"
    assert (await vmm.status()).state is VmmState.RUNNING


async def test_pause_and_gate_take_far_less_than_a_stun(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await client.ask("count")
    pauses, resumes = [], []
    for epoch in range(1, 41):
        began_ns = time.monotonic_ns()
        checkpoint = await vmm.pause()
        pauses.append(time.monotonic_ns() - began_ns)
        assert checkpoint.stopped_ns >= began_ns
        resumes.append(await vmm.resume(epoch) - checkpoint.stopped_ns)
    assert statistics.quantiles(pauses, n=4)[0] < 1_000_000
    assert statistics.quantiles(resumes, n=4)[0] < 2_000_000


async def test_a_digest_does_not_tell_a_hole_from_zeros(host):
    vmm = await host.hypervisor.create(machine_spec(ram_bytes=8 * MIB))
    with await vmm.memory() as memory:
        region = memory["ram"]
        region.pages[[5, 6, 600, 1300]] = np.arange(4, dtype=np.uint8)[:, None] + 1
        sparse = region.digest()
        region.populate(runs_of([(0, 700), (1000, 400)]))
        assert region.digest() == sparse
        region.pages[7, 4095] = 1
        assert region.digest() != sparse


async def test_a_silent_vmm_does_not_do_later_what_its_client_gave_up(host, monkeypatch):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    pid = (await vmm.status()).pid
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patience:
        patience.setattr("godwit.hypervisor.native.driver.ANSWER_S_MAX", 0.2)
        with pytest.raises(DeadlineError):
            await vmm.pause()
    os.kill(pid, signal.SIGCONT)
    for _ in range(3):
        assert (await vmm.status()).state is VmmState.RUNNING


async def test_a_halted_machine_stands_still_across_a_stun_here_and_elsewhere(hosts, client):
    vmm = await hosts[0].hypervisor.create(machine_spec())
    await vmm.start(1)
    await client.ask("idle 0")
    await vmm.halt(halted=True)
    steps = (await vmm.status()).steps
    before_ns = time.monotonic_ns()
    checkpoint = await vmm.pause()
    assert checkpoint.stopped_ns > before_ns, "the stun begins with the stun"
    await vmm.resume(1)
    assert await look(vmm) == (VmmState.RUNNING, True, steps)

    checkpoint = await vmm.pause()
    arrived = await hosts[1].hypervisor.create(machine_spec())
    await arrived.load(checkpoint.data)
    await arrived.open_gate(2)
    assert await look(arrived) == (VmmState.RUNNING, True, steps)
    await vmm.stop()
    await arrived.halt(halted=False)
    assert await client.ask("count") == b"1"
    assert (await arrived.status()).steps > steps


async def look(vmm):
    """Asked twice: between the two it would have stepped."""
    await vmm.status()
    seen = await vmm.status()
    return seen.state, seen.halted, seen.steps
