"""The register: the one record of who may run a machine, with its epoch. Written by CAS only.

The values are the design's (section 4)::

    S(e) --destination, after GO----------> D(e+1)
    S(e) --source, before GO--------------> S2(e+1)
    S(e) --source, after GO---------------> B(e) --quarantine proven--> S2(e+1)
    S(e), B(e) --destination, source's host fenced--> D(e+1)

A role that an operator ordered to run the machine takes it from whatever stands. ``D`` and ``S2``
are what ``S`` is for the next migration: an owner with an epoch. A stopped machine is owned by
nobody; so is one that was lost with its hosts, which the coordinator writes::

    any of the migration's --both hosts have nothing, one is off--> lost(e+2)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from .errors import LocalProtocolError
from .unpacking import unpack

RECORD_BYTES_MAX: Final = 4096


class RegisterValue(StrEnum):
    """How the present owner came by the machine, or what is intended with it."""

    STARTED = "S"
    ABORT_INTENDED = "B"
    TAKEN_BACK = "S2"
    MOVED = "D"
    STOPPED = "stopped"
    LOST = "lost"


class RegisterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One value of the register.

    ``nonce`` tells after an unclear write whether what stands is ours. It is made of who writes
    what for which migration, so that a restarted writer recognises its own earlier attempt.
    """

    value: RegisterValue
    machine: str
    owner: str
    epoch: int
    migration: str = ""
    nonce: str = ""
    start: str = ""
    """The attempt to start it by which this life of the machine began."""
    stop: str = ""
    """Of a stopped machine: the attempt that stopped it."""


class RegisterView(msgspec.Struct, frozen=True):
    """A record with its position: what the next compare-and-set expects. ``sequence`` 0: none."""

    record: RegisterRecord | None
    sequence: int


NO_REGISTER = RegisterView(None, 0)
OWNED = frozenset({RegisterValue.STARTED, RegisterValue.TAKEN_BACK, RegisterValue.MOVED})
UNOWNED = frozenset({RegisterValue.STOPPED, RegisterValue.LOST})
"""Nobody has the machine: it may be started anew."""


def started(
    machine: str, host: str, previous: RegisterRecord | None, start: str = ""
) -> RegisterRecord:
    """The record that lets ``host`` run a machine that nobody runs. ``start``: the attempt's id."""
    epoch = 1 if previous is None else previous.epoch + 1
    return RegisterRecord(
        value=RegisterValue.STARTED,
        machine=machine,
        owner=host,
        epoch=epoch,
        nonce="/".join(filter(None, (host, "S", str(epoch), start))),
        start=start,
    )


def stopped(current: RegisterRecord, stop: str = "") -> RegisterRecord:
    """The record of a machine that its owner has stopped. ``stop``: the attempt's id."""
    record = _next(current, RegisterValue.STOPPED, current.owner, "", current.epoch)
    return msgspec.structs.replace(record, stop=stop)


def lost(
    found: RegisterRecord | None, machine: str, migration: str, epoch: int
) -> RegisterRecord | None:
    """The record of a machine that is lost with the hosts of ``migration``, to be written over
    ``found``; None if the machine has gone on since, or is written off already.

    ``epoch``: the one in which the migration found the machine. The record's is later than any that
    the migration can have written, whatever of that the register has lost: all that its hosts may
    still hold is older.
    """
    if has_gone_on(found, migration, epoch):
        return None
    newest = max(epoch + 1, 0 if found is None else found.epoch)
    return RegisterRecord(
        value=RegisterValue.LOST,
        machine=machine,
        owner="",
        epoch=newest + 1,
        nonce=f"{migration}/{RegisterValue.LOST}/{newest + 1}",
        start="" if found is None else found.start,
    )


def is_lost_with(record: RegisterRecord | None, migration: str) -> bool:
    """Whether the machine was written off for ``migration``, and has not been started since."""
    if record is None or record.value is not RegisterValue.LOST:
        return False
    return record.nonce.startswith(f"{migration}/")


def moved(current: RegisterRecord, destination: str, migration: str) -> RegisterRecord:
    """D(e+1): the destination owns the machine."""
    return _next(current, RegisterValue.MOVED, destination, migration, current.epoch + 1)


def taken_back(current: RegisterRecord, migration: str) -> RegisterRecord:
    """S2(e+1): the source took the machine back, from S(e) or from B(e)."""
    return _next(current, RegisterValue.TAKEN_BACK, current.owner, migration, current.epoch + 1)


def claimed(current: RegisterRecord, destination: str, migration: str) -> RegisterRecord:
    """D(e+1) as ``moved``, also from B(e): by proof that the source's host is fenced."""
    if current.value is RegisterValue.ABORT_INTENDED:
        current = msgspec.structs.replace(current, value=RegisterValue.STARTED)
    return moved(current, destination, migration)


def overruled(current: RegisterRecord, source: str, migration: str) -> RegisterRecord:
    """S2(e+1) as ``taken_back``, also from D(e): an operator gave the machine to the source."""
    return taken_back(msgspec.structs.replace(current, owner=source), migration)


