"""The order that begins a migration on its destination, as tests give it."""

from __future__ import annotations

from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec


def preparation(
    spec: MachineSpec,
    source: str = "host-1",
    destination: str = "host-2",
    *,
    register_epoch: int = 1,
) -> ev.PreparationOrdered:
    """A move of a machine whose vGPUs, if any, have no places."""
    return ev.PreparationOrdered(
        spec=spec,
        source=source,
        destination=destination,
        register_epoch=register_epoch,
        limits=ev.Limits(),
        verify=ev.Verify.OFF,
    )
