"""VMMs that were left behind, on a real host: collected by epoch, kept on missing data."""

from __future__ import annotations

import os
import signal

import msgspec
import pytest
from native_host import machine_spec

from godwit.host import registers
from godwit.host.context import HostContext
from godwit.host.disk import HostDirectory
from godwit.host.fencing import NoFencing
from godwit.host.orphans import NEVER_RAN, RAN, Orphans
from godwit.host.registers import Registers
from godwit.hypervisor.native.channel import readable
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.port import VmmState
from godwit.runtime.clock import SystemClock
from godwit.runtime.config import Service, load
from godwit.runtime.lane import LaneWriter, Scope, position_in_log
from godwit.runtime.outbox import Outbox
from godwit.transfer.connection import open_control
from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.events import Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.roles.effects import Address
from godwit_protocol.roles.effects import Service as Inboxed

HERE, THERE = "host-2", "host-1"
OWNED = reg.started("m", THERE, None)
NOW = "01900000-0000-7000-8000-000000000001"


class Bench:
    """``Orphans`` of one service, over a real host."""

    def __init__(self, host, log, directory):
        self.log, self.clock = log, SystemClock()
        disk = HostDirectory(directory)
        self.marks = disk.marks()
        context = HostContext(
            name=HERE,
            config=load(Service.SOURCE_HOST, {"GODWIT_HOST": HERE}),
            clock=self.clock,
            log=log,
            outbox=Outbox(log),
            registers=Registers(log, self.marks),
            hypervisor=host.hypervisor,
            disk=disk,
            dial=open_control,
            fencing=NoFencing(),
        )
        self.held, self.told, self.log_away = set(), [], False
        kinds = NEVER_RAN | RAN
        self.orphans = Orphans(context, kinds, self.held.__contains__, self._tell)

    async def _tell(self, machine, event):
        """As ``Machines.tell``: what was told is in the log."""
        assert machine == "m"
        if self.log_away:
            raise UnreachableError("the log is away")
        self.told.append(event)
        scope = Scope.of_machine("m")
        position = await position_in_log(self.log, Lane.SOURCE, HERE, scope)
        sealed = LaneWriter(self.clock, Lane.SOURCE, HERE, scope, position).seal(event)
        await self.log.append(sealed.subject, sealed.data, message_id=sealed.message_id)

    async def register(self, record):
        data = reg.encode(record)
        await self.log.append(subjects.register("m"), data, message_id=self.clock.new_id())

    async def say(self, lane, event, *, to=None):
        scope = Scope.of_migration(NOW, "m")
        sealed = LaneWriter(self.clock, lane, "writer", scope).seal(event, to=to)
        await self.log.append(sealed.subject, sealed.data, message_id=sealed.message_id)

    async def bring(self):
        """The last migration that was to bring the machine here."""
        ordered = ev.PreparationOrdered(
            spec=machine_spec(),
            source=THERE,
            destination=HERE,
            register_epoch=1,
            limits=ev.Limits(),
            verify=ev.Verify.OFF,
        )
        to = Address(HERE, Inboxed.DESTINATION_HOST)
        await self.say(Lane.COORDINATOR, ordered, to=to)

    async def look_twice(self):
        await self.orphans.look()
        await self.orphans.look()


@pytest.fixture
async def bench(own_host, own_log, tmp_path, monkeypatch):
    monkeypatch.setattr(registers, "LOOK_S", 0.0)
    return Bench(own_host, own_log, tmp_path)


async def test_memory_without_an_image_is_collected_if_another_host_owns_the_machine(
    bench, own_host
):
    await own_host.hypervisor.create(machine_spec())
    await bench.look_twice()
    assert await own_host.hypervisor.find("m") is not None, "no register: nothing is touched"

    await bench.register(OWNED)
    bench.held.add("m")
    await bench.look_twice()
    assert await own_host.hypervisor.find("m") is not None, "a migration holds it"

    bench.held.clear()
    await bench.orphans.look()
    assert await own_host.hypervisor.find("m") is not None, "once may be an accident"
    await bench.orphans.look()
    assert await own_host.hypervisor.find("m") is None
    kind = mev.LeftoverKind.EMPTY
    collected = mev.OrphanCollected(kind=kind, image_epoch=0, owner=THERE, register_epoch=1)
    assert bench.told == [collected]


async def test_a_staged_image_is_kept_until_the_source_is_known_to_run(bench, own_host):
    vmm = await own_host.hypervisor.create(machine_spec())
    other = await own_host.hypervisor.create(machine_spec("other"))
    await other.start(1)
    await vmm.load((await other.pause()).data)
    await other.stop()
    await bench.register(OWNED)
    await bench.register(reg.taken_back(OWNED, NOW))
    await bench.look_twice()
    await bench.bring()
    await bench.look_twice()
    assert (await vmm.status()).state is VmmState.LOADED
    assert bench.told == []

    await bench.say(Lane.SOURCE, ev.MigrationAbandoned(reason=ev.AbortReason.CANCELLED))
    await bench.look_twice()
    assert await own_host.hypervisor.find("m") is None
    assert [type(event) for event in bench.told] == [mev.OrphanCollected]


