"""What dies, loses its power or is stopped at a bad moment; each once found by a seed."""

import asyncio
from collections.abc import Iterator

import pytest
from calm_cluster import CalmCluster, check_story

from godwit.hypervisor.port import VmmState
from godwit.proof.simulator import folds
from godwit.proof.simulator.faults import Fault
from godwit.proof.simulator.process import Process
from godwit.runtime.lane import LaneWriter, Scope
from godwit.source_host.departure import Departure
from godwit.source_host.service import SourceHost
from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.events import Event
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.loss import LossOrdered
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.register import RegisterValue
from godwit_protocol.replay.beside import verify_beside
from godwit_protocol.replay.verification import verify
from godwit_protocol.roles.effects import Address, Service
from recorded_logs import stories_of


@pytest.fixture
def calm() -> Iterator[CalmCluster]:
    cluster = CalmCluster(hosts=3)
    yield cluster
    cluster.world.bury()


ALARM_S = 700.0
"""When the migration's deadline and the coordinator's graces are over."""
OFF_S = 800.0


def check(calm: CalmCluster) -> None:
    calm.rest()
    calm.judge.close()
    assert calm.judge.violations == []
    assert list(folds.differences(calm.cluster, calm.judge)) == []


def test_a_service_that_dies_in_a_start_says_afterwards_that_it_was_done(
    calm: CalmCluster,
) -> None:
    calm.start()
    calm.until(lambda: "m" in calm.judge.registers)
    calm.cluster.running["source-host-1"].process.die("killed")
    calm.until(calm.has_told(mev.MachineStarted))
    assert calm.told(mev.MachineStartRefused) == []
    assert calm.judge.machines["m"].ran
    check(calm)


def test_of_two_stops_at_once_one_is_refused(calm: CalmCluster) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.stop("first")
    calm.stop("second")
    calm.until(calm.has_told(mev.MachineStopRefused))
    assert len(calm.told(mev.MachineStopped)) == 1
    check(calm)


def test_a_machine_that_is_being_stopped_does_not_depart(calm: CalmCluster) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.migrate()
    calm.until(calm.has_told(ev.StartDecided))
    calm.stop()
    calm.until(calm.has_told(ev.MigrationEnded))
    ended = calm.told(ev.MigrationEnded)[0]
    assert isinstance(ended, ev.MigrationEnded)
    assert ended.reason is AbortReason.SUPERSEDED
    calm.stop("again")
    calm.until(lambda: "again" in calm.judge.stops)
    assert calm.judge.machines["m"].vmms == []
    check(calm)


def test_a_service_that_dies_in_a_stop_carries_it_out_afterwards(calm: CalmCluster) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.stop()
    calm.until(lambda: calm.judge.registers["m"].value is RegisterValue.STOPPED)
    calm.cluster.running["source-host-1"].process.die("killed")
    calm.until(calm.has_told(mev.MachineStopped))
    assert calm.judge.machines["m"].vmms == []
    check(calm)


def test_a_machine_that_the_register_forgot_to_have_left_is_not_stopped(
    calm: CalmCluster,
) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))
    registers = calm.cluster.server.streams[subjects.REGISTER]
    while calm.judge.registers["m"].value is RegisterValue.MOVED:
        stored = registers.messages[-1]
        before = registers.lose_last()
        if stored.subject == subjects.register("m"):
            calm.judge.lost(stored, before)
    calm.stop()
    calm.until(calm.has_told(mev.MachineStopRefused))
    refusal = calm.told(mev.MachineStopRefused)[0]
    assert isinstance(refusal, mev.MachineStopRefused)
    assert refusal.code == "in_doubt"
    assert [vmm.state for vmm in calm.judge.machines["m"].vmms] == [VmmState.RUNNING]


