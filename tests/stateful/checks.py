"""What must hold of a world that has come to rest."""

from __future__ import annotations

from harness import World
from parts import COORDINATOR, DESTINATION, SOURCE

from godwit_protocol.events import CHAIN_START, stored_hash
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import destination, source_state

_RESTING = {
    *(str(phase) for phase in destination.TERMINAL),
    "",
}


def check_end(world: World) -> None:
    """Every migration ends, or is honestly in doubt."""
    source, target = world.vmms[SOURCE], world.vmms[DESTINATION]
    running = [vmm for vmm in (source, target) if vmm.executes]
    told = {event.envelope.type for event in world.log.recorded}
    is_in_doubt = ev.DoubtRaised.TYPE in told
    if not (world.dead or world.vmm_died or world.writes_lost):
        assert world.phase(COORDINATOR) == "ended", world.phase(COORDINATOR)
        assert len(running) == 1, "exactly one side runs once the faults stop"
        left = [vmm for vmm in (source, target) if vmm.pages is not None]
        assert left == running, "memory is left behind"
        assert world.phase(DESTINATION) in _RESTING, world.phase(DESTINATION)
        assert world.phase(SOURCE) in {"", *map(str, source_state.TERMINAL)}, world.phase(SOURCE)
        return
    ends = world.phase(COORDINATOR) == "ended"
    assert ends or is_in_doubt, "it neither ends nor raises the alarm"
    kept = [vmm for vmm in (source, target) if vmm.pages is not None and not vmm.broken]
    if running:
        assert kept == running or is_in_doubt, "memory is left behind"
    elif kept:
        assert is_in_doubt, "the machine stands still and nobody says so"
    else:
        assert world.is_lost


def check_lanes(world: World) -> None:
    """Each lane counts from 1 without a gap, and each event holds the hash of the one before."""
    positions: dict[tuple[str, str], tuple[int, bytes]] = {}
    for data, recorded in zip(world.log.stored, world.log.recorded, strict=True):
        envelope = recorded.envelope
        writer = envelope.host, envelope.life
        count, previous = positions.get(writer, (0, CHAIN_START))
        assert envelope.lane_sequence == count + 1
        assert envelope.prev_hash == previous
        positions[writer] = (count + 1, stored_hash(data))
