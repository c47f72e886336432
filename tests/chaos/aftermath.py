"""What must hold when a migration is over, whatever was broken while it went on."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Final

from arena import HOSTS, POLL_S, SETTLED_S_MAX, Arena, Exchanges, Subject, ViolatedError
from processes import memfds, sockets
from stamped_trainer import TRAINED
from steps import Role

from godwit.cli.guest_client import REQUEST_HEADER, GuestClient
from godwit.cli.resolve import find_doubt, order_run
from godwit.hypervisor.port import VmmState
from godwit.local_cluster import process_tree
from godwit_protocol import codec, ledger, subjects
from godwit_protocol import register as reg
from godwit_protocol.events import Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.replay.verification import UNENDED, verify
from godwit_protocol.stored import MESSAGE_ID_HEADER, Stored

END_S_MAX: Final = 75.0
VMM_SOCKETS: Final = 1
"""What the source's service of the machine's host holds to watch it. No other service holds any."""
TOLD: Final = {
    ledger.EntryKind.HELD: rev.ReservationGranted,
    ledger.EntryKind.REFUSED: rev.ReservationRefused,
    ledger.EntryKind.CONFIRMED: rev.ReservationConfirmed,
    ledger.EntryKind.RELEASED: rev.ReservationReleased,
    ledger.EntryKind.EXPIRED: rev.ReservationExpired,
}
"""What the tracker says of each line of a ledger."""


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
    subject.former = migration
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
    faults += await _left_untold(arena, name)
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


async def _left_untold(arena: Arena, name: str) -> list[str]:
    """Of each of the machine's reservations the events say what the ledger does."""
    kinds: dict[str, ledger.EntryKind] = {}
    for host in HOSTS:
        for stored in await _stored(arena, (subjects.ledger(host),)):
            entry = ledger.decode_entry(stored.data)
            if entry.machine == name:
                kinds[entry.reservation] = entry.kind
    types = [each.TYPE for each in TOLD.values()]
    filters = [*subjects.whole_machine(name)]
    filters += [subjects.migration("*", Lane.TRACKER, each) for each in types]
    told = set()
    for stored in await _stored(arena, tuple(filters)):
        event = codec.decode(stored.data, stored.sequence).event
        if isinstance(event, tuple(TOLD.values())):
            told.add((event.reservation, type(event)))
    return [
        f"nobody was told that reservation {reservation} is {kind}"
        for reservation, kind in kinds.items()
        if (reservation, TOLD[kind]) not in told
    ]


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
        may_hold = VMM_SOCKETS if name == arena.service(owner, Role.SOURCE) else 0
        if held > at_rest + may_hold:
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


async def look_once_more(arena: Arena, subject: Subject | None) -> None:
    """At the end, when no cell follows that would see it: whether a question of any cell has been
    answered a second time since. Raises ``ViolatedError``.
    """
    if subject is not None:
        await _read_exchanges(arena, subject)
        if faults := _doubled(subject.exchanges):
            raise ViolatedError("; ".join(faults))


async def _faults_of_replies(arena: Arena, subject: Subject, *, lives: bool) -> list[str]:
    """No question of the machine's life has two replies. If it lives, each has one by the end."""
    if lives:
        async with GuestClient(arena.operations.log, subject.name) as client:
            last = await client.exchange(json.dumps(TRAINED).encode())
        async with asyncio.timeout(SETTLED_S_MAX):
            while await _is_one_open(arena, subject, last.sequence):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
    else:
        await _read_exchanges(arena, subject)
    return _doubled(subject.exchanges)


async def _is_one_open(arena: Arena, subject: Subject, until: int) -> bool:
    """Whether a question has no reply yet, of those up to a place in the log."""
    await _read_exchanges(arena, subject)
    known = subject.exchanges
    return any(
        not known.replies[question] for question, asked in known.asked.items() if asked <= until
    )


async def _read_exchanges(arena: Arena, subject: Subject) -> None:
    """Go on reading where it was left: questions and replies are in one stream."""
    known, name = subject.exchanges, subject.name
    filters = [subjects.guest_request(name), subjects.guest_reply(name)]
    async for stored in arena.operations.log.read(filters, after_sequence=known.read_until):
        if stored.subject == subjects.guest_request(name):
            known.asked[stored.headers[MESSAGE_ID_HEADER]] = stored.sequence
        else:
            known.replies[stored.headers[REQUEST_HEADER]] += 1
        known.read_until = stored.sequence


def _doubled(known: Exchanges) -> list[str]:
    return [
        f"question {known.asked.get(question, question)} has {count} replies"
        for question, count in known.replies.items()
        if count > 1
    ]
