"""The ledger of a host's GPUs: its lines, their fold, and whether a profile fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from . import subjects
from .catalogue import Catalogue
from .errors import CorruptError
from .events.machine import GpuInventory
from .events.reservation import Placement
from .placement.clearing import Clearing, Occupant, clear
from .placement.fleet import Fleet, GpuAt, UndecidedError
from .placement.geometry import Seat
from .placement.policy import DeviceGroup, Policy
from .placement.shapes import solver
from .stored import Stored
from .unpacking import unpack

ENTRY_BYTES_MAX: Final = 64 * 1024
RESERVATION_ID_MAX: Final = 128
"""Characters of a reservation's id, which is a migration's or a start's."""
SETTLED_MAX: Final = 10_000
"""Refused, released and expired reservations that a picture remembers, the newest."""
RESERVATION_LIFE_NS: Final = 600_000_000_000
"""So long after it was asked for, a reservation that nobody uses may be ended."""
START_MARGIN_NS: Final = 300_000_000_000
"""So long before its reservation expires, a start that is not done is given up. Clocks that differ
by less harm nothing.
"""


class RefusalCode(StrEnum):
    """Why a reservation was refused."""

    HOST_UNKNOWN = "host_unknown"
    NO_GPU = "no_gpu"
    DOES_NOT_FIT = "does_not_fit"
    MODEL_MISMATCH = "model_mismatch"
    PROFILE_UNKNOWN = "profile_unknown"
    PROFILE_TOO_SMALL = "profile_too_small"
    NO_DEVICE_GROUP = "no_device_group"
    INVALID_REQUEST = "invalid_request"
    TOO_MANY_WAITING = "too_many_waiting"
    EXPIRED = "expired"


class EntryKind(StrEnum):
    """What a line of the ledger says of its reservation."""

    HELD = "held"
    REFUSED = "refused"
    CONFIRMED = "confirmed"
    RELEASED = "released"
    EXPIRED = "expired"


_ENDS_WITH_REFUSAL: Final = frozenset({EntryKind.REFUSED, EntryKind.EXPIRED})


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A typed no."""

    code: RefusalCode
    message: str


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a host's ledger. A refusal stands in it too: whoever reads it, says the same.

    ``expires_wall_ns``: when a holding that is not confirmed ends; 0: never.
    """

    kind: EntryKind
    reservation: str
    machine: str
    host: str
    placements: tuple[Placement, ...] = ()
    refusal: Refusal | None = None
    why: str = ""
    expires_wall_ns: int = 0


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A reservation that stands. ``expires_wall_ns`` as in its line."""

    reservation: str
    machine: str
    placements: tuple[Placement, ...]
    confirmed: bool
    expires_wall_ns: int = 0

    def has_lapsed(self, now_wall_ns: int) -> bool:
        """Whether its deadline has passed before anybody used it."""
        return not self.confirmed and 0 < self.expires_wall_ns <= now_wall_ns


class HostPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One host: its GPUs, what is held on them, and the ledger's last sequence."""

    host: str
    announced: bool = False
    gpus: tuple[GpuInventory, ...] = ()
    holdings: dict[str, Holding] = {}
    settled: dict[str, Refusal | None] = {}
    """Reservations that are over: refused, expired, or released (None). None is decided again."""
    sequence: int = 0

    def free_bytes(self, gpu: int) -> int:
        """Framebuffer bytes of a GPU that nothing holds."""
        total = next(item.memory_bytes for item in self.gpus if item.index == gpu)
        used = sum(
            placement.framebuffer_bytes
            for holding in self.holdings.values()
            for placement in holding.placements
            if placement.gpu == gpu
        )
        return total - used


class ProfileWanted(msgspec.Struct, frozen=True, kw_only=True):
    """One vGPU that is asked for. ``models``: the GPU models that offer the profile."""

    profile: str
    models: tuple[str, ...]
    framebuffer_bytes: int


def may_start(expires_wall_ns: int, now_wall_ns: int) -> bool:
    """Whether a machine may take its reservation into use: long enough before that expires (0:
    never) for all to hear of it.
    """
    return not expires_wall_ns or now_wall_ns + START_MARGIN_NS <= expires_wall_ns


def encode_entry(entry: LedgerEntry) -> bytes:
    """Return the entry as MessagePack."""
    return msgspec.msgpack.encode(entry)


def decode_entry(data: bytes) -> LedgerEntry:
    """Return the entry. Raises ``CorruptError`` for anything that is not one."""
    entry = unpack(_entry_decoder, data, "a ledger entry", bytes_max=ENTRY_BYTES_MAX)
    if (entry.kind in _ENDS_WITH_REFUSAL) != (entry.refusal is not None):
        raise CorruptError(f"the ledger entry of {entry.reservation} has a refusal or lacks one")
    return entry


