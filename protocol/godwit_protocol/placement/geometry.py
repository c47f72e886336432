"""What may sit where on one GPU: pieces of slots, from the catalogue's profiles.

Whatever the mode, a GPU is an axis of slots, and a vGPU takes a run of them from one of its legal
starts: memory slices with MIG, ``equal_most`` places with equal sizes, and a buddy system with
mixed ones. A MIG-backed vGPU sits as its GPU instance does. Knows no GPU in particular, no policy.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ..catalogue import GpuMode, GpuModel, Mig, TimeSliced, framebuffers


class Seat(msgspec.Struct, frozen=True):
    """Where one vGPU sits: ``slots`` of the GPU's axis in its mode, from ``start`` on."""

    profile: str
    mode: GpuMode
    start: int
    slots: int

    @property
    def mask(self) -> int:
        """The slots as bits, the lowest for slot 0."""
        return ((1 << self.slots) - 1) << self.start


class Piece(msgspec.Struct, frozen=True):
    """A profile in one mode. ``base``: the profile whose place it takes, itself but for MIG-backed.

    ``width``: slots of the whole axis. ``most``: so many of ``base`` on one GPU. ``sms``: that it
    has for itself, or shares.
    """

    base: str
    mode: GpuMode
    width: int
    slots: int
    starts: tuple[int, ...]
    masks: tuple[int, ...]
    """For each start: the slots that it takes, as bits."""
    compute: int
    most: int
    sms: int
    framebuffer_bytes: int

    @property
    def fit(self) -> int:
        """How many have room on an empty axis, whatever ``most`` says."""
        return self.room_beside(0)[0]

    def room_beside(self, taken: int) -> tuple[int, int]:
        """How many have room beside slots that are taken, and at how many starts one may begin.

        Counted from the left, which is exact for equal sizes.
        """
        fit = free = 0
        filled = taken
        for mask in self.masks:
            if not taken & mask:
                free += 1
                if not filled & mask:
                    fit, filled = fit + 1, filled | mask
        return fit, free

    def free_starts(self, taken: int) -> tuple[tuple[int, int], ...]:
        """The starts that are left beside slots that are taken, each with its mask."""
        both = zip(self.starts, self.masks, strict=True)
        return tuple((start, mask) for start, mask in both if not taken & mask)

    def seat(self, profile: str, start: int) -> Seat:
        """``profile`` in this place."""
        return Seat(profile, self.mode, start, self.slots)


def pieces(model: GpuModel) -> dict[str, tuple[Piece, ...]]:
    """By profile: the ways in which it may sit on ``model``, at most one a mode."""
    found: dict[str, list[Piece]] = {}
    sizes = framebuffers(model)
    if model.mig is not None:
        for piece in _instances(model.mig, sizes):
            found[piece.base] = [piece]
    if model.mig_backed is not None:
        for backed in model.mig_backed.profiles:
            found[backed.name] = found[backed.instance]
    if model.time_sliced is not None:
        for piece in _shares(model.time_sliced, model.sms, sizes):
            found.setdefault(piece.base, []).append(piece)
    return {name: tuple(ways) for name, ways in found.items()}


def _instances(mig: Mig, sizes: dict[str, int]) -> Iterator[Piece]:
    for profile in mig.profiles:
        yield Piece(
            base=profile.name,
            mode=GpuMode.MIG,
            width=mig.memory_slices,
            slots=profile.memory,
            starts=profile.starts,
            masks=_masks(profile.memory, profile.starts),
            compute=profile.compute,
            most=profile.most,
            sms=profile.sms,
            framebuffer_bytes=sizes[profile.name],
        )


def _shares(section: TimeSliced, sms: int, sizes: dict[str, int]) -> Iterator[Piece]:
    for profile in section.profiles:
        ways = [(GpuMode.EQUAL, profile.equal_most, profile.equal_most)]
        if profile.mixed_most:
            ways.append((GpuMode.MIXED, section.mixed_slots, profile.mixed_most))
        for mode, width, most in ways:
            slots = width // most
            starts = tuple(range(0, width, slots))
            yield Piece(
                base=profile.name,
                mode=mode,
                width=width,
                slots=slots,
                starts=starts,
                masks=_masks(slots, starts),
                compute=0,
                most=most,
                sms=sms,
                framebuffer_bytes=sizes[profile.name],
            )


def _masks(slots: int, starts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(((1 << slots) - 1) << start for start in starts)
