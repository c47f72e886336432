"""What a VMM makes of each order, and when its guest may step: on a machine of which nothing is
real, so that nothing else ends the wait for a step. Real ones are in ``test_life_cycle``.
"""

import logging
import os
import signal
import socket
import sys
from unittest.mock import Mock, call

import msgspec
import pytest

from godwit.hypervisor.native import vmm, wire
from godwit.hypervisor.native.guest_queues import IoState
from godwit.hypervisor.native.vmm import MachineCheckpoint, VmmProcess
from godwit.hypervisor.port import VmmState
from godwit_protocol.errors import GuestError, RemoteProtocolError, UnsupportedError
from godwit_protocol.machine import MachineSpec

SPEC = MachineSpec(name="m", guest="any:Guest", ram_bytes=4096)
EMPTY = IoState(cursor=0)
EVERY = [
    wire.GetStatus(),
    wire.GetRegions(),
    wire.GetStopFlag(),
    wire.Stop(),
    wire.Start(1),
    wire.Populate("ram", b""),
    wire.Load(b""),
    wire.OpenGate(1),
    wire.Pause(),
    wire.Resume(1),
    wire.Halt(True),
    wire.Slow(0, 0),
]
ALWAYS = {wire.GetStatus, wire.GetRegions, wire.GetStopFlag, wire.Stop}
IN_STATE = {
    VmmState.GATED: {wire.Start, wire.Populate, wire.Load},
    VmmState.LOADED: {wire.OpenGate},
    VmmState.RUNNING: {wire.Pause, wire.Halt, wire.Slow},
    VmmState.PAUSED: {wire.Pause, wire.Resume, wire.Slow},
    VmmState.FAILED: set(),
}


class Machine:
    """A VMM with a guest that does as it is told. ``order``: what was done to whom."""

    def __init__(self, monkeypatch, error=None):
        self.now_ns = 1_000
        self.done = Mock()
        self.guest = self.done.guest
        self.guest.configure_mock(idle=False, steps=5, batch=3)
        self.guest.save.return_value = b"guest"
        self.guest.step.return_value = [b"reply"]
        self.io = self.done.io
        self.io.save.return_value = EMPTY
        self.io.take.return_value = []
        self.io.waiting.return_value = False
        self.server = self.done.server
        self.memory = Mock(regions=[Mock(fd=7, address=8, size_bytes=9)])
        monkeypatch.setattr(vmm, "Execution", Mock(return_value=self.guest, side_effect=error))
        monkeypatch.setattr(vmm, "GuestIo", Mock(return_value=self.io))
        monkeypatch.setattr(vmm, "ControlServer", Mock(return_value=self.server))
        monkeypatch.setattr(vmm.MachineMemory, "allocate", Mock(return_value=self.memory))
        monkeypatch.setattr(vmm.kernel, "track_writes", Mock(side_effect=UnsupportedError("no")))
        monkeypatch.setattr(vmm.time, "monotonic_ns", lambda: self.now_ns)
        self.vmm = VmmProcess(wire.Spawn(SPEC, "nats://"), Mock())
        self.made = self.done.mock_calls[:]
        self.done.reset_mock()

    def asks(self, command):
        answer, self.fds = self.vmm._answer(msgspec.msgpack.encode(command))
        self.now_ns += 10
        return answer

    def is_in(self, state):
        """Whatever led there."""
        self.vmm._state = state

    @property
    def state(self):
        return self.vmm._state


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def checkpoint(halted=False):
    return msgspec.msgpack.encode(MachineCheckpoint(b"guest", EMPTY, 7, halted))


@pytest.mark.parametrize("state", VmmState)
@pytest.mark.parametrize("command", EVERY, ids=lambda command: type(command).__name__)
def test_each_state_has_its_orders_and_refuses_all_others(machine, state, command):
    machine.is_in(state)
    answer = machine.asks(command)
    is_refused = isinstance(answer, wire.Failed) and f"no {type(command).__name__} now" in str(
        answer
    )
    assert is_refused is (type(command) not in ALWAYS | IN_STATE[state])
    if is_refused:
        assert machine.state is state
        assert not machine.done.mock_calls


