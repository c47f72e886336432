"""A service dies, at any time, and is started again: by the production's own recovery.

What a host's had under way was done or not; its journal keeps what was on the disk, and perhaps
more. A coordinator has no journal: it folds the log again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from parts import COORDINATOR, MIGRATION, PAGES, SOURCE, SPEC, Pending, Role

from godwit_protocol.events import migration as ev
from godwit_protocol.roles import coordinator, destination, recovery, source, succession
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles.coordinator_facts import Facts

if TYPE_CHECKING:
    from harness import World


def may_crash(world: World, role: Role) -> bool:
    """Whether there is a journal that a restart would find, or a migration to be coordinated."""
    if role is COORDINATOR:
        return role not in world.down | world.finished
    if role not in world.decisions or role in world.dead | world.down:
        return False
    return role not in world.finished or bool(world.log.outbox[role])


def crash(world: World, role: Role, *, keeps: bool, done: bool) -> None:
    """``keeps``: the disk has got also what nobody waited for. ``done``: what VMM and register had
    been told, they have done; if not, a write of the register may still arrive.
    """
    if role is COORDINATOR:
        _crash_coordinator(world, keeps=keeps, done=done)
        return
    lost = 0 if keeps else world.journals[role].lose()
    world.story.outside(world.now_ns, f"{role.host}'s service dies, and {lost} facts are lost")
    world.journals[role].flush()
    world.log.forget(role, lost)
    world.states[role] = None
    world.finished.discard(role)
    world.down.add(role)
    if world.link.up:
        world.break_link()
    world.notices = [notice for notice in world.notices if notice[0] is not role]
    for pending in [item for item in world.pending if item.role is role]:
        world.pending.remove(pending)
        _leave(world, pending, done=done)


def _crash_coordinator(world: World, *, keeps: bool, done: bool) -> None:
    """``keeps``: the decision that was on its way has reached the log; if not, it may still arrive.
    ``done``: so has the claim.
    """
    lost = max(len(world.log.outbox[COORDINATOR]) - keeps, 0)
    world.story.outside(world.now_ns, f"the coordinator dies, and {lost} decisions are lost")
    world.log.end_life(world.now_ns, world.register[-1].epoch, is_stored=keeps)
    world.states[COORDINATOR] = None
    world.down.add(COORDINATOR)
    for pending in [item for item in world.pending if item.role is COORDINATOR]:
        world.pending.remove(pending)
        world.claimed |= done and isinstance(pending.effect, fx.TakeClaim)


def _leave(world: World, pending: Pending, *, done: bool) -> None:
    """What becomes of what nobody waits for any more."""
    vmm = world.vmms[pending.role]
    match pending.effect:
        case fx.CompareAndSet() as effect if done:
            world.write_register(effect)
        case fx.CompareAndSet() as effect:
            world.strays.append(effect)
        case fx.ResumeMachine() | fx.OpenGate() if not done and not vmm.has_run:
            vmm.executes = False
        case fx.ResumeMachine() | fx.OpenGate():
            vmm.has_run = True
        case fx.PauseMachine() if done:
            world.stun(pending.role)
        case fx.PrepareMachine() if done:
            vmm.pages = [0] * PAGES
        case fx.LoadImage() if done:
            vmm.whole = vmm.pages is not None and vmm.pages == world.at_stun
        case fx.FreeMemory() if done:
            vmm.pages = None


def restart(world: World, role: Role) -> None:
    """As the services do it: the state that the role began in, the register as it is now, what the
    journal says and what the VMM does, and all that was addressed to it once more.
    """
    world.down.discard(role)
    world.restarted.add(role)
    if role is COORDINATOR:
        _fold_again(world)
        return
    facts = frozenset(world.journals[role].types)
    told = ", ".join(sorted(facts))
    world.begin(
        role, f"goes on with {world.register[-1].value}, and {told}", *_gone_on(world, role, facts)
    )
    world.hear_again(role)


def _fold_again(world: World) -> None:
    """From the beginning of the log. A migration that has ended is left alone, its claim freed."""
    begun, told = coordinator.begin(MIGRATION), world.log.recorded
    world.known, world.folds_until, world.cursors[COORDINATOR] = Facts(), len(told), 0
    if any(isinstance(recorded.event, ev.MigrationEnded) for recorded in told):
        begun = msgspec.structs.replace(begun, phase=coordinator.Phase.ENDED)
        world.finished.add(COORDINATOR)
        world.cursors[COORDINATOR] = len(told)
    world.begin(COORDINATOR, f"folds the {len(told)} events of the log", begun, ())


def _gone_on(world: World, role: Role, facts: frozenset[str]) -> tuple[Any, tuple[fx.Effect, ...]]:
    decision, view, now_ns = world.decisions[role], world.register_view(), world.now_ns
    vmm = world.vmms[role]
    lives = vmm.pages is not None and not vmm.broken
    if role is SOURCE:
        assert isinstance(decision, ev.MigrationStarted)
        left, _ = source.begin(decision, SPEC.name, view, migration=MIGRATION, now_ns=now_ns)
        if left.has_gone_on(view):
            return succession.source_after(left, facts)
        return recovery.recover_source(left, facts, now_ns, image_left=lives)
    assert isinstance(decision, ev.PreparationOrdered)
    begun, _ = destination.begin(decision, view, migration=MIGRATION, now_ns=now_ns)
    if begun.has_gone_on(view):
        return succession.destination_after(begun, facts, image_left=lives)
    return recovery.recover_destination(
        *(begun, facts, now_ns),
        machine_runs=vmm.executes,
        image_loaded=vmm.whole and lives and not vmm.executes,
    )