def test_a_lane_goes_on_after_what_the_log_has_of_a_host_that_lost_its_power(
    calm: CalmCluster,
) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.migrate()
    calm.until(calm.has_told(ev.DestinationPrepared))
    place = calm.place("host-2")
    for file in place.disk.files.values():
        assert len(file.data) > file.synced_bytes
        del file.data[file.synced_bytes :]
    calm.cluster.lose_power(place, seconds=10.0)
    calm.until(calm.has_told(ev.ImageDiscarded))
    calm.until(calm.has_told(ev.MigrationEnded))
    check(calm)


def _is_told_dead_and_stopped(calm: CalmCluster) -> None:
    calm.until(calm.has_told(mev.MachineFailed))
    calm.stop()
    calm.until(calm.has_told(mev.MachineStopped))
    check(calm)


def test_a_machine_is_dead_only_with_the_one_host_that_held_it(calm: CalmCluster) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.cluster.lose_power(calm.place("host-2"), seconds=10.0)
    calm.rest(20.0)
    check(calm)
    calm.cluster.lose_power(calm.place("host-1"), seconds=10.0)
    assert calm.judge.machines["m"].over
    _is_told_dead_and_stopped(calm)


def test_a_death_is_told_also_of_a_machine_that_has_just_come_back(calm: CalmCluster) -> None:
    """What the VMM left that it had here before is dead, too, and not worth telling."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.migrate("host-2")
    calm.until(calm.has_told(ev.MigrationEnded))
    here = calm.place("host-1").host
    here.known.add("m")
    calm.until(lambda: "m" not in here.known)
    calm.migrate("host-1")
    calm.until(calm.has_told(ev.MigrationEnded, times=2))
    here.kill(here.vmms["m"], "killed")
    _is_told_dead_and_stopped(calm)


def test_an_alarm_after_a_long_silence_verifies(calm: CalmCluster) -> None:
    """The source found the register taken, which left no event, long before its patience ended."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(lambda: calm.judge.registers["m"].value is RegisterValue.MOVED)
    there = calm.place("host-2").host
    there.kill(there.vmms["m"], "killed")
    calm.until(calm.has_told(ev.DoubtRaised))
    stored = calm.cluster.server.streams[subjects.EVENTS].messages
    story = dict(stories_of(stored))[migration]
    assert verify(migration, story).faults == ()


def test_a_full_disk_does_not_end_a_service_that_has_read_its_inbox(calm: CalmCluster) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.place("host-1").disk.full_until_s = float("inf")
    calm.stop()
    calm.until(calm.has_told(mev.MachineStopped))
    calm.rest()
    assert not calm.cluster.restarts


@pytest.fixture
def both_dead(calm: CalmCluster) -> str:
    """A migration of which the destination has said that its VMM died, behind the gate, and whose
    source's host has lost its power, for good as it seems. Everybody waits.
    """
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(lambda: calm.judge.registers["m"].value is RegisterValue.MOVED)
    there = calm.place("host-2").host
    there.kill(there.vmms["m"], "killed")
    calm.until(calm.has_told(mev.MachineFailed))
    calm.cluster.lose_power(calm.place("host-1"), seconds=OFF_S)
    calm.rest(ALARM_S)
    assert calm.told(ev.DoubtRaised) and not calm.told(ev.MigrationEnded)
    return migration


def order(calm: CalmCluster, migration: str, *, is_off: bool) -> None:
    wanted = ev.RunOrdered(target="host-2", other_is_off=is_off, requested_by="ada@desk")
    to = Address("host-2", Service.DESTINATION_HOST)
    calm.put(Scope.of_migration(migration, "m"), wanted, to)


def is_lost(calm: CalmCluster, migration: str) -> None:
    """The migration has ended with the machine, and holds nothing."""
    calm.until(calm.has_told(ev.MigrationEnded))
    (ended,) = calm.told(ev.MigrationEnded)
    assert isinstance(ended, ev.MigrationEnded)
    assert (ended.outcome, ended.reason) == (Outcome.ABORTED, AbortReason.MACHINE_FAILED)
    calm.rest()
    assert all(migration not in picture.holdings for picture in calm.judge.pictures.values())