def test_a_guest_is_constructed_and_served_before_anything_is_asked(machine):
    assert machine.made == [
        call.server.watch(machine.io.wake_fd, machine.vmm._wake),
        call.io.start(),
    ]
    assert machine.asks(wire.GetStatus()).state is VmmState.GATED
    assert not machine.vmm._may_step()
    assert machine.vmm._wait_s() is None


def test_a_guest_that_cannot_be_constructed_has_failed(monkeypatch):
    machine = Machine(monkeypatch, GuestError("no such guest"))
    status = machine.asks(wire.GetStatus())
    assert (status.state, status.failure, status.steps) == (VmmState.FAILED, "no such guest", 0)
    assert machine.made[-1] == call.io.hold()


def test_a_machine_starts_once_its_log_was_reached(machine):
    machine.now_ns = 2_000
    assert machine.asks(wire.Start(4)) == wire.Running(2_000)
    assert machine.done.mock_calls == [call.io.begin(vmm.FIRST_CONTACT_S_MAX), call.guest.boot()]
    assert machine.asks(wire.GetStatus()).epoch == 4
    assert machine.vmm._may_step()


@pytest.mark.parametrize(("epoch", "runs"), [(3, False), (4, True), (5, True)])
@pytest.mark.parametrize("is_loaded", [False, True])
def test_nothing_runs_in_an_epoch_that_is_over(machine, epoch, runs, is_loaded):
    machine.asks(wire.Start(4))
    machine.asks(wire.Pause())
    if is_loaded:
        machine.is_in(VmmState.LOADED)
    before = machine.state
    answer = machine.asks(wire.OpenGate(epoch) if is_loaded else wire.Resume(epoch))
    assert isinstance(answer, wire.Running if runs else wire.Failed)
    assert machine.state is (VmmState.RUNNING if runs else before)
    assert machine.asks(wire.GetStatus()).epoch == (epoch if runs else 4)


def test_a_pause_saves_a_guest_that_serves_nobody_any_more(machine):
    """Once: a second one answers with what the first one saved."""
    machine.asks(wire.Start(4))
    machine.vmm._stop_flag.up()
    machine.done.reset_mock()
    paused = machine.asks(wire.Pause())
    assert machine.done.mock_calls == [call.io.hold(), call.guest.save(), call.io.save()]
    assert machine.state is VmmState.PAUSED
    assert not machine.vmm._stop_flag.is_wanted
    saved = msgspec.msgpack.decode(paused.checkpoint, type=MachineCheckpoint)
    assert saved == MachineCheckpoint(b"guest", EMPTY, 5, False)
    assert not machine.vmm._may_step()
    machine.guest.steps = 6
    assert machine.asks(wire.Pause()) == paused
    machine.asks(wire.Resume(4))
    again = machine.asks(wire.Pause())
    assert msgspec.msgpack.decode(again.checkpoint, type=MachineCheckpoint).steps == 6


@pytest.mark.parametrize(
    ("stands", "stopped_ns"),
    [("works", 1_020), ("halted", 1_060), ("idle", 1_060), ("slowed", 1_060)],
)
def test_a_stun_begins_at_the_last_work_of_a_guest_that_had_more_to_do(machine, stands, stopped_ns):
    machine.asks(wire.Start(4))
    machine.asks(wire.GetStatus())
    if stands == "slowed":
        machine.asks(wire.Slow(50, 10_000))
        machine.now_ns -= 10
        machine.guest.step.side_effect = lambda _: [setattr(machine, "now_ns", 1_025)]
        machine.vmm._step()
        machine.now_ns = 1_026
        stopped_ns = 1_026
    else:
        machine.guest.idle = stands == "idle"
        machine.vmm._step()
        machine.now_ns += 40
    if stands == "halted":
        machine.now_ns -= 10
        machine.asks(wire.Halt(True))
    assert machine.asks(wire.Pause()).stopped_ns == stopped_ns


