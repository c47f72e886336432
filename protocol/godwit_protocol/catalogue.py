"""GPU models and their vGPU profiles: name, models that offer it, framebuffer.

MIG sizes as measured on the device (GiB of the GPU instance), time-sliced sizes as their names say.
Exact placement on slices is not decided here: a profile is its size.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .errors import InvalidInputError
from .machine import PAGE_BYTES

GIB: Final = 1024**3

GPU_MODELS: Final[dict[str, int]] = {
    "A100-80GB": 80 * GIB,
    "H100-80GB": 80 * GIB,
    "H200-141GB": 141 * GIB,
    "L40S-48GB": 48 * GIB,
}
"""Memory in bytes by model."""


class Profile(msgspec.Struct, frozen=True):
    """A vGPU type."""

    name: str
    models: tuple[str, ...]
    framebuffer_bytes: int


_MIG_80GB: Final = {
    "1g.10gb": 9.75,
    "1g.10gb+me": 9.75,
    "1g.20gb": 19.62,
    "2g.20gb": 19.62,
    "3g.40gb": 39.50,
    "4g.40gb": 39.50,
    "7g.80gb": 79.25,
}
_MIG_BACKED: Final = {
    "7-80C": "7g.80gb",
    "4-40C": "4g.40gb",
    "3-40C": "3g.40gb",
    "2-20C": "2g.20gb",
    "1-20C": "1g.20gb",
    "1-10C": "1g.10gb",
    "1-10CME": "1g.10gb+me",
}
_TIME_SLICED: Final = {
    ("H100XM", "H100-80GB"): (80, 40, 20, 16, 10, 8, 5, 4),
    ("H200X", "H200-141GB"): (141, 70, 35, 28, 17, 14, 8, 7, 4),
    ("A100DX", "A100-80GB"): (80, 40, 20, 16, 10, 8, 4),
    ("L40S", "L40S-48GB"): (48, 24, 16, 12, 8, 6, 4),
}


def _pages(gib: float) -> int:
    return int(gib * GIB) // PAGE_BYTES * PAGE_BYTES


def _all_profiles() -> dict[str, Profile]:
    mig_models = ("A100-80GB", "H100-80GB")
    profiles = [Profile(name, mig_models, _pages(gib)) for name, gib in _MIG_80GB.items()]
    profiles += [
        Profile(f"H100XM-{suffix}", ("H100-80GB",), _pages(_MIG_80GB[slice_name]))
        for suffix, slice_name in _MIG_BACKED.items()
    ]
    profiles += [
        Profile(f"{prefix}-{gib}C", (model,), gib * GIB)
        for (prefix, model), sizes in _TIME_SLICED.items()
        for gib in sizes
    ]
    return {profile.name: profile for profile in profiles}


PROFILES: Final[dict[str, Profile]] = _all_profiles()


def profile(name: str) -> Profile:
    """Return the profile. Raises ``InvalidInputError`` listing what there is."""
    found = PROFILES.get(name)
    if found is None:
        raise InvalidInputError(
            f"no vGPU profile is called {name!r}", hint=f"one of: {', '.join(PROFILES)}"
        )
    return found


def gpu_memory_bytes(model: str) -> int:
    """Return a GPU model's memory. Raises ``InvalidInputError`` listing what there is."""
    found = GPU_MODELS.get(model)
    if found is None:
        raise InvalidInputError(
            f"no GPU model is called {model!r}", hint=f"one of: {', '.join(GPU_MODELS)}"
        )
    return found