async def test_what_the_machine_left_is_kept_until_it_runs_elsewhere(bench, own_host):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await vmm.pause()
    await bench.register(reg.started("m", HERE, None))
    await bench.register(reg.moved(reg.started("m", HERE, None), THERE, NOW))
    await bench.look_twice()
    assert (await vmm.status()).state is VmmState.PAUSED, "it has not said that it runs there"

    activated = ev.MachineActivated(register_sequence=2, owned_ns=1, first_step_ns=2)
    await bench.say(Lane.DESTINATION, activated)
    await bench.look_twice()
    assert await own_host.hypervisor.find("m") is None


async def test_a_stale_machine_that_runs_is_frozen_not_ended(bench, own_host):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await bench.register(reg.moved(reg.started("m", HERE, None), THERE, NOW))
    activated = ev.MachineActivated(register_sequence=2, owned_ns=1, first_step_ns=2)
    await bench.say(Lane.DESTINATION, activated)
    await bench.look_twice()
    assert (await vmm.status()).state is VmmState.PAUSED
    frozen = mev.StaleMachineFrozen(image_epoch=1, owner=THERE, register_epoch=2)
    assert bench.told == [frozen]

    await bench.look_twice()
    assert (await vmm.status()).state is VmmState.PAUSED, "what it did is nowhere else"
    assert bench.told == [frozen], "said once"

    process = int(MachineFolder.of(own_host.directory, "m").pid.read_text())
    os.kill(process, signal.SIGTERM)
    watched = os.pidfd_open(process)
    await readable(watched)
    os.close(watched)
    assert await own_host.hypervisor.find_dead() == ["m"], "an operator ended it: it is forgotten"


async def test_a_stale_machine_is_frozen_only_when_that_was_said(bench, own_host):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await bench.register(reg.moved(reg.started("m", HERE, None), THERE, NOW))
    activated = ev.MachineActivated(register_sequence=2, owned_ns=1, first_step_ns=2)
    await bench.say(Lane.DESTINATION, activated)
    bench.log_away = True
    await bench.look_twice()
    assert (await vmm.status()).state is VmmState.RUNNING
    bench.log_away = False
    await bench._tell("m", mev.StaleMachineFrozen(image_epoch=1, owner=THERE, register_epoch=2))
    await bench.look_twice()
    assert (await vmm.status()).state is VmmState.PAUSED
    assert len(bench.told) == 1, "a former life of the service had said it"


async def test_a_stale_machine_that_is_given_back_meanwhile_is_not_frozen(bench, own_host):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(1)
    moved = reg.moved(reg.started("m", HERE, None), THERE, NOW)
    await bench.register(moved)
    activated = ev.MachineActivated(register_sequence=2, owned_ns=1, first_step_ns=2)
    await bench.say(Lane.DESTINATION, activated)
    await bench.orphans.look()
    tell = bench._tell

    async def tell_slowly(machine, event):
        await tell(machine, event)
        await bench.register(reg.moved(moved, HERE, NOW))

    bench.orphans._tell = tell_slowly
    await bench.orphans.look()
    assert len(bench.told) == 1
    assert (await vmm.status()).state is VmmState.RUNNING


async def test_a_register_that_went_back_raises_the_alarm_once_and_nothing_is_touched(
    bench, own_host
):
    vmm = await own_host.hypervisor.create(machine_spec())
    await bench.register(OWNED)
    bench.marks.write("m", reg.RegisterView(msgspec.structs.replace(OWNED, epoch=4), 99))
    await bench.look_twice()
    assert (await vmm.status()).state is VmmState.GATED
    alarm = mev.RegisterWentBack(seen_sequence=99, seen_epoch=4, found_sequence=1, found_epoch=1)
    assert bench.told == [alarm]


async def test_what_the_register_lost_is_written_again_though_nobody_noted_it(bench, own_host):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(2)
    await bench.register(OWNED)
    await bench.bring()
    await bench.orphans.look()
    assert [type(event) for event in bench.told] == [mev.RegisterWentBack, mev.RegisterRestored]
    record = (await Registers(bench.log).read("m")).record
    assert msgspec.structs.replace(record, nonce="") == msgspec.structs.replace(
        reg.moved(OWNED, HERE, NOW), nonce=""
    )


async def test_what_the_register_lost_is_written_again_by_the_host_that_took_the_machine_back(
    bench, own_host
):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(2)
    intended = reg.abort_intended(reg.started("m", HERE, None), NOW)
    await bench.register(intended)
    await bench.orphans.look()
    record = (await Registers(bench.log).read("m")).record
    assert record.value is reg.RegisterValue.TAKEN_BACK
    assert (record.owner, record.epoch, record.migration) == (HERE, 2, NOW)


async def test_what_the_register_lost_is_written_again_by_the_host_that_runs_the_machine(
    bench, own_host
):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(2)
    moved = reg.moved(OWNED, HERE, NOW)
    await bench.register(OWNED)
    bench.marks.write("m", reg.RegisterView(moved, 99))
    await bench.orphans.look()
    assert [type(event) for event in bench.told] == [mev.RegisterWentBack, mev.RegisterRestored]
    record = (await Registers(bench.log).read("m")).record
    assert (record.owner, record.epoch, record.migration) == (HERE, 2, NOW)
    await bench.look_twice()
    assert (await vmm.status()).state is VmmState.RUNNING
    assert len(bench.told) == 2
