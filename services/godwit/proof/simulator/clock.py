"""The clocks of a simulated host: they agree on the second, on nothing else. Wall clocks jump."""

from __future__ import annotations

from typing import Final

from godwit_protocol.ids import UUID7_RANDOM_BYTES, uuid7

from .process import World

EPOCH_NS: Final = 1_800_000_000_000_000_000


class HostClock:
    """``runtime.clock.Clock`` of one host."""

    def __init__(self, world: World, host: str) -> None:
        self.wall_offset_ns = world.dice.randrange(-50_000_000, 50_000_000)
        self._world = world
        self._boot_ns = world.dice.randrange(1, 10**15)
        self._boot = f"boot-{host}"
        self._boots = 1

    def reboot(self) -> None:
        """The host starts anew: its monotonic clock too."""
        self._boots += 1
        self._boot_ns = 1_000_000_000 - int(self._world.loop.time() * 1e9)

    def wall_ns(self) -> int:
        """As ``Clock.wall_ns``."""
        return EPOCH_NS + int(self._world.loop.time() * 1e9) + self.wall_offset_ns

    def monotonic_ns(self) -> int:
        """As ``Clock.monotonic_ns``."""
        return self._boot_ns + int(self._world.loop.time() * 1e9)

    def boot(self) -> str:
        """As ``Clock.boot``."""
        return f"{self._boot}-{self._boots}"

    def new_id(self) -> str:
        """As ``Clock.new_id``."""
        return uuid7(self.wall_ns(), self._world.dice.randbytes(UUID7_RANDOM_BYTES))

    def secret(self, size_bytes: int) -> bytes:
        """As ``Clock.secret``."""
        return self._world.dice.randbytes(size_bytes)