def is_proven_lost(calm: CalmCluster, migration: str) -> None:
    """One host is off: the machine is nobody's any more, and is started anew, though that host has
    not come back. When it does, it has nothing to say.
    """
    is_lost(calm, migration)
    record = calm.judge.registers["m"]
    assert (record.value, record.owner, record.epoch) == (RegisterValue.LOST, "", 3)
    calm.start("host-3", start="again")
    calm.until(lambda: calm.judge.starts.get("again", False))
    calm.rest(2 * OFF_S)
    calm.until(lambda: calm.cluster.is_idle)
    check(calm)
    verifies(calm, migration)
    (running,) = calm.judge.machines["m"].vmms
    assert (running.host, running.state, running.epoch) == ("host-3", VmmState.RUNNING, 4)


def verifies(calm: CalmCluster, migration: str) -> None:
    """The log, with the register."""
    stored = calm.cluster.server.streams[subjects.EVENTS].messages
    assert verify(migration, dict(stories_of(stored))[migration]).faults == ()
    registers = calm.cluster.server.streams[subjects.REGISTER].messages
    assert verify_beside(registers).faults == ()


def test_a_machine_that_is_proven_lost_ends_its_migration(
    calm: CalmCluster, both_dead: str
) -> None:
    order(calm, both_dead, is_off=False)
    calm.until(calm.has_told(ev.RunOrderRefused))
    (refused,) = calm.told(ev.RunOrderRefused)
    assert isinstance(refused, ev.RunOrderRefused) and "powered off" in refused.message
    calm.rest()
    assert calm.told(ev.MigrationEnded) == []
    order(calm, both_dead, is_off=True)
    is_proven_lost(calm, both_dead)
    (fenced,) = calm.told(ev.HostFenced)
    assert isinstance(fenced, ev.HostFenced)
    assert (fenced.target, fenced.vouched_by) == ("host-1", "ada@desk")


def test_a_source_that_dies_in_pre_copy_for_good_ends_with_the_proof(calm: CalmCluster) -> None:
    """The destination has discarded what it had, and waits for nothing."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(calm.has_told(ev.PrecopyStarted))
    calm.cluster.lose_power(calm.place("host-1"), seconds=OFF_S)
    calm.rest(ALARM_S)
    assert calm.told(ev.ImageDiscarded) and not calm.told(ev.MigrationEnded)
    order(calm, migration, is_off=True)
    is_proven_lost(calm, migration)


def test_a_source_that_comes_back_with_nothing_ends_it_by_itself(
    calm: CalmCluster, both_dead: str
) -> None:
    assert not calm.told(ev.HostFenced)
    is_lost(calm, both_dead)
    calm.rest(OFF_S - ALARM_S)
    calm.until(lambda: calm.cluster.is_idle)
    calm.stop(host="host-2")
    calm.until(calm.has_told(mev.MachineStopped))
    check(calm)
    verifies(calm, both_dead)


def test_a_source_whose_machine_dies_after_the_destination_has_gone_ends_its_part(
    calm: CalmCluster,
) -> None:
    """Seed 713: the destination said that it had nothing before anybody was in doubt, and to nobody
    in particular. The source waited for that word for ever, though the migration had ended.
    """
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    here = calm.place("host-1").host
    calm.until(lambda: here.vmms["m"].state is VmmState.PAUSED)
    calm.cluster.running["source-host-1"].process.die("killed")
    calm.until(calm.has_told(ev.ImageDiscarded))
    here.kill(here.vmms["m"], "killed")
    is_lost(calm, migration)
    calm.until(lambda: calm.cluster.is_idle)
    assert calm.told(ev.DoubtRaised)
    verifies(calm, migration)
    _is_told_dead_and_stopped(calm)


STAGED_IN_THE_NEXT_LIFE = """
The destination's service died when its VMM had loaded the image, before STAGED was journaled. The
source took the machine back, and its VMM died before it ran. The image that the VMM had loaded is
the last one: the next life keeps it, and an operator has it run.
"""


@pytest.fixture
def killed_at_load(calm: CalmCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migration whose destination's service was killed when its VMM had loaded the image. The
    source has just taken the machine back, and does not run it yet.
    """
    step = Process.step

    def die(process: Process, name: str) -> None:
        if process.host == "host-2" and name == "load m: done":
            process.die(f"killed at: {name}")
        step(process, name)

    monkeypatch.setattr(Process, "step", die)
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(lambda: calm.judge.registers["m"].value is RegisterValue.TAKEN_BACK)
    return migration


