"""What must hold when a migration is over, whatever was broken while it went on."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Final

from arena import HOSTS, POLL_S, SETTLED_S_MAX, Arena, Subject, ViolatedError
from processes import memfds, sockets
from stamped_trainer import TRAINED

from godwit.cli.guest_client import REQUEST_HEADER, GuestClient
from godwit.cli.resolve import find_doubt, order_run
from godwit.hypervisor.port import VmmState
from godwit.local_cluster import process_tree
from godwit_protocol import codec, subjects
from godwit_protocol import register as reg
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.replay.verification import UNENDED, verify
from godwit_protocol.stored import MESSAGE_ID_HEADER, Stored

END_S_MAX: Final = 75.0
VMM_SOCKETS_MAX: Final = 3
"""What a service may hold to watch a machine. One that leaks a socket a migration soon has more."""


async def ended(arena: Arena, migration: str) -> ev.MigrationEnded | None:
    """Wait for its end; None if it raised the alarm instead. Raises ``ViolatedError``."""
    try:
        async with asyncio.timeout(END_S_MAX):
            end = await arena.operations.event(migration, ev.MigrationEnded)
    except TimeoutError:
        types = await arena.operations.types(migration)
        if ev.DoubtRaised.TYPE in types:
            return None
        raise ViolatedError(f"no end within {END_S_MAX:g} s, after {types[-3:]}") from None
    assert isinstance(end, ev.MigrationEnded)
    return end


async def outcome(arena: Arena, migration: str) -> ev.Outcome:
    """How it ended; in doubt if it has not."""
    end = await ended(arena, migration)
    return ev.Outcome.IN_DOUBT if end is None else end.outcome


async def doubt(arena: Arena, migration: str) -> str:
    """What the alarm says, where one whole image is kept and none runs.

    Raises ``ViolatedError`` if there is none, or one runs.
    """
    subject = _subject(arena)
    looks = [await arena.look(host, subject.name) for host in HOSTS]
    states = [seen.state for seen in looks if seen is not None]
    kept = {VmmState.PAUSED, VmmState.LOADED}
    if VmmState.RUNNING in states or not kept & set(states) or subject.violations:
        raise ViolatedError(f"in doubt, with VMMs that are {states}; {subject.violations}")
    events = [
        codec.decode(stored.data, stored.sequence).event
        for stored in await _stored(arena, subjects.whole_migration(migration))
    ]
    return "; ".join(each.message for each in events if isinstance(each, ev.DoubtRaised))


async def resolve(arena: Arena, migration: str) -> None:
    """An operator who sees which VMM is dead has the machine run where the other one is.

    Raises ``InDoubtError`` if it is not done, and as ``find_doubt``.
    """
    (host,) = [host for host in HOSTS if arena.vmm_pid(host) is not None]
    found, _ = await find_doubt(arena.operations.log, migration, host)
    order = ev.RunOrdered(target=host, other_is_off=True, requested_by="chaos")
    await order_run(arena.operations.log, found, order)


async def check(arena: Arena, migration: str) -> bool:
    """All that must hold now. Returns whether the machine lives. Raises ``ViolatedError``."""
    subject = _subject(arena)
    faults = await _settled(arena, subject, migration)
    stored = await _stored(arena, subjects.whole_migration(migration))
    faults += subject.violations
    verified = verify(migration, stored)
    faults += [str(fault) for fault in verified.faults]
    faults += [text for text in verified.unproven if text == UNENDED]
    # By the log, which agrees with the VMMs since all is settled; one may be slow to answer now.
    lives = not await _is_dead(arena, await arena.operations.record(subject.name), migration)
    if not faults:
        faults += await _faults_of_memory(arena, subject) if lives else []
        faults += await _faults_of_replies(arena, subject, lives=lives)
    if faults:
        raise ViolatedError("; ".join(faults))
    return lives


def _subject(arena: Arena) -> Subject:
    assert arena.subject is not None, "there is no machine"
    return arena.subject


async def _stored(arena: Arena, filters: tuple[str, ...]) -> list[Stored]:
    return [stored async for stored in arena.operations.log.read(filters)]


# Nothing is left behind.


async def _settled(arena: Arena, subject: Subject, migration: str) -> list[str]:
    """What is still not as it must be when time is up."""
    faults: list[str] = []
    try:
        async with asyncio.timeout(SETTLED_S_MAX):
            while faults := await _unsettled(arena, subject.name, migration):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return faults or ["looking took too long"]
    return []


async def _unsettled(arena: Arena, name: str, migration: str) -> list[str]:
    """What is still to come, or left behind."""
    record = await arena.operations.record(name)
    faults = [] if record.value in reg.OWNED else [f"the register holds {record.value}"]
    died = await _is_dead(arena, record, migration)
    running = await _running_on(arena, name)
    if running != ([] if died else [record.owner]):
        faults.append(f"runs on {running}, died: {died}, the register names {record.owner}")
    if died and arena.vmm_pid(record.owner) is not None:
        faults.append(f"it is said to be dead, and its VMM lives on {record.owner}")
    for host in HOSTS:
        faults += await _left_on(arena, host, name, is_owner=host == record.owner)
    faults += await _left_in_claims(arena, name)
    return faults or _left_in_processes(arena, record.owner)


async def _is_dead(arena: Arena, record: reg.RegisterRecord, migration: str) -> bool:
    """Whether the log says that the machine has died, under the epoch in which it is owned now: an
    operator may have had it run elsewhere when an image had died.
    """
    filters = [*subjects.whole_migration(migration), *subjects.whole_machine(record.machine)]
    for each in await _stored(arena, tuple(filters)):
        recorded = codec.decode(each.data, each.sequence)
        if isinstance(recorded.event, mev.MachineFailed):
            epoch = recorded.event.register_epoch or recorded.envelope.epoch
            if epoch >= record.epoch:
                return True
    return False


async def _running_on(arena: Arena, name: str) -> list[str]:
    looks = {host: await arena.look(host, name) for host in HOSTS}
    return [host for host, seen in looks.items() if seen and seen.state is VmmState.RUNNING]


async def _left_on(arena: Arena, host: str, name: str, *, is_owner: bool) -> list[str]:
    """Files, and the ledger's lines; on the machine's own host the machine has some."""
    operations = arena.operations
    faults = [f"{host} has the journal {path.name}" for path in operations.journals(host)]
    if is_owner:
        return faults
    if name in await operations.machines_on(host):
        faults.append(f"{host} has a VMM that does not own the machine")
    if arena.machine_folder(host).path.exists():
        faults.append(f"{host} has files of the machine")
    if held := await operations.reservations(host):
        faults.append(f"{host} holds {held}")
    return faults


async def _left_in_claims(arena: Arena, name: str) -> list[str]:
    stored = await arena.operations.log.last(subjects.claim(name))
    holder = reg.decode_claim(stored.data).migration if stored else ""
    return [f"migration {holder} holds the claim"] if holder else []


def _left_in_processes(arena: Arena, owner: str) -> list[str]:
    """Processes that are nobody's, and what the services still hold of machines and peers."""
    faults = []
    services = {name: arena.pid(name) for name in arena.services()}
    launchers = {name: arena.cluster.pid(name) for name in arena.launchers()}
    for name, pid in (services | launchers).items():
        faults += [
            f"{name} holds {count} of {memfd}" for memfd, count in Counter(memfds(pid)).items()
        ]
    for name, pid in services.items():
        held, at_rest = sockets(pid), arena.sockets_at_rest[name]
        if held > at_rest + VMM_SOCKETS_MAX:
            faults.append(f"{name} holds {held} sockets, and {at_rest} when there was no machine")
    known = {*services.values(), *launchers.values(), arena.vmm_pid(owner) or 0}
    found = set(process_tree.find_processes(arena.cluster.directory))
    return faults + [f"process {pid} is left" for pid in sorted(found - known)]


