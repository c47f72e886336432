"""What went wrong once, in a search, a simulation or a test, told again by the roles' stories.

A scenario's docstring says what happened then; it opens the story's text in ``tests/golden/past``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from harness import World
from parts import COORDINATOR, DESTINATION, MIGRATION, SOURCE, SPEC, Role, Vmm
from scenarios import Scenario, reached, taken_back_and_broken

from godwit_protocol import register as reg
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles import recovery, succession
from godwit_protocol.roles.effects import Append

LATER = "00e8d4a5-1000-7000-8000-0000000000ff"
"""A migration that comes after."""


def has_gone_on(world: World) -> bool:
    """Whether the machine lives elsewhere: what runs is none of this world's."""
    return reg.has_gone_on(world.register[-1], MIGRATION, 1)


def is_lost(world: World) -> bool:
    """Whether both sides' VMMs are dead."""
    return all(vmm.broken or vmm.pages is None for vmm in world.vmms.values())


def _yielded() -> World:
    """The register names the destination, whose VMM dies behind the gate."""
    world = reached(DESTINATION, "opening")
    world.break_link()
    world.do("notice to source")
    world.do("CompareAndSet succeeds")
    assert world.phase(SOURCE) == "yielded"
    world.do("OpenGate fails")
    world.story.outside(world.now_ns, "host-2 says that its VMM is dead, by the log")
    world.tell(SOURCE, inp.PeerFenced())
    return world


def _start_anew(world: World) -> inp.RunOrdered:
    """On a third host. Returns an operator's order that comes too late."""
    world.story.outside(
        world.now_ns, "an operator stops the machine, and starts it again on host-3"
    )
    world.register.append(reg.stopped(world.register[-1]))
    world.register.append(reg.started(SPEC.name, "host-3", world.register[-1]))
    return inp.RunOrdered(standing=world.register_view())


def _restart(world: World, role: Role, what: str) -> set[str]:
    """Whatever the service had under way is forgotten. Returns what its journal says."""
    world.story.outside(world.now_ns, what)
    world.pending = [item for item in world.pending if item.role is not role]
    world.finished.discard(role)
    return {
        effect.event.TYPE
        for who, effect in world.effects
        if who is role and isinstance(effect, Append)
    }


def started_anew_elsewhere() -> World:
    """Seed 2517: two machines ran. A machine died at its new host, was stopped there, and started
    anew on a third. The source of the old migration, still in doubt, was ordered to run its image.
    """
    world = _yielded()
    world.tell(SOURCE, _start_anew(world))
    world.drain()
    return world


def order_that_loses_the_register() -> World:
    """Seed 2517 again: the order came in time, its compare-and-set did not. What that one showed
    was then overruled by the next order.
    """
    world = _yielded()
    world.tell(SOURCE, inp.RunOrdered(standing=world.register_view()))
    late = _start_anew(world)
    world.run_until(lambda: world.phase(SOURCE) != "reclaiming")
    world.tell(SOURCE, late)
    world.drain()
    return world


def quarantined_and_started_anew() -> World:
    """Seed 2517, the other way round: the source took the machine back, it died there, was stopped,
    and started anew. The destination, which holds its image still, is ordered to run it.
    """
    world = taken_back_and_broken()
    world.story.outside(world.now_ns, "host-1 says that its VMM is dead, by the log")
    world.tell(DESTINATION, inp.PeerFenced())
    world.tell(DESTINATION, _start_anew(world))
    world.drain()
    return world


def order_of_the_past() -> World:
    """Seed 2190: an order to prepare came so late that the machine had come to the host by another
    migration, and died there. A new VMM was made in its place, which nobody could stop.
    """
    world = reached(COORDINATOR, "preparing")
    world.story.outside(world.now_ns, "another migration moves the machine to host-2, and on")
    world.register.append(reg.moved(world.register[-1], DESTINATION.host, LATER))
    world.vmms[SOURCE] = Vmm()
    world.drain()
    return world


def both_vmms_dead() -> World:
    """Seed 1678: the VMM of the source died when it had taken the machine back, and the
    destination's, with the only good image, after it. The migration never ended.
    """
    world = taken_back_and_broken()
    world.kill_destination()
    world.do("fenced")
    world.drain()
    return world


def both_vmms_dead_and_one_host_gone() -> World:
    """A stated gap: the destination had said that its VMM was dead, and the source's host never
    came back. Nobody could end the migration: its claim and its reservation stayed. The proof that
    the host is off ends it; here an operator's word, which the destination's service wrote down.
    """
    world = reached(DESTINATION, "opening")
    world.break_link()
    world.do("notice to source")
    world.do("CompareAndSet succeeds")
    world.do("OpenGate fails")
    world.tell(COORDINATOR, inp.ImageLost(host=DESTINATION.host))
    _lose_power(world, SOURCE)
    world.drain()
    world.story.outside(world.now_ns, "an operator vouches to host-2 that host-1 is off")
    world.tell(COORDINATOR, inp.ImageLost(host=SOURCE.host, is_off=True))
    world.drain()
    return world