def test_an_image_that_is_loaded_is_let_go_of_when_the_source_runs(
    calm: CalmCluster, killed_at_load: str
) -> None:
    calm.until(calm.has_told(ev.ImageDiscarded))
    (staged,) = calm.told(ev.ImageStaged)
    assert isinstance(staged, ev.ImageStaged) and not staged.staged_ns
    calm.until(calm.has_told(ev.MigrationEnded))
    calm.until(lambda: calm.cluster.is_idle)
    check(calm)
    verifies(calm, killed_at_load)


def test_an_image_that_is_loaded_outlives_a_service_that_could_not_say_so(
    calm: CalmCluster, killed_at_load: str
) -> None:
    """Seed 89580."""
    here, there = calm.place("host-1").host, calm.place("host-2").host
    here.kill(here.vmms["m"], "killed")
    calm.until(calm.has_told(ev.DoubtRaised))
    calm.rest()
    assert there.vmms["m"].state is VmmState.LOADED
    order(calm, killed_at_load, is_off=False)
    calm.until(calm.has_told(ev.MigrationEnded))
    assert there.vmms["m"].state is VmmState.RUNNING
    calm.until(lambda: calm.cluster.is_idle)
    check(calm)
    check_story(calm, "staged-in-the-next-life", STAGED_IN_THE_NEXT_LIFE)


def give_up(calm: CalmCluster, migration: str) -> None:
    calm.put(Scope.of_migration(migration, "m"), LossOrdered(requested_by="ada@desk"))


def refusals(calm: CalmCluster) -> list[str]:
    told = calm.told(ev.RunOrderRefused)
    return [event.message for event in told if isinstance(event, ev.RunOrderRefused)]


GONE_FOR_GOOD = """
Both hosts lost their power after GO; nobody was left to write a proof, and the migration never
ended. By an operator's order the coordinator gives the machine up, which is started anew on a third
host. The two come back afterwards.
"""


def lose_both(calm: CalmCluster) -> None:
    for host in ("host-1", "host-2"):
        calm.cluster.lose_power(calm.place(host), seconds=2 * OFF_S)


@pytest.mark.parametrize("moment", ["in pre-copy", "staged", "after GO", "running there"])
def test_a_machine_that_is_lost_with_both_hosts_is_given_up_by_an_operator(
    calm: CalmCluster, moment: str
) -> None:
    """Nobody is there to write a proof but the coordinator. What comes back has nothing to
    run.
    """
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(calm.has_told(ev.PrecopyStarted))
    at = {
        "in pre-copy": lambda: True,
        "staged": lambda: any(
            vmm.state is VmmState.LOADED for vmm in calm.judge.machines["m"].vmms
        ),
        "after GO": lambda: calm.judge.registers["m"].value is RegisterValue.MOVED,
        "running there": lambda: calm.place("host-2").host.vmms["m"].state is VmmState.RUNNING,
    }
    calm.until(at[moment])
    lose_both(calm)
    assert calm.judge.machines["m"].over
    calm.rest(ALARM_S)
    assert calm.told(ev.DoubtRaised) and not calm.told(ev.MigrationEnded)
    give_up(calm, migration)
    is_proven_lost(calm, migration)
    fenced = calm.told(ev.HostFenced)
    assert {event.target for event in fenced if isinstance(event, ev.HostFenced)} == {
        "host-1",
        "host-2",
    }
    assert not refusals(calm)
    if moment == "after GO":
        check_story(calm, "lost-with-both-hosts", GONE_FOR_GOOD)


