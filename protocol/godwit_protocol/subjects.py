"""Subjects and the streams that hold them: who may find what where.

``godwit.v1.migration.<id>.<lane>.<type>``            facts of a migration, one lane a writer role
``godwit.v1.machine.<machine>.<lane>.<type>``         facts of a machine's life on its host
``godwit.v1.host.<host>.<service>.<scope>.<id>.<lane>.<type>``
                                                      a fact that is also a decision addressed to a
                                                      service of a host: it waits there while that
                                                      is down; scope is ``migration`` or ``machine``
``godwit.v1.inventory.<host>``                        what a host has, announced at its start
``godwit.v1.register.<machine>``                      the register: compare-and-set only
``godwit.v1.claim.<machine>``                         which migration may move the machine: CAS only
``godwit.v1.ledger.<host>``                           reservations on a host's GPUs: CAS only
``godwit.v1.guest.<machine>.request`` / ``.reply``    guest I/O
``godwit.v1.history.machine.<machine>``               what estimates are made from: the last windows
``godwit.v1.history.link.<source>.<destination>``     of a machine's writes, samples of a link
``godwit.v1.archived.<id>``                           the archive that a migration has gone to
``godwit.v1.beginning.<service>``                     where that service may begin to read events
``godwit.v1.telemetry.<scope>.<id>.<kind>``           live progress; nobody relies on it
``godwit.live.v1.…``                                  each event once more when it is stored, for
                                                      those who may only watch
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from .errors import InvalidInputError

ROOT: Final = "godwit.v1"
LIVE_ROOT: Final = "godwit.live.v1"
NAME_PATTERN: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

EVENTS: Final = "GODWIT_EVENTS"
REGISTER: Final = "GODWIT_REGISTER"
LEDGER: Final = "GODWIT_LEDGER"
GUEST: Final = "GODWIT_GUEST"
HISTORY: Final = "GODWIT_HISTORY"
ARCHIVED: Final = "GODWIT_ARCHIVED"
BEGINNINGS: Final = "GODWIT_BEGINNINGS"
TELEMETRY: Final = "GODWIT_TELEMETRY"

STREAM_SUBJECTS: Final[dict[str, tuple[str, ...]]] = {
    EVENTS: (
        f"{ROOT}.migration.>",
        f"{ROOT}.machine.>",
        f"{ROOT}.host.>",
        f"{ROOT}.inventory.*",
    ),
    REGISTER: (f"{ROOT}.register.*", f"{ROOT}.claim.*"),
    LEDGER: (f"{ROOT}.ledger.*",),
    GUEST: (f"{ROOT}.guest.*.request", f"{ROOT}.guest.*.reply"),
    HISTORY: (f"{ROOT}.history.machine.*", f"{ROOT}.history.link.*.*"),
    ARCHIVED: (f"{ROOT}.archived.*",),
    BEGINNINGS: (f"{ROOT}.beginning.*",),
    TELEMETRY: (f"{ROOT}.telemetry.>",),
}

_STREAM_BY_KIND: Final[dict[str, str]] = {
    subject.split(".")[2]: stream
    for stream, subjects in STREAM_SUBJECTS.items()
    for subject in subjects
}


def checked_name(name: str, what: str) -> str:
    """Return ``name`` if it can stand in a subject, a path and a DNS label.

    Raises ``InvalidInputError`` naming ``what`` (such as ``machine``).
    """
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidInputError(
            f"{what} name {name!r} is not usable",
            hint="use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
        )
    return name


def stream_of(subject: str) -> str:
    """Return the stream that holds ``subject`` (which may have wildcards after its kind).

    Raises ``InvalidInputError`` if no stream does.
    """
    tokens = subject.split(".")
    stream = _STREAM_BY_KIND.get(tokens[2]) if len(tokens) > 3 else None
    if stream is None or tokens[:2] != ROOT.split("."):
        raise InvalidInputError(f"no stream holds subject {subject!r}")
    return stream


def matches(wanted: Sequence[str], tokens: Sequence[str]) -> bool:
    """Whether a filter gives a subject, both split at the dots."""
    if wanted[-1] == ">":
        if len(tokens) < len(wanted):
            return False
        wanted = wanted[:-1]
    elif len(tokens) != len(wanted):
        return False
    return all(token in ("*", other) for token, other in zip(wanted, tokens, strict=False))


def filter_of(filters: Sequence[str]) -> Callable[[str], object]:
    """Whether any of the filters gives a subject: for many subjects, in a fraction of the time."""
    return re.compile("|".join(map(_pattern, filters)) or r"\Z").match


def _pattern(wanted: str) -> str:
    """Of how a subject begins: what ``>`` gives need not be looked at."""
    tokens = {"*": r"[^.]+", ">": "."}
    begin = r"\.".join(tokens.get(token) or re.escape(token) for token in wanted.split("."))
    return begin if wanted.endswith(">") else begin + r"\Z"


def migration(migration_id: str, lane: str, event_type: str) -> str:
    """Subject of a migration's fact."""
    return f"{ROOT}.migration.{migration_id}.{lane}.{event_type}"