def _lose_power(world: World, role: Role) -> None:
    world.story.outside(world.now_ns, f"{role.host} loses its power, for good as it seems")
    world.dead.add(role)
    world.dies(role)
    world.vmms[role] = Vmm()
    world.notices.clear()
    world.link.up = False
    world.pending = [item for item in world.pending if item.role is not role]


def both_hosts_gone() -> World:
    """A stated gap: both hosts lost their power after GO, the register named the destination, and
    nobody was there to write a proof. The alarm stood for ever. An operator vouches for both now;
    the coordinator writes into the register that nobody has the machine, and ends the migration.
    The hosts come back all the same: what their journals say is older than the register.
    """
    world = reached(DESTINATION, "opening")
    begun = {role: world.samples[role, phase][0] for role, phase in _FIRST.items()}
    journals = {
        role: {
            effect.event.TYPE
            for who, effect in world.effects
            if who is role and isinstance(effect, Append)
        }
        for role in _FIRST
    }
    for role in _FIRST:
        _lose_power(world, role)
    world.drain()
    world.story.outside(world.now_ns, "an operator vouches that host-1 and host-2 are off")
    for role in _FIRST:
        world.tell(COORDINATOR, inp.ImageLost(host=role.host, is_off=True))
    world.drain()
    for role in _FIRST:
        world.story.outside(world.now_ns, f"{role.host} is switched on again")
        world.dead.discard(role)
    _come_back(world, begun, journals)
    world.drain()
    return world


def _come_back(world: World, begun: dict[Role, Any], journals: dict[Role, set[str]]) -> None:
    """As the services do it: the register has gone on, past all that the journals say."""
    shown = {
        role: msgspec.structs.replace(state, register=world.register_view())
        for role, state in begun.items()
    }
    assert all(state.has_gone_on(state.register) for state in shown.values())
    source = succession.source_after(shown[SOURCE], journals[SOURCE])
    destination = succession.destination_after(
        shown[DESTINATION], journals[DESTINATION], image_left=False
    )
    world.begin(SOURCE, "goes on with lost(3)", *source)
    world.begin(DESTINATION, "goes on with lost(3)", *destination)


_FIRST = {SOURCE: "connecting", DESTINATION: "preparing"}
"""The phase that each host's role began in."""


def switched_on_again() -> World:
    """The checker: a host died in the middle of a stun, the destination claimed the machine by the
    proof of it, and the host was switched on again. Its source wanted the machine back from a
    register that showed an old value, heard ACTIVE, dropped it, and waited for ever.
    """
    world = reached(DESTINATION, "staged")
    begun = world.samples[SOURCE, "connecting"][0]
    world.break_link()
    facts = _restart(world, SOURCE, "host-1 loses its power, is fenced, and is switched on again")
    world.dies(SOURCE)
    world.vmms[SOURCE] = Vmm()
    world.notices.clear()
    world.tell(DESTINATION, inp.PeerFenced())
    recovered = recovery.recover_source(begun, facts, world.now_ns, image_left=False)
    world.begin(SOURCE, f"goes on with S(1), and {', '.join(sorted(facts))}", *recovered)
    world.do("CompareAndSet succeeds")
    world.do("OpenGate succeeds")
    world.run_until(lambda: world.phase(SOURCE) != "taking_back")
    world.drain()
    return world


def failed_before_it_was_taken_back() -> World:
    """A seed of the simulator: a source that had said that its machine failed, and not yet that it
    gave up, was restarted. As a machine that failed and was taken back, it was in doubt for ever.
    """
    world = reached(SOURCE, "pausing")
    begun = world.samples[SOURCE, "connecting"][0]
    world.do("PauseMachine fails")
    facts = _restart(
        world, SOURCE, "host-1's service dies, when it has said that the machine failed"
    )
    failed = facts | {"machine_failed"}
    recovered = recovery.recover_source(begun, failed, world.now_ns, image_left=False)
    world.begin(SOURCE, "goes on", *recovered)
    world.drain()
    return world


def claim_of_the_past() -> World:
    """A seed of the simulator: the service of a destination was down from its claim on, while the
    machine went on, by later migrations, to a third host. Restarted, it claimed the machine again.
    """
    world = reached(DESTINATION, "activating")
    world.break_link()
    facts = _restart(world, DESTINATION, "host-2's service dies")
    begun = world.samples[DESTINATION, "preparing"][0]
    _start_anew(world)
    world.vmms[SOURCE] = Vmm()
    after = succession.destination_after(begun, facts, image_left=True)
    world.begin(DESTINATION, "goes on", *after)
    world.drain()
    return world


PAST: dict[str, Scenario] = {
    each.__name__.replace("_", "-"): each
    for each in (
        started_anew_elsewhere,
        order_that_loses_the_register,
        quarantined_and_started_anew,
        order_of_the_past,
        both_vmms_dead,
        both_vmms_dead_and_one_host_gone,
        both_hosts_gone,
        switched_on_again,
        failed_before_it_was_taken_back,
        claim_of_the_past,
    )
}