def test_a_machine_is_not_given_up_while_a_host_lives(calm: CalmCluster) -> None:
    """Nor later by an order that was refused once, whoever finds it in the log."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(calm.has_told(ev.PrecopyStarted))
    calm.cluster.lose_power(calm.place("host-1"), seconds=2 * OFF_S)
    there = calm.place("host-2")
    # Before it hears that its link is gone, or it would settle its part.
    calm.cluster.running["destination-host-2"].process.die("killed")
    give_up(calm, migration)
    calm.until(lambda: bool(refusals(calm)))
    assert all("host-2 answers" in message for message in refusals(calm))
    calm.cluster.lose_power(there, seconds=2 * OFF_S)
    for name in ("coordinator-1", "coordinator-2"):
        calm.cluster.running[name].process.die("killed")
    calm.rest(ALARM_S)
    assert not calm.told(ev.HostFenced) and not calm.told(ev.MigrationEnded)
    give_up(calm, migration)
    is_proven_lost(calm, migration)


def test_a_migration_that_goes_on_is_not_given_up(calm: CalmCluster) -> None:
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(calm.has_told(ev.MachineActivated))
    give_up(calm, migration)
    calm.until(calm.has_told(ev.MigrationEnded))
    (ended,) = calm.told(ev.MigrationEnded)
    assert isinstance(ended, ev.MigrationEnded) and ended.outcome is Outcome.COMPLETED
    calm.rest()
    check(calm)


def test_a_destination_that_is_off_is_fenced_and_the_machine_goes_on_at_home(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host loses its power after GO, before it has taken the register, and stays off."""
    calm.cluster.has_switch = True
    for name in ("source-host-1", "destination-host-2"):
        calm.cluster.running[name].process.die("begin again, with a power switch")
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    step, place = Process.step, calm.place("host-2")

    def lose_power(process: Process, name: str) -> None:
        if process.host == "host-2" and name.startswith("before the append of godwit.v1.register"):
            calm.cluster.lose_power(place, OFF_S)
        step(process, name)

    monkeypatch.setattr(Process, "step", lose_power)
    calm.migrate()
    calm.until(calm.has_told(ev.HostFenced))
    calm.until(calm.has_told(ev.MachineTakenBack))
    monkeypatch.undo()
    calm.until(calm.has_told(ev.MigrationEnded))
    assert calm.place("host-1").host.vmms["m"].state is VmmState.RUNNING
    assert calm.world.weather.injected[Fault.FENCED] == 1
    calm.rest(OFF_S)
    check(calm)


def test_an_order_that_comes_with_the_start_it_is_about(calm: CalmCluster) -> None:
    """The source was down for both; its next life reads one right after the other."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(calm.has_told(ev.DestinationPrepared))
    source = calm.cluster.running["source-host-1"]
    source.log.cut_until_s = source.log.process.world.loop.time() + 3.0
    calm.until(calm.has_told(ev.MigrationStarted))
    order = ev.RunOrdered(target="host-1", requested_by="ada@desk")
    calm.put(Scope.of_migration(migration, "m"), order, Address("host-1", Service.SOURCE_HOST))
    calm.until(calm.has_told(ev.RunOrderRefused))
    calm.until(calm.has_told(ev.MigrationEnded))
    assert calm.cluster.restarts["source-host-1"] == 0
    check(calm)


def test_a_stop_that_a_migration_meets_again_after_a_restart_is_done(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service died when the machine stood still for its stop, and in its next life heard of a
    migration besides. Each was refused because of the other, and the machine stood still for ever.
    """
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    calm.migrate()
    calm.until(calm.has_told(ev.DestinationPrepared))
    step, source = Process.step, calm.cluster.running["source-host-1"].process

    def die(process: Process, name: str) -> None:
        if process is source and name == "pause m: done":
            process.die(name)
        step(process, name)

    monkeypatch.setattr(Process, "step", die)
    calm.stop()
    calm.until(lambda: not source.alive)
    calm.until(calm.has_told(mev.MachineStopped))
    calm.until(calm.has_told(ev.MigrationEnded))
    check(calm)