def abort_intended(current: RegisterRecord, migration: str) -> RegisterRecord:
    """B(e): the source still owns it, and nobody may activate it any more."""
    return _next(current, RegisterValue.ABORT_INTENDED, current.owner, migration, current.epoch)


def _next(
    current: RegisterRecord, value: RegisterValue, owner: str, migration: str, epoch: int
) -> RegisterRecord:
    legal = OWNED
    if value is RegisterValue.TAKEN_BACK:
        legal |= {RegisterValue.ABORT_INTENDED}
    if current.value not in legal:
        raise LocalProtocolError(f"register of {current.machine}: {current.value} -> {value}")
    return RegisterRecord(
        value=value,
        machine=current.machine,
        owner=owner,
        epoch=epoch,
        migration=migration,
        nonce=f"{migration}/{owner}/{value}/{epoch}",
        start=current.start,
    )


def has_gone_on(record: RegisterRecord | None, migration: str, epoch: int) -> bool:
    """Whether somebody wrote the register after all that ``migration`` can have written.

    ``epoch``: the one in which the migration found the machine; it writes no later one than the
    next.
    """
    return record is not None and record.epoch > epoch and record.migration != migration


def has_gone_back(found: RegisterView, seen: RegisterView) -> bool:
    """Whether a register that shows ``found`` has lost a write: it shows less than was ``seen`` of
    it, or another owner in the same epoch. Sequences decide within an epoch only: a stream that has
    lost messages gives theirs to others.
    """
    if seen.record is None or found.record is None:
        return seen.record is not None
    if found.record.epoch != seen.record.epoch:
        return found.record.epoch < seen.record.epoch
    if found.record.owner != seen.record.owner:
        return True
    return found.record.value != seen.record.value and found.sequence <= seen.sequence


def raised(found: RegisterView, seen: RegisterView) -> RegisterView:
    """What an operator's order writes over where ``found`` has gone back from ``seen``: the same in
    the newest epoch that was seen, so that no epoch has two owners. It says nothing of who has had
    the machine since.
    """
    if found.record is None or seen.record is None:
        return found
    epoch = max(found.record.epoch, seen.record.epoch)
    return RegisterView(msgspec.structs.replace(found.record, epoch=epoch), found.sequence)


def restored(
    seen: RegisterView, found: RegisterView, host: str, running_epoch: int
) -> RegisterRecord | None:
    """The record that ``host`` may write again over ``found``, which has gone back; None if none.

    Only what gave the machine to ``host``, which runs it in just that epoch, or in an older one if
    ``found`` names it all the same; and only if nobody has been given it in that epoch or a later
    one since.
    """
    record = seen.record
    if record is None or not may_run(record, host) or record.epoch < running_epoch:
        return None
    if record.epoch > running_epoch and not may_run(found.record, host):
        return None
    if found.record is not None and found.record.epoch >= record.epoch:
        return None
    return msgspec.structs.replace(record, nonce=f"{record.nonce}/over {found.sequence}")


def given(found: RegisterRecord, host: str, epoch: int, migration: str) -> RegisterRecord | None:
    """The record by which ``host`` runs the machine in ``epoch``, of which ``found`` is older.

    ``migration`` brought the machine there, if it was not there before. None if it was stopped, or
    lost: of its next life nothing is known.
    """
    if found.value in UNOWNED:
        return None
    if found.owner == host:
        record = taken_back(found, found.migration)
    else:
        record = claimed(found, host, migration)
    return msgspec.structs.replace(record, epoch=epoch)


def may_run(record: RegisterRecord | None, host: str) -> bool:
    """Whether the register names ``host`` as the one that may run the machine."""
    return record is not None and record.owner == host and record.value in OWNED


def encode(record: RegisterRecord) -> bytes:
    """Return the record as MessagePack."""
    return msgspec.msgpack.encode(record)


def decode(data: bytes) -> RegisterRecord:
    """Return the record. Raises ``CorruptError`` for anything that is not one."""
    return unpack(_record_decoder, data, "a register record", bytes_max=RECORD_BYTES_MAX)


def encode_view(view: RegisterView) -> bytes:
    """Return the view as MessagePack."""
    return msgspec.msgpack.encode(view)


def decode_view(data: bytes) -> RegisterView:
    """Return the view. Raises ``CorruptError`` for anything that is not one."""
    return unpack(_view_decoder, data, "a register view", bytes_max=RECORD_BYTES_MAX)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Which migration may move the machine; an empty ``migration`` is a free claim."""

    machine: str
    migration: str


def encode_claim(claim: Claim) -> bytes:
    """Return the claim as MessagePack."""
    return msgspec.msgpack.encode(claim)


def decode_claim(data: bytes) -> Claim:
    """Return the claim. Raises ``CorruptError`` for anything that is not one."""
    return unpack(_claim_decoder, data, "a claim", bytes_max=RECORD_BYTES_MAX)


_record_decoder: Final = msgspec.msgpack.Decoder(RegisterRecord)
_view_decoder: Final = msgspec.msgpack.Decoder(RegisterView)
_claim_decoder: Final = msgspec.msgpack.Decoder(Claim)
