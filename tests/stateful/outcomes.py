"""What an effect does to the world when it comes to its end, well or badly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parts import DESTINATION, MIGRATION, PAGE_BYTES, PAGES, SOURCE, Pending, Role, peer

from godwit_protocol import register as reg
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp

if TYPE_CHECKING:
    from harness import World


def succeed(world: World, role: Role, effect: fx.Effect) -> None:
    match effect:
        case fx.SendRound():
            _transmit(world, effect)
            world.rounds_sent.add(effect.round)
            world.pending.append(Pending(role, effect))
        case fx.SendFinal():
            pages = _transmit(world, effect)
            world.tell(role, _final_sent(world, pages))
        case fx.PauseMachine():
            world.now_ns += 40_000
            world.stun(role)
            world.tell(role, inp.Paused(stopped_ns=world.now_ns, checkpoint_bytes=512))
        case fx.ResumeMachine():
            world.vmms[role].has_run = True
            world.tell(role, inp.Resumed(first_step_ns=world.now_ns))
        case fx.FreeMemory():
            world.vmms[role].pages = None
            world.tell(role, inp.MemoryFreed())
        case fx.PrepareMachine():
            world.vmms[role].pages = [0] * PAGES
            told = inp.Prepared(address="192.0.2.2", port=7000, token=b"t" * 16, create_ns=1)
            world.tell(role, told)
        case fx.Populate():
            world.tell(role, inp.Populated(populate_ns=1_000_000))
        case fx.LoadImage():
            _load(world, role)
        case fx.OpenGate():
            world.vmms[role].has_run = True
            opened = inp.GateOpened(owned_ns=world.now_ns, first_step_ns=world.now_ns + 5000)
            world.tell(role, opened)
        case fx.CompareAndSet() if role is DESTINATION and world.vmms[role].broken:
            world.tell(role, inp.OperationFailed(message="the VMM is dead"))  # it looks first
        case fx.CompareAndSet():
            world.tell(role, world.write_register(effect))
        case fx.ReadRegister():
            world.tell(role, inp.RegisterRead(standing=world.register_view()))
        case fx.FencePeer() if peer(role) in world.dead:
            world.tell(role, inp.PeerFenced())
        case fx.TakeClaim():
            world.claimed = True
            world.tell(role, inp.ClaimSettled(won=True, holder=MIGRATION))
        case fx.WriteOff():
            lost = reg.lost(world.register[-1], effect.machine, MIGRATION, effect.epoch)
            if lost is not None:
                world.register.append(lost)
            world.tell(role, inp.WrittenOff(epoch=0 if lost is None else lost.epoch))
        case fx.ReleaseClaim():
            world.tell(role, inp.ClaimReleased())


def _load(world: World, role: Role) -> None:
    vmm = world.vmms[role]
    vmm.whole = vmm.pages is not None
    assert vmm.pages == world.at_stun, "memory differs from the memory at the stun"
    loaded = inp.ImageLoaded(
        pages=PAGES,
        received_bytes=PAGES * PAGE_BYTES,
        received_ns=world.now_ns,
        staged_ns=world.now_ns + 8000,
    )
    world.tell(role, loaded)


def fail(world: World, role: Role, effect: fx.Effect) -> None:
    message = f"{type(effect).__name__} failed"
    match effect:
        case fx.OpenLink() | fx.SendRound() | fx.SendFinal():
            world.tell(role, inp.LinkLost(message=message))
        case fx.LoadImage():
            reason = ev.AbortReason.VERIFICATION_FAILED
            world.tell(role, inp.ImageBad(reason=reason, message=message))
        case fx.ResumeMachine() | fx.OpenGate():
            world.dies(role)
            world.tell(role, inp.OperationFailed(message=message))
        case fx.TakeClaim():
            world.tell(role, inp.ClaimSettled(won=False, holder="another"))
        case fx.ReadRegister():
            pass  # no answer: nothing is told
        case _:
            world.tell(role, inp.OperationFailed(message=message))


def _transmit(world: World, effect: fx.SendRound | fx.SendFinal) -> int:
    """Scan, then copy: what is written in between goes out new and stays dirty."""
    vmm = world.vmms[SOURCE]
    assert vmm.pages is not None
    numbers = set(range(PAGES)) if effect.round == 1 else set(vmm.dirty)
    vmm.dirty.clear()
    world.link.bulk.append((effect.round, {number: vmm.pages[number] for number in numbers}))
    world.now_ns += 1_000_000 * max(len(numbers), 1)
    return len(numbers)


def _final_sent(world: World, pages: int) -> inp.FinalSent:
    return inp.FinalSent(
        pages=pages,
        sent_bytes=pages * PAGE_BYTES,
        scan_ns=30_000,
        sent_ns=world.now_ns,
    )
