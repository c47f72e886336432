"""I1, I2 and I3 (docs/design.md, section 4), asked of a world at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parts import DESTINATION, MIGRATION, SOURCE, Role

from godwit_protocol import register as reg
from godwit_protocol.roles import effects as fx

if TYPE_CHECKING:
    from harness import World


def check_wanted(world: World, role: Role, effect: fx.Effect) -> None:
    """What a core may not even want: I1, I2 and I3 at the moment of the effect."""
    standing = world.register[-1]
    if reg.has_gone_on(standing, MIGRATION, world.register[0].epoch):
        assert not isinstance(effect, fx.OpenGate | fx.ResumeMachine), "I3: a stale image would run"
        return
    match effect:
        case fx.OpenGate() | fx.ResumeMachine() if world.vmms[role].executes:
            pass  # it runs: after a restart that is how a role finds out
        case fx.OpenGate():
            assert standing.value is reg.RegisterValue.MOVED, standing
            assert standing.owner == role.host, standing
            assert world.vmms[role].whole, "I3: an image that is not whole would run"
            assert world.vmms[role].pages == world.at_stun, "I3: a stale image would run"
        case fx.ResumeMachine():
            assert reg.may_run(standing, role.host), f"I3: {standing} and the source would run"
        case fx.FreeMemory() if role is SOURCE and DESTINATION in world.dead:
            ran = "active" in world.phases_seen[DESTINATION]
            assert ran, "I2: freed before the destination ran"
        case fx.FreeMemory() if role is SOURCE:
            there = world.vmms[DESTINATION]
            assert there.whole, "I2: the only whole image would go"
            assert there.executes or there.has_run, "I2: freed before the destination ran"
        case fx.FreeMemory() if world.vmms[DESTINATION].whole:
            here = world.vmms[SOURCE]
            assert not here.broken or world.is_lost, "I2: the only good image would go"
        case fx.CompareAndSet() if standing.value is reg.RegisterValue.ABORT_INTENDED:
            if effect.record.value is reg.RegisterValue.TAKEN_BACK:
                proven = world.quarantined or DESTINATION in world.dead
                assert proven, "taken back after GO without proof"


def has_image(world: World, role: Role) -> bool:
    """Whether a side holds the machine whole, as it is now."""
    origin, target = world.vmms[SOURCE], world.vmms[DESTINATION]
    if role is SOURCE:
        return origin.pages is not None and not origin.broken and not target.executes
    current = target.pages == world.at_stun and not origin.executes
    return target.whole and not target.broken and (target.executes or current)


def check_invariants(world: World) -> None:
    """I1 to I3, now."""
    origin, target = world.vmms[SOURCE], world.vmms[DESTINATION]
    assert not (origin.executes and target.executes), "I1: two sides execute"
    elsewhere = reg.has_gone_on(world.register[-1], MIGRATION, world.register[0].epoch)
    found = has_image(world, SOURCE) or has_image(world, DESTINATION)
    assert found or elsewhere or world.is_lost, "I2: no whole image is left"
    epochs = [record.epoch for record in world.register]
    assert epochs == sorted(epochs), epochs
    nonces = [record.nonce for record in world.register]
    assert len(set(nonces)) == len(nonces), nonces