def machine(name: str, lane: str, event_type: str) -> str:
    """Subject of a fact of a machine's life."""
    return f"{ROOT}.machine.{name}.{lane}.{event_type}"


def addressed(
    host: str, service: str, scope: str, scope_id: str, lane: str, event_type: str
) -> str:
    """Subject of a decision that waits for ``service`` on ``host``."""
    return f"{ROOT}.host.{host}.{service}.{scope}.{scope_id}.{lane}.{event_type}"


def whole_migration(migration_id: str) -> tuple[str, ...]:
    """Filters that together give all events of one migration (``*`` for all migrations)."""
    return (
        f"{ROOT}.migration.{migration_id}.>",
        f"{ROOT}.host.*.*.migration.{migration_id}.>",
    )


def whole_machine(name: str) -> tuple[str, ...]:
    """Filters that together give all events of one machine's life (``*`` for all machines)."""
    return (f"{ROOT}.machine.{name}.>", f"{ROOT}.host.*.*.machine.{name}.>")


def inbox(host: str, service: str) -> str:
    """Filter for all decisions addressed to a service of a host."""
    return f"{ROOT}.host.{host}.{service}.>"


def inventory(host: str) -> str:
    """Subject of a host's inventory."""
    return f"{ROOT}.inventory.{host}"


def register(machine_name: str) -> str:
    """The register of a machine."""
    return f"{ROOT}.register.{machine_name}"


def claim(machine_name: str) -> str:
    """The claim on a machine: which migration may move it."""
    return f"{ROOT}.claim.{machine_name}"


def ledger(host: str) -> str:
    """The ledger of reservations on a host."""
    return f"{ROOT}.ledger.{host}"


def guest_request(machine_name: str) -> str:
    """Where requests to a guest are published."""
    return f"{ROOT}.guest.{machine_name}.request"


def guest_reply(machine_name: str) -> str:
    """Where a guest's replies are published."""
    return f"{ROOT}.guest.{machine_name}.reply"


def machine_history(machine_name: str) -> str:
    """The last windows of a machine's writes; the last message is all of it."""
    return f"{ROOT}.history.machine.{machine_name}"


def link_history(source: str, destination: str) -> str:
    """The last samples of a link between two hosts; the last message is all of it."""
    return f"{ROOT}.history.link.{source}.{destination}"


def archived(migration_id: str) -> str:
    """Where it is said that a migration has left the server; the last message is all of it."""
    return f"{ROOT}.archived.{migration_id}"


def beginning(service: str) -> str:
    """Where it is said from where on a service must read; the last message is all of it."""
    return f"{ROOT}.beginning.{service}"


def telemetry(scope: str, scope_id: str, kind: str) -> str:
    """Subject of live progress."""
    return f"{ROOT}.telemetry.{scope}.{scope_id}.{kind}"