def test_what_was_loaded_goes_on_where_it_was(machine):
    assert machine.asks(wire.Load(checkpoint(halted=True))) == wire.Done()
    assert machine.done.mock_calls == [call.guest.load(b"guest"), call.io.load(EMPTY)]
    status = machine.asks(wire.GetStatus())
    assert (status.state, status.steps, status.halted) == (VmmState.LOADED, 7, True)
    assert not machine.vmm._may_step()
    machine.asks(wire.OpenGate(4))
    assert not machine.vmm._may_step()
    machine.asks(wire.Halt(False))
    assert machine.vmm._may_step()


def test_what_is_no_checkpoint_is_not_loaded(machine):
    assert "a checkpoint that cannot be read" in str(machine.asks(wire.Load(b"torn")))
    assert machine.state is VmmState.GATED
    machine.guest.load.side_effect = GuestError("of another version")
    assert isinstance(machine.asks(wire.Load(checkpoint())), wire.Failed)
    assert machine.state is VmmState.FAILED
    assert machine.asks(wire.GetStatus()).failure == "of another version"


def test_pages_are_populated_of_regions_that_there_are(machine):
    known = {"ram": Mock()}
    machine.memory.__getitem__ = lambda _self, name: known[name]
    machine.vmm._memory = known
    runs = bytes(16)
    assert machine.asks(wire.Populate("ram", runs)) == wire.Done()
    assert known["ram"].populate.mock_calls[0].args[0].tolist() == [[0, 0]]
    for region, given in (("none", runs), ("ram", runs[:8])):
        failed = machine.asks(wire.Populate(region, given))
        assert "no such pages" in str(failed)


def test_a_halted_or_slowed_or_flagged_guest_does_not_step(machine):
    machine.asks(wire.Start(4))
    assert machine.vmm._may_step()
    assert machine.vmm._wait_s() == 0
    machine.vmm._stop_flag.up()
    assert not machine.vmm._may_step()
    assert machine.vmm._wait_s() > 0
    machine.vmm._stop_flag.down()
    machine.asks(wire.Halt(True))
    assert not machine.vmm._may_step()
    assert machine.vmm._wait_s() is None
    machine.asks(wire.Halt(False))
    assert machine.vmm._may_step()
    machine.asks(wire.Stop())
    assert not machine.vmm._may_step()


def test_an_order_to_run_lowers_the_flag_that_stops_the_guest(machine):
    machine.vmm._stop_flag.up()
    machine.asks(wire.Start(4))
    assert machine.vmm._may_step()


def test_an_idle_guest_is_asked_again_when_something_wakes_it(machine):
    machine.asks(wire.Start(4))
    machine.guest.idle = True
    machine.vmm._step()
    assert not machine.guest.step.called
    assert machine.vmm._wait_s() == vmm.IDLE_S_MAX
    machine.vmm._wake()
    assert machine.io.drain_wake.called
    assert machine.vmm._wait_s() == 0
    machine.io.take.return_value = [Mock(data=b"request")]
    machine.vmm._step()
    assert machine.guest.step.mock_calls == [call([b"request"])]
    assert machine.io.reply.mock_calls == [call(machine.io.take.return_value, [b"reply"])]
    assert machine.vmm._wait_s() == vmm.IDLE_S_MAX
    machine.io.waiting.return_value = True
    machine.vmm._step()
    assert machine.vmm._wait_s() == 0
    machine.io.waiting.return_value = False
    machine.vmm._step()
    machine.asks(wire.Pause())
    machine.asks(wire.Resume(4))
    assert machine.vmm._wait_s() == 0


def test_a_guest_that_fails_in_a_step_serves_nobody_any_more(machine):
    machine.asks(wire.Start(4))
    machine.guest.step.side_effect = GuestError("it broke")
    machine.vmm._step()
    assert machine.done.mock_calls[-1] == call.io.hold()
    assert machine.state is VmmState.FAILED
    assert not machine.vmm._may_step()
    refused = machine.asks(wire.Resume(4))
    assert "it broke" in str(refused)