def line_of(stored: Stored) -> LedgerEntry:
    """Return the entry that a message of a ledger is. Raises ``CorruptError`` if it is none, or is
    of another host than its ledger: everybody who folds a ledger passes over such a line.
    """
    entry = decode_entry(stored.data)
    if stored.subject != subjects.ledger(entry.host):
        raise CorruptError(f"a line of host {entry.host} stands in another's ledger")
    return entry


_entry_decoder: Final = msgspec.msgpack.Decoder(LedgerEntry)


def apply(picture: HostPicture, entry: LedgerEntry, sequence: int) -> HostPicture:
    """Fold one ledger entry, stored at ``sequence``. Ending what is not held changes nothing, and
    what is confirmed does not expire.
    """
    holdings, settled = dict(picture.holdings), picture.settled
    held = holdings.get(entry.reservation)
    if entry.kind is EntryKind.HELD:
        holdings[entry.reservation] = Holding(
            reservation=entry.reservation,
            machine=entry.machine,
            placements=entry.placements,
            confirmed=False,
            expires_wall_ns=entry.expires_wall_ns,
        )
    elif entry.kind is EntryKind.CONFIRMED:
        if held is not None:
            holdings[entry.reservation] = msgspec.structs.replace(held, confirmed=True)
    elif not (entry.kind is EntryKind.EXPIRED and held is not None and held.confirmed):
        holdings.pop(entry.reservation, None)
        settled = _remember(settled, entry)
    return msgspec.structs.replace(picture, holdings=holdings, settled=settled, sequence=sequence)


def _remember(settled: dict[str, Refusal | None], entry: LedgerEntry) -> dict[str, Refusal | None]:
    kept = settled.copy()  # in one piece: a display would put in one by one what has holes
    kept[entry.reservation] = entry.refusal
    while len(kept) > SETTLED_MAX:
        del kept[next(iter(kept))]
    return kept


def wanted(
    profiles: tuple[str, ...], framebuffer_bytes: tuple[int, ...], catalogue: Catalogue
) -> tuple[ProfileWanted, ...] | Refusal:
    """What a request names, in the catalogue's terms: a profile takes its whole size of a GPU."""
    if len(profiles) != len(framebuffer_bytes):
        message = f"{len(profiles)} profiles, but {len(framebuffer_bytes)} framebuffers"
        return Refusal(code=RefusalCode.INVALID_REQUEST, message=message)
    found: list[ProfileWanted] = []
    for name, used_bytes in zip(profiles, framebuffer_bytes, strict=True):
        offered = catalogue.profiles.get(name)
        if offered is None:
            message = f"no vGPU profile is called {name!r}"
            return Refusal(code=RefusalCode.PROFILE_UNKNOWN, message=message)
        if used_bytes > offered.framebuffer_bytes:
            message = f"{name} has {offered.framebuffer_bytes} bytes, {used_bytes} are asked for"
            return Refusal(code=RefusalCode.PROFILE_TOO_SMALL, message=message)
        found.append(
            ProfileWanted(
                profile=name, models=offered.models, framebuffer_bytes=offered.framebuffer_bytes
            )
        )
    return tuple(found)


def narrowed(picture: HostPicture, gpus: tuple[int, ...] | None) -> HostPicture:
    """The host as if it had only these GPUs; all of them for None."""
    if gpus is None:
        return picture
    kept = tuple(gpu for gpu in picture.gpus if gpu.index in gpus)
    return msgspec.structs.replace(picture, gpus=kept)


def decide(
    picture: HostPicture | None,
    host: str,
    wanted: tuple[ProfileWanted, ...],
    catalogue: Catalogue,
    *,
    policy: Policy = Policy.CONSOLIDATE,
    group: DeviceGroup = DeviceGroup.NONE,
) -> tuple[Placement, ...] | Refusal:
    """Where the wanted vGPUs go on ``host`` by the policy, or why not: exact. One vGPU alone is
    any group.
    """
    if picture is None or not picture.announced:
        return Refusal(
            code=RefusalCode.HOST_UNKNOWN, message=f"host {host} has not announced its GPUs"
        )
    for vgpu in wanted:
        if (refusal := _unsuited(picture, vgpu)) is not None:
            return refusal
    fleet = index((picture,), catalogue)
    profiles = [vgpu.profile for vgpu in wanted]
    try:
        places = fleet.choose_all(profiles, policy, group if len(wanted) > 1 else DeviceGroup.NONE)
        if places is None and group is not DeviceGroup.NONE and fleet.choose_all(profiles, policy):
            return _no_group(picture, profiles, group)
    except UndecidedError as error:
        return Refusal(code=RefusalCode.DOES_NOT_FIT, message=error.message)
    if places is None:
        return _does_not_fit(picture, fleet, wanted, catalogue)
    return tuple(
        Placement(
            gpu=place.gpu.gpu,
            profile=vgpu.profile,
            framebuffer_bytes=vgpu.framebuffer_bytes,
            mode=place.seat.mode,
            start=place.seat.start,
            slots=place.seat.slots,
        )
        for place, vgpu in zip(places, wanted, strict=True)
    )


