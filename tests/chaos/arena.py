"""A cluster of two hosts of its own, a machine that is asked all the time, and a watch on both.

What a cell of the matrix stands on. It knows how to break each party, and what must hold when a
migration is over, but not which faults there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from run_service import plan_path
from steps import Role, Step
from verify import faults_of_lanes, faults_of_migration
from wires import Wires

from godwit.cli.cluster import Cluster
from godwit.cli.guest_client import REQUEST_HEADER, GuestClient
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.port import VmmState, VmmStatus
from godwit.runtime.event_log import MESSAGE_ID_HEADER
from godwit.runtime.lane import Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import codec, subjects
from godwit_protocol import register as reg
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import Recorded
from godwit_protocol.events import migration as ev
from operations import Operations

HOSTS: Final = ("host-1", "host-2")
POLL_S: Final = 0.02
REACHED_S_MAX: Final = 30.0
END_S_MAX: Final = 75.0
SETTLED_S_MAX: Final = 45.0
LIMITS: Final = ev.Limits(stun_limit_ns=2_000_000_000, deadline_ns=20_000_000_000)
MEMHOG: Final = "godwit.guests.memhog:Memhog"


class ViolatedError(AssertionError):
    """What must always hold does not."""


@dataclass
class Subject:
    """The machine under test, and what was seen of it."""

    name: str
    guest: str
    asking: asyncio.Task[None]
    watching: asyncio.Task[None]
    asked_after: int = 0
    violations: list[str] = field(default_factory=list)


class Arena:
    """Two hosts and a machine. Used for one migration after the other."""

    def __init__(
        self, cluster: Cluster, nats: NatsServer | None, log: NatsLog, wires: Wires | None
    ) -> None:
        self.cluster = cluster
        self.wires = wires
        self.nats = nats
        self.operations = Operations(cluster, log)
        self.subject: Subject | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, directory: Path, *, wired: bool = False, nats_url: str = ""
    ) -> AsyncIterator[Arena]:
        """Start everything in ``directory``; at the end, end it.

        ``wired``: see ``wires``. With ``nats_url`` the event log is there already.
        """
        (directory / "plans").mkdir(parents=True)
        here = Path(__file__).parent
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        places = dict.fromkeys([str(here), *filter(None, given)])
        os.environ["PYTHONPATH"] = os.pathsep.join(places)
        async with AsyncExitStack() as stack:
            nats = None
            if not nats_url:
                # Not in the cluster's directory: what is left running there is ended.
                nats = await NatsServer.start(directory.parent / f"{directory.name}-nats")
                stack.push_async_callback(nats.stop)
                nats_url = nats.url
            wires = None
            if wired:
                wires = await stack.enter_async_context(Wires.lay(HOSTS, directory, nats_url))
            cluster = await Cluster.start(
                directory,
                hosts=len(HOSTS),
                gpus="H100-80GB:1",
                nats_url=nats_url,
                launch_through=("run_service",),
            )
            stack.push_async_callback(cluster.stop)
            log = await NatsLog.connect(nats_url, name="chaos")
            stack.push_async_callback(log.close)
            arena = cls(cluster, nats, log, wires)
            stack.push_async_callback(arena.forget_machine)
            yield arena

    # The machine.

    async def machine(self, guest: str = MEMHOG, env: tuple[str, ...] = ()) -> Subject:
        """The machine of the former cell if it lives, or a new one."""
        if self.subject is None:
            name = f"m-{uuid4().hex[:12]}"
            env = env or ("GODWIT_MEMHOG_RATE=1000000",)
            await self.operations.start(name, guest, ram="8MiB", vgpus=["H100XM-4C"], env=env)
            violations: list[str] = []
            self.subject = Subject(
                name,
                guest,
                asyncio.create_task(self._keep_asking(name)),
                asyncio.create_task(self._watch(name, violations)),
                violations=violations,
            )
        return self.subject

    async def forget_machine(self) -> None:
        """Ask and watch no more; the next cell gets a new machine."""
        subject, self.subject = self.subject, None
        if subject is not None:
            for task in (subject.asking, subject.watching):
                task.cancel()
                await asyncio.wait({task})

    async def bury_machine(self) -> None:
        """The machine is dead: an operator stops it, and all that it held is free again."""
        assert self.subject is not None
        name = self.subject.name
        await self.forget_machine()
        await self.operations.stop(name)
        async with asyncio.timeout(SETTLED_S_MAX):
            for host in HOSTS:
                while await self.operations.reservations(host):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)

    async def owner(self) -> str:
        """The host that the register names."""
        assert self.subject is not None
        return (await self.operations.record(self.subject.name)).owner

    def other(self, host: str) -> str:
        """The host that is not ``host``."""
        return next(each for each in HOSTS if each != host)

    async def _keep_asking(self, name: str) -> None:
        """Whether all were answered, once each, is read from the log afterwards."""
        request = json.dumps({"op": "status"}).encode()
        while True:
            with suppress(GodwitError):
                async with GuestClient(self.operations.log, name) as client:
                    while True:
                        await client.ask(request)
                        await asyncio.sleep(POLL_S)
            await asyncio.sleep(POLL_S)

    async def _watch(self, name: str, violations: list[str]) -> None:
        """Look at both hosts again and again: nobody may see two that run."""
        first, second = HOSTS
        while True:
            seen = [await self.look(host, name) for host in (first, second, first)]
            if all(each is not None and each.state is VmmState.RUNNING for each in seen):
                violations.append(f"two copies of {name} run: {seen}")
            await asyncio.sleep(POLL_S)

    async def look(self, host: str, name: str) -> VmmStatus | None:
        """What the VMM of a machine on a host says; None if it is dead or does not answer."""
        vmm = await self.operations.hypervisor(host).find(name)
        if vmm is None:
            return None
        try:
            async with asyncio.timeout(0.5):
                return await vmm.status()
        except (GodwitError, TimeoutError):
            return None
        finally:
            vmm.close()

    # Steps and processes.

    def plan(self, host: str, step: Step) -> Callable[[], bool]:
        """Stop the service of ``host`` at ``step``; what is returned says whether it has."""
        assert self.subject is not None
        plan = plan_path(self.cluster.directory, host, step.role)
        reached = plan.with_suffix(".reached")
        reached.unlink(missing_ok=True)
        plan.write_text(json.dumps({"machine": self.subject.name, "step": step.name}))
        service = f"{host}-{step.role}"
        return lambda: reached.exists() and _is_stopped(self.cluster.pid(service))

    def unplan(self) -> None:
        """No service stops anywhere any more."""
        for host in HOSTS:
            for role in Role:
                plan_path(self.cluster.directory, host, role).unlink(missing_ok=True)

    def vmm_pid(self, host: str) -> int | None:
        """The process id of the machine's VMM on a host, if it lives."""
        assert self.subject is not None
        place = self.cluster.directory / "hosts" / host
        folder = MachineFolder.of(place, self.subject.name)
        try:
            return int(folder.pid.read_text()) if folder.is_locked() else None
        except (FileNotFoundError, ValueError):
            return None

    # What must hold when a migration is over.

    async def ended(self, migration: str) -> ev.MigrationEnded | None:
        """Wait for its end; None if it raised the alarm instead. Raises ``ViolatedError``."""
        try:
            async with asyncio.timeout(END_S_MAX):
                ended = await self.operations.event(migration, ev.MigrationEnded)
        except TimeoutError:
            types = await self.operations.types(migration)
            if ev.DoubtRaised.TYPE in types:
                return None
            raise ViolatedError(f"no end within {END_S_MAX:g} s, after {types[-3:]}") from None
        assert isinstance(ended, ev.MigrationEnded)
        return ended

    async def outcome(self, migration: str) -> ev.Outcome:
        """How it ended; in doubt if it has not."""
        ended = await self.ended(migration)
        return ev.Outcome.IN_DOUBT if ended is None else ended.outcome

    async def doubt(self, migration: str) -> str:
        """What the alarm says, where one whole image is kept and none runs.

        Raises ``ViolatedError`` if there is none, or one runs.
        """
        assert self.subject is not None
        looks = [await self.look(host, self.subject.name) for host in HOSTS]
        states = [seen.state for seen in looks if seen is not None]
        kept = {VmmState.PAUSED, VmmState.LOADED}
        if VmmState.RUNNING in states or not kept & set(states):
            raise ViolatedError(f"in doubt, with VMMs that are {states}")
        alarms = [
            recorded.event.message
            for recorded in await self._recorded(migration)
            if isinstance(recorded.event, ev.DoubtRaised)
        ]
        return "; ".join(alarms)

    async def check(self, migration: str) -> bool:
        """All that must hold now. Returns whether the machine lives. Raises ``ViolatedError``."""
        subject = self.subject
        assert subject is not None
        faults: list[str] = []
        try:
            async with asyncio.timeout(SETTLED_S_MAX):
                while faults := await self._unsettled(subject.name, migration):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            faults = faults or ["looking took too long"]
        recorded = await self._recorded(migration)
        faults += subject.violations
        faults += faults_of_lanes(
            [
                (stored.data, stored.sequence)
                async for stored in self.operations.log.read(subjects.whole_migration(migration))
            ]
        )
        faults += faults_of_migration(recorded)
        lives = bool(await self._running_on(subject.name))
        if lives:
            faults += await self._faults_of_memory(subject.name)
            faults += await self._faults_of_replies(subject)
        if faults:
            raise ViolatedError("; ".join(faults))
        return lives

    async def _recorded(self, migration: str) -> list[Recorded]:
        filters = Scope.of_migration(migration).filters()
        return [codec.decode(s.data, s.sequence) async for s in self.operations.log.read(filters)]

    async def _running_on(self, name: str) -> list[str]:
        looks = {host: await self.look(host, name) for host in HOSTS}
        return [host for host, seen in looks.items() if seen and seen.state is VmmState.RUNNING]

    async def _unsettled(self, name: str, migration: str) -> list[str]:
        """What is still to come, or left behind."""
        operations = self.operations
        record = await operations.record(name)
        faults: list[str] = []
        for host in HOSTS:
            if journals := operations.journals(host):
                faults.append(f"{host} has journals {[path.name for path in journals]}")
            present = name in await operations.machines_on(host)
            if present and host != record.owner:
                faults.append(f"{host} has a VMM, and the register holds {record.value}")
            if host != record.owner and await operations.reservations(host):
                faults.append(f"{host} holds {await operations.reservations(host)}")
            faults += self._left_in_services(host)
        running = await self._running_on(name)
        died = any(
            recorded.envelope.type == "machine_failed"
            for recorded in [
                *await self._recorded(migration),
                *[
                    codec.decode(s.data, s.sequence)
                    async for s in operations.log.read(subjects.whole_machine(name))
                ],
            ]
        )
        if running != [record.owner] and not died:
            faults.append(f"runs on {running}, the register names {record.owner}")
        if record.value not in reg.OWNED:
            faults.append(f"the register holds {record.value}")
        faults += await self._left_in_claims(name)
        return faults

    def _left_in_services(self, host: str) -> list[str]:
        """Memory of machines that a service still holds."""
        faults = []
        for role in Role:
            held = Counter(_memfds(self.cluster.pid(f"{host}-{role}")))
            faults += [f"{host}'s {role} holds {count} of {fd}" for fd, count in held.items()]
        return faults

    async def _left_in_claims(self, name: str) -> list[str]:
        stored = await self.operations.log.last(subjects.claim(name))
        holder = reg.decode_claim(stored.data).migration if stored else ""
        return [f"migration {holder} holds the claim"] if holder else []

    async def _faults_of_memory(self, name: str) -> list[str]:
        checked = await self.operations.ask(name, {"op": "check"})
        whole = checked["bad"] == 0 and checked["table_whole"]
        return [] if whole else [f"the guest's stamps are broken: {checked}"]

    async def _faults_of_replies(self, subject: Subject) -> list[str]:
        """Each question in the log has one reply: none lost, none doubled."""
        async with GuestClient(self.operations.log, subject.name) as client:
            last = await client.exchange(json.dumps({"op": "status"}).encode())
        async with asyncio.timeout(SETTLED_S_MAX):
            while True:
                faults = await self._unanswered(subject, last.sequence)
                if not faults or "has 0" not in " ".join(faults):
                    break
        subject.asked_after = last.sequence
        return faults

    async def _unanswered(self, subject: Subject, until: int) -> list[str]:
        log, name = self.operations.log, subject.name
        asked = {
            stored.headers[MESSAGE_ID_HEADER]: stored.sequence
            async for stored in log.read(
                [subjects.guest_request(name)], after_sequence=subject.asked_after
            )
            if stored.sequence <= until
        }
        replies = Counter[str]()
        async for stored in log.read(
            [subjects.guest_reply(name)], after_sequence=subject.asked_after
        ):
            replies[stored.headers[REQUEST_HEADER]] += 1
        return [
            f"question {sequence} has {replies[request]} replies"
            for request, sequence in asked.items()
            if replies[request] != 1
        ]


def _is_stopped(pid: int) -> bool:
    return _state(pid) == "T"


def is_dead(pid: int) -> bool:
    """Whether a process has ended, though perhaps nobody has reaped it yet."""
    return _state(pid) in {"", "Z", "X"}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def _memfds(pid: int) -> list[str]:
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = str(fd.readlink())
            if target.startswith("/memfd:"):
                found.append(target)
    return found


async def until(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait until something is so. Raises ``ViolatedError``."""
    try:
        async with asyncio.timeout(timeout_s):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise ViolatedError(f"{what} not within {timeout_s:g} s") from None


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


Json = dict[str, Any]