def test_a_machine_that_was_started_anew_is_not_said_to_have_failed(calm: CalmCluster) -> None:
    """Its death was seen, and waited to be told while it was stopped and started."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    host = calm.place("host-1").host
    host.kill(host.vmms["m"], "killed")
    service = calm.cluster.running["source-host-1"].service
    assert isinstance(service, SourceHost)
    calm.stop()
    calm.start(start="again")
    told: list[int] = []

    async def tell_late() -> None:
        told.append(await service._machines.report_failure("m", "the VMM died"))

    calm.until(calm.has_told(mev.MachineStopped))
    calm.cluster.running["source-host-1"].process.spawn(tell_late())
    calm.until(calm.has_told(mev.MachineStarted, times=2))
    calm.until(lambda: bool(told))
    assert told == [0]
    assert calm.told(mev.MachineFailed) == []
    check(calm)


def test_a_machine_departs_while_something_is_told_of_it(calm: CalmCluster) -> None:
    """Nothing changes by that: it is still this host's. The log takes it late."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    source = calm.cluster.running["source-host-1"]
    assert isinstance(source.service, SourceHost)
    machines, told = source.service._machines, asyncio.Event()

    async def append(_writer: LaneWriter, _event: Event) -> None:
        await told.wait()

    machines._append = append  # type: ignore[method-assign]
    restored = mev.RegisterRestored(register_epoch=1, register_sequence=1)
    telling = source.process.spawn(machines.tell("m", restored))
    calm.migrate()
    calm.until(calm.has_told(ev.MigrationEnded))
    (ended,) = calm.told(ev.MigrationEnded)
    assert isinstance(ended, ev.MigrationEnded)
    assert ended.outcome is Outcome.COMPLETED
    assert not telling.done()
    check(calm)


def write_again(calm: CalmCluster) -> None:
    """Somebody else writes the register, which names the same host as before."""
    record = reg.taken_back(calm.judge.registers["m"], "another")
    calm.cluster.server.append(subjects.register("m"), reg.encode(record), record.nonce, None)


def test_a_machine_that_could_not_be_stopped_goes_on(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else wrote its register while it was being paused."""
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    step = Process.step

    def write(process: Process, name: str) -> None:
        if name == "pause m: done":
            write_again(calm)
        step(process, name)

    monkeypatch.setattr(Process, "step", write)
    calm.stop()
    calm.until(calm.has_told(mev.MachineStopRefused))
    assert calm.place("host-1").host.vmms["m"].state is VmmState.RUNNING
    monkeypatch.undo()
    calm.stop("again")
    calm.until(calm.has_told(mev.MachineStopped))
    check(calm)


def test_a_stop_waits_until_a_migration_that_has_ended_has_let_go(
    calm: CalmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looks at the register only then."""
    let_go = Departure._let_go

    async def slowly(departure: Departure) -> None:
        await asyncio.sleep(1.0)
        write_again(calm)
        await let_go(departure)

    monkeypatch.setattr(Departure, "_let_go", slowly)
    calm.start()
    calm.until(calm.has_told(mev.MachineStarted))
    migration = calm.migrate()
    calm.until(calm.has_told(ev.PrecopyStarted))
    calm.put(Scope.of_migration(migration, "m"), ev.CancelRequested())
    calm.until(calm.has_told(ev.MigrationEnded))
    holder = calm.judge.holder_of("m")
    calm.stop(host=holder)
    calm.until(lambda: bool(calm.told(mev.MachineStopped) + calm.told(mev.MachineStopRefused)))
    assert calm.told(mev.MachineStopRefused) == []
    check(calm)