# Memory and guest I/O.


async def _faults_of_memory(arena: Arena, subject: Subject) -> list[str]:
    """No page lost or stale; and the training as if nothing had been."""
    checked = await arena.operations.ask(subject.name, {"op": "check"})
    whole = checked["bad"] == 0 and checked["table_whole"]
    faults = [] if whole else [f"the guest's stamps are broken: {checked}"]
    trained = await arena.operations.ask(subject.name, TRAINED)
    return faults + await asyncio.to_thread(subject.twin.faults, trained)


async def _faults_of_replies(arena: Arena, subject: Subject, *, lives: bool) -> list[str]:
    """No question in the log has two replies. Of a machine that lives, each has one by the end."""
    counts = await (_all_replies if lives else _replies)(arena, subject)
    doubled = {asked: count for asked, count in counts.items() if count > 1}
    return [f"question {asked} has {count} replies" for asked, count in doubled.items()]


async def _all_replies(arena: Arena, subject: Subject) -> dict[int, int]:
    """How many replies each question until now has, when each has one. Raises ``TimeoutError``."""
    async with GuestClient(arena.operations.log, subject.name) as client:
        last = await client.exchange(json.dumps(TRAINED).encode())
    async with asyncio.timeout(SETTLED_S_MAX):
        while 0 in (counts := await _replies(arena, subject, last.sequence)).values():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    subject.asked_after = last.sequence
    return counts


async def _replies(arena: Arena, subject: Subject, until: int = sys.maxsize) -> dict[int, int]:
    """How many replies each question has, by its sequence, which is at most ``until``."""
    log, after = arena.operations.log, subject.asked_after
    asked = {
        stored.headers[MESSAGE_ID_HEADER]: stored.sequence
        async for stored in log.read([subjects.guest_request(subject.name)], after_sequence=after)
        if stored.sequence <= until
    }
    replies = Counter[str]()
    async for stored in log.read([subjects.guest_reply(subject.name)], after_sequence=after):
        replies[stored.headers[REQUEST_HEADER]] += 1
    return {sequence: replies[request] for request, sequence in asked.items()}
