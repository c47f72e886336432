"""Hosts and their GPUs as the log shows them: each inventory with the fold of its ledger.

What a GPU's driver told of its load and health a moment ago is shown beside it; nothing goes by
that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from godwit_protocol import codec, ledger, subjects
from godwit_protocol.catalogue import Catalogue, GpuMode
from godwit_protocol.errors import CorruptError, InvalidInputError, NotFoundError
from godwit_protocol.events.machine import GpuInventory, HostAnnounced
from godwit_protocol.facts import GpuTelemetry, HostTelemetry
from godwit_protocol.ledger import EntryKind, HostPicture
from godwit_protocol.placement.fleet import GpuAt
from godwit_protocol.placement.repacking import fragmentation
from godwit_protocol.placement.shapes import solver

from . import reading

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog
    from godwit_protocol.stored import Stored

Source = str
"""A filter of one stream."""
BOOKS: Final[tuple[Source, ...]] = (subjects.inventory("*"), subjects.ledger("*"))
SOURCES: Final = (*BOOKS, subjects.telemetry("host", "*", "gpus"))
"""What a picture is made of."""
TELEMETRY_S_MAX: Final = 20
"""Older telemetry says nothing of now: a host tells it every five seconds."""


class OnGpu(msgspec.Struct, frozen=True, kw_only=True):
    """One vGPU on a GPU, or capacity that is held for it. ``start`` -1: nobody knows where."""

    machine: str
    profile: str
    framebuffer_bytes: int
    mode: GpuMode
    start: int
    slots: int
    state: EntryKind
    reservation: str


class GpuPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU and what sits on it. Sizes in bytes.

    ``fragmentation`` from 0 to 1; None if it is not known how what sits there sits.
    """

    host: str
    gpu: GpuInventory
    free_bytes: int
    holds: tuple[OnGpu, ...]
    fragmentation: float | None = None
    telemetry: GpuTelemetry | None = None

    @property
    def mode(self) -> GpuMode:
        """How the GPU is divided, as what sits on it says."""
        return next((item.mode for item in self.holds), GpuMode.NONE)

    @property
    def health(self) -> str:
        """What is wrong with it, ``ok``, or nothing if nobody has told."""
        told = self.telemetry
        if told is None:
            return ""
        errors = [f"XID {number}" for number in dict.fromkeys(told.xids or ())]
        if told.ecc_uncorrected:
            errors.append(f"{told.ecc_uncorrected} ECC errors")
        known = told.xids is not None or told.ecc_uncorrected is not None
        return ", ".join(errors) or ("ok" if known else "")

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        gpu = self.gpu
        return {
            "host": self.host,
            "gpu": gpu.index,
            "model": gpu.model,
            "simulated": gpu.simulated,
            "mode": self.mode.value,
            "memory_bytes": gpu.memory_bytes,
            "free_bytes": self.free_bytes,
            "fragmentation": self.fragmentation,
            "health": self.health or None,
            "telemetry": msgspec.to_builtins(self.telemetry),
            "holds": [msgspec.to_builtins(item) for item in self.holds],
        }


