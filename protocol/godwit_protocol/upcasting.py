"""Events of former schema versions, made to events of today's. Pure: fields in, fields out.

A new version of the schema adds an entry here for each event whose fields do not mean any more what
they did, and a golden log of its own; those of the versions before stay as they are. An optional
field needs no new version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from .errors import CorruptError

FIRST_VERSION: Final = 1

Fields: TypeAlias = dict[str, object]
"""An event's own map: the envelope around it is read as it stands."""
Upcaster: TypeAlias = Callable[[Fields], Fields]

UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = MappingProxyType({})
"""By type and version: what makes the fields of that version those of the next. An event that has
none stayed as it was. Empty: there has been one version only.
"""


def upcast(
    event_type: str,
    fields: Fields,
    *,
    written_in: int,
    read_in: int,
    upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> Fields:
    """Return the fields as version ``read_in`` has them, one version after the other.

    Raises ``CorruptError`` for a version that never was, and for fields that an upcaster cannot
    read.
    """
    if written_in < FIRST_VERSION:
        raise CorruptError(f"{event_type} is of schema version {written_in}, which never was")
    for version in range(written_in, read_in):
        step = upcasters.get((event_type, version))
        if step is not None:
            fields = _stepped(step, event_type, version, fields)
    return fields


def _stepped(step: Upcaster, event_type: str, version: int, fields: Fields) -> Fields:
    try:
        return step(fields)
    except Exception as error:
        raise CorruptError(
            f"{event_type} of schema version {version} cannot be read: {error!r}"
        ) from error