def _unsuited(picture: HostPicture, vgpu: ProfileWanted) -> Refusal | None:
    if not picture.gpus:
        return Refusal(code=RefusalCode.NO_GPU, message=f"host {picture.host} has no GPU")
    if any(gpu.model in vgpu.models for gpu in picture.gpus):
        return None
    have = ", ".join(sorted({gpu.model for gpu in picture.gpus}))
    needed = " or ".join(vgpu.models)
    message = f"{vgpu.profile} needs a {needed}; host {picture.host} has {have}"
    return Refusal(code=RefusalCode.MODEL_MISMATCH, message=message)


def index(pictures: Iterable[HostPicture], catalogue: Catalogue) -> Fleet:
    """The hosts' GPUs. One that the catalogue lacks, or on which it is not known what sits where,
    takes nothing and is left out.
    """
    fleet = Fleet(solver(catalogue))
    for picture in pictures:
        for gpu in picture.gpus:
            try:
                if gpu.model in catalogue.models:
                    seats = [occupant.seat for occupant in occupants(picture, gpu.index)]
                    at = GpuAt(picture.host, gpu.index)
                    island = _island(gpu) and f"{picture.host}: {_island(gpu)}"
                    fleet.put(at, gpu.model, seats, island=island)
            except CorruptError:
                continue
    return fleet


def _island(gpu: GpuInventory) -> str:
    """The GPUs that are NVLink peers of each other and of no others, by name; empty: it has none.

    Where links are not so, as in a ring, GPUs have different peers, and count as no one's: a group
    is then refused that might have done.
    """
    members = sorted({gpu.index, *gpu.nvlink_peers})
    return ",".join(map(str, members)) if len(members) > 1 else ""


def _no_group(picture: HostPicture, profiles: list[str], group: DeviceGroup) -> Refusal:
    near = "on one GPU" if group is DeviceGroup.ONE_GPU else "each on a GPU of one NVLink group"
    message = f"{' and '.join(profiles)} would fit on host {picture.host}, but not {near}"
    if group is DeviceGroup.NVLINK:
        islands = sorted({island for gpu in picture.gpus if (island := _island(gpu))})
        message += f"; its NVLink groups: {' and '.join(islands) or 'none'}"
    return Refusal(code=RefusalCode.NO_DEVICE_GROUP, message=message)


def occupants(picture: HostPicture, gpu: int) -> list[Occupant]:
    """Who sits where on a GPU, in the order in which they came."""
    return [
        Occupant(holding.machine, Seat(placed.profile, placed.mode, placed.start, placed.slots))
        for holding in picture.holdings.values()
        for placed in holding.placements
        if placed.gpu == gpu
    ]


def _does_not_fit(
    picture: HostPicture, fleet: Fleet, wanted: tuple[ProfileWanted, ...], catalogue: Catalogue
) -> Refusal:
    """The first vGPU for which there is no place beside those before it, and who is in its way."""
    beside: dict[int, list[Occupant]] = {}
    missing = wanted[0]
    for missing in wanted:
        place = fleet.choose(missing.profile, Policy.CONSOLIDATE)
        if place is None:
            break
        fleet.take(place)
        beside.setdefault(place.gpu.gpu, []).append(Occupant("", place.seat))
    found = [
        clearing
        for gpu in picture.gpus
        if gpu.model in missing.models and fleet.knows(GpuAt(picture.host, gpu.index))
        for others in [[*occupants(picture, gpu.index), *beside.get(gpu.index, [])]]
        for clearing in [clear(solver(catalogue), GpuAt(picture.host, gpu.index), gpu.model,
                               others, missing.profile)]
        if clearing is not None
    ]  # fmt: skip
    message = f"{missing.profile} has no place on host {picture.host}"
    if found:
        least = min(found, key=lambda item: (item.moved_bytes, len(item.movers), item.gpu))
        message += f"; {_in_the_way(least)}"
    return Refusal(code=RefusalCode.DOES_NOT_FIT, message=message)


def _in_the_way(clearing: Clearing) -> str:
    who = " and ".join(
        f"{item.seat.profile} of {item.who or 'the machine itself'} (from slot {item.seat.start})"
        for item in clearing.movers
    )
    said = f"on GPU {clearing.gpu.gpu}, {who} would have to move"
    if not clearing.within:
        return said
    starts = " and ".join(str(seat.start) for seat in clearing.within)
    return f"{said}, for which slot {starts} of the same GPU would do"