class Hosts:
    """All hosts, folded from the log's messages in the order of each of its streams."""

    def __init__(self) -> None:
        self._pictures: dict[str, HostPicture] = {}
        self._telemetry: dict[str, HostTelemetry] = {}
        self._heard_ns: dict[str, int] = {}
        """By host: when its telemetry came. Its own clock may be another."""

    @classmethod
    async def read(
        cls, log: EventLog, sources: Sequence[Source] = SOURCES
    ) -> tuple[Hosts, dict[Source, int]]:
        """What the log holds now, and the last sequence of each source.

        Raises ``UnreachableError``.
        """
        hosts, lasts = cls(), dict.fromkeys(sources, 0)
        for source in sources:
            try:
                async for stored in reading.messages(log, (source,)):
                    hosts.learn(stored)
                    lasts[source] = stored.sequence
            except InvalidInputError:
                # Telemetry is kept in memory: a server that was restarted has not even the stream.
                if source in BOOKS:
                    raise
        return hosts, lasts

    def learn(self, stored: Stored) -> None:
        """Take one message; one that cannot be read is passed over. ``time_ns`` of what is heard
        live: when it was.
        """
        try:
            match subjects.stream_of(stored.subject):
                case subjects.LEDGER:
                    self._learn_line(stored)
                case subjects.TELEMETRY:
                    told = msgspec.msgpack.decode(stored.data, type=HostTelemetry)
                    host = stored.subject.split(".")[-2]
                    self._telemetry[host], self._heard_ns[host] = told, stored.time_ns
                case _:
                    self._learn_inventory(stored)
        except (CorruptError, msgspec.MsgspecError):
            return

    def _learn_line(self, stored: Stored) -> None:
        entry = ledger.line_of(stored)
        picture = self._pictures.get(entry.host, HostPicture(host=entry.host))
        self._pictures[entry.host] = ledger.apply(picture, entry, stored.sequence)

    def _learn_inventory(self, stored: Stored) -> None:
        recorded = codec.decode(stored.data, stored.sequence)
        if isinstance(recorded.event, HostAnnounced):
            host = recorded.envelope.host
            picture = self._pictures.get(host, HostPicture(host=host))
            self._pictures[host] = msgspec.structs.replace(
                picture, announced=True, gpus=recorded.event.gpus
            )

    def pictures(self, host: str = "", model: str = "") -> list[HostPicture]:
        """The hosts that have announced themselves, by name, each with the GPUs that are asked for.

        Raises ``NotFoundError`` if there is no such host or GPU.
        """
        announced = [item for _, item in sorted(self._pictures.items()) if item.announced]
        found = [item for item in announced if host in ("", item.host)]
        if host and not found:
            names = ", ".join(item.host for item in announced) or "none has announced itself yet"
            raise NotFoundError(f"there is no host {host!r}", hint=f"hosts: {names}")
        models = sorted({gpu.model for item in found for gpu in item.gpus})
        if model and model not in models:
            raise NotFoundError(f"there is no GPU {model!r}", hint=f"models: {', '.join(models)}")
        return [_of_model(item, model) for item in found] if model else found

    def gpus(
        self, pictures: Sequence[HostPicture], catalogue: Catalogue, now_ns: int
    ) -> list[GpuPicture]:
        """Each GPU of the hosts, as it is now."""
        silent = self.silent(now_ns)
        return [
            self._gpu(picture, gpu, catalogue, silent)
            for picture in pictures
            for gpu in picture.gpus
        ]

    def silent(self, now_ns: int) -> frozenset[str]:
        """Hosts that have told telemetry, and not of late."""
        oldest_ns = now_ns - TELEMETRY_S_MAX * 1_000_000_000
        heard = self._heard_ns.items()
        return frozenset(host for host, heard_ns in heard if heard_ns < oldest_ns)

    def _gpu(
        self, picture: HostPicture, gpu: GpuInventory, catalogue: Catalogue, silent: frozenset[str]
    ) -> GpuPicture:
        told = self._telemetry.get(picture.host)
        looks = () if told is None or picture.host in silent else told.gpus
        return GpuPicture(
            host=picture.host,
            gpu=gpu,
            free_bytes=picture.free_bytes(gpu.index),
            holds=_holds(picture, gpu.index),
            fragmentation=fragmentation_of(picture, gpu, catalogue),
            telemetry=next((look for look in looks if look.gpu == gpu.index), None),
        )


def _of_model(picture: HostPicture, model: str) -> HostPicture:
    kept = tuple(gpu for gpu in picture.gpus if gpu.model == model)
    return msgspec.structs.replace(picture, gpus=kept)


def _holds(picture: HostPicture, gpu: int) -> tuple[OnGpu, ...]:
    return tuple(
        OnGpu(
            machine=holding.machine,
            profile=placement.profile,
            framebuffer_bytes=placement.framebuffer_bytes,
            mode=placement.mode,
            start=placement.start,
            slots=placement.slots,
            state=EntryKind.CONFIRMED if holding.confirmed else EntryKind.HELD,
            reservation=holding.reservation,
        )
        for holding in picture.holdings.values()
        for placement in holding.placements
        if placement.gpu == gpu
    )


def fragmentation_of(picture: HostPicture, gpu: GpuInventory, catalogue: Catalogue) -> float | None:
    """A GPU's fragmentation, from 0 to 1; None if it is not known how what sits there sits."""
    if gpu.model not in catalogue.models:
        return None
    seats = [occupant.seat for occupant in ledger.occupants(picture, gpu.index)]
    try:
        return round(fragmentation(solver(catalogue), gpu.model, seats), 3)
    except CorruptError:
        return None


def on_which_fits(
    gpus: Iterable[GpuPicture], pictures: Sequence[HostPicture], catalogue: Catalogue, profile: str
) -> list[GpuPicture]:
    """Those of the GPUs on which one more of a profile fits. Raises ``InvalidInputError``."""
    catalogue.profile(profile)
    fleet = ledger.index(pictures, catalogue)
    at = ((item, GpuAt(item.host, item.gpu.index)) for item in gpus)
    return [item for item, gpu in at if fleet.knows(gpu) and fleet.shape(gpu).fits(profile)]