def test_a_defect_in_an_order_ends_no_machine(machine):
    machine.io.begin.side_effect = ZeroDivisionError
    assert "Start failed" in str(machine.asks(wire.Start(4)))
    assert machine.state is VmmState.GATED


def test_an_order_that_cannot_be_read_is_a_fault_of_who_gave_it(machine):
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        machine.vmm._answer(b"torn")
    assert machine.state is VmmState.GATED


def test_descriptors_go_with_the_answers_that_are_about_them(machine):
    assert machine.asks(wire.GetRegions()) == wire.Regions((8,))
    assert machine.fds == [7]
    machine.asks(wire.GetStopFlag())
    assert machine.fds == [machine.vmm._stop_flag_fd]


@pytest.mark.parametrize("runs", [True, False])
def test_the_last_replies_are_stored_before_a_running_machine_ends(machine, runs):
    """It serves and steps until it is told to stop, and gives replies after its first step."""
    orders = [wire.GetStatus(), *([wire.Start(4)] if runs else []), wire.GetStatus(), wire.Stop()]
    machine.server.poll.side_effect = lambda _: machine.asks(orders.pop(0))
    machine.vmm.run()
    assert orders == []
    names = [each[0] for each in machine.done.mock_calls if each[0] != "server.poll"]
    began = ["io.begin", "guest.boot"]
    step = ["io.take", "guest.step", "io.reply", "io.release"]
    wanted = [*began, *step, *step, "io.release", "io.flush"] if runs else []
    assert names == wanted


@pytest.mark.parametrize("tracked", [12, None])
def test_writes_are_tracked_from_the_beginning_if_the_kernel_can(monkeypatch, tracked):
    track = Mock(return_value=tracked, side_effect=None if tracked else UnsupportedError("no"))
    machine = Machine(monkeypatch)
    monkeypatch.setattr(vmm.kernel, "track_writes", track)
    process = VmmProcess(wire.Spawn(SPEC, "nats://"), Mock())
    assert track.mock_calls == [call([(8, 9)])]
    assert process._tracking_fd == tracked
    assert machine.state is VmmState.GATED


@pytest.fixture
def process(tmp_path, monkeypatch):
    """What ``main`` is given, and what stands when the machine runs."""
    folder = vmm.MachineFolder(tmp_path)
    folder.order.write_bytes(msgspec.msgpack.encode(wire.Spawn(SPEC, "nats://")))
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)
    listener, other = socket.socketpair()
    monkeypatch.setattr(sys, "argv", ["vmm", str(tmp_path), str(listener.fileno()), str(lock)])
    monkeypatch.setattr(logging, "basicConfig", Mock())
    before = signal.getsignal(signal.SIGINT), sys.getswitchinterval()
    yield Mock(lock=lock, listener=listener.detach())
    signal.signal(signal.SIGINT, before[0])
    sys.setswitchinterval(before[1])
    os.close(lock)
    other.close()


@pytest.mark.parametrize(("failure", "ended_with"), [(None, 0), (ZeroDivisionError, 1)])
def test_a_process_says_who_it_is_keeps_its_lock_to_itself_and_ends_at_once(
    process, monkeypatch, failure, ended_with
):
    """What a guest starts would hold the lock after the machine's end; Ctrl-C ends no machine."""
    found = []

    def run():
        found.append(os.pread(process.lock, 32, 0))
        found.append(os.get_inheritable(process.lock))
        signal.raise_signal(signal.SIGINT)
        if failure:
            raise failure

    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    made = Mock(return_value=Mock(run=run))
    monkeypatch.setattr(vmm, "VmmProcess", made)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended) as ended:
        vmm.main()
    order, listener = made.mock_calls[0].args
    listener.close()
    assert order.spec == SPEC
    assert ended.value.args == (ended_with,)
    assert found == [str(os.getpid()).encode(), False]
