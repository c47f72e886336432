"""What the shells around the two hosts' roles have in common: one host's side of one migration.

It runs the role, brings it what comes by the log, has operators' orders proven before they are
obeyed, and reads the register. What a role's own effects do, a subclass carries out.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Final, Generic, Protocol, TypeVar

from godwit_protocol.errors import GodwitError
from godwit_protocol.events import Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.effects import Address, CompareAndSet, Durability, Effect

from .context import HostContext
from .facts import FactWriter
from .peer_fence import PeerFence
from .role import Core, Effects, RoleRunner

CAS_PACE_S: Final = 0.2
"""Between two attempts on a register that does not answer clearly."""
TOLD_S_MAX: Final = 0.5
"""How long memory is kept for the log to hear first what this host says of the end."""


class SideState(Protocol):
    """What is read of a role's state."""

    @property
    def phase(self) -> StrEnum:
        """How far it is."""


S = TypeVar("S", bound=SideState)


class Side(ABC, Generic[S]):
    """One migration, as one of its two hosts sees it."""

    _name: str
    """Of the role, in words to an operator."""

    def __init__(
        self,
        host: HostContext,
        machine: str,
        facts: FactWriter,
        core: Core[S],
        own: Address,
        peer: str,
    ) -> None:
        """``own``: this side's service, on this host; ``peer``: the other host."""
        self.machine = machine
        self._host = host
        self._facts = facts
        self._runner: RoleRunner[S] = RoleRunner(core, self._perform, host.clock.monotonic_ns)
        self._fence = PeerFence(host.fencing, facts, own, peer, self._runner.tell)

    @property
    def is_over(self) -> bool:
        """Whether the role has ended: what is left is to let go."""
        return self._runner.is_over

    def tell(self, given: inp.Input) -> None:
        """Hand the role an input that came by the log."""
        self._runner.tell(given)

    def note(self, decision: Recorded) -> None:
        """What came by the log may be what a fact answers."""
        self._facts.causes.by_log(decision)

    def order(self, order: str, ordered: ev.RunOrdered, *, is_new: bool) -> None:
        """Obey an operator's order, with the id ``order``, or say why not. One that is not new may
        have been carried out before a restart: it needs no answer.
        """

        def refused(error: GodwitError) -> None:
            self._refuse(order, error.message)

        if self._may_be_ordered(self._state):
            self._runner.start(self._obey(ordered), refused)
        elif is_new:
            phase = self._state.phase
            self._refuse(order, f"the {self._name} is {phase}: there is nothing to decide")

    def begin(self, state: S) -> None:
        """Take orders from now on: one may come before the role's first turn of the loop."""
        self._runner.state = state

    async def run(self, state: S, effects: Effects) -> S:
        """Run the role to its end, and let go of everything but the VMM."""
        try:
            return await self._runner.run(state, effects)
        finally:
            await self._fence.stop()
            await self._let_go()

    @abstractmethod
    def _perform(self, effect: Effect) -> None:
        """Carry out an effect, or begin to. ``Finish`` is the runner's."""

    @abstractmethod
    def _may_be_ordered(self, state: S) -> bool:
        """Whether there is something that an operator could decide."""

    @abstractmethod
    def _is_peer_off(self, state: S) -> bool:
        """Whether the role knows that the other host runs nothing of the machine."""

    @abstractmethod
    async def _let_go(self) -> None:
        """Of the link, and of all that would keep the VMM's socket open."""

    @property
    def _state(self) -> S:
        assert self._runner.state is not None, "orders come once the side has begun"
        return self._runner.state

    async def _obey(self, ordered: ev.RunOrdered) -> inp.Input:
        """Get the proof that the other host is off, if it is not there, before the role is told."""
        if not self._is_peer_off(self._state):
            await self._fence.prove(ordered.requested_by if ordered.other_is_off else "")
        standing, seen = await self._host.registers.to_overrule(self.machine)
        return inp.RunOrdered(standing=standing, seen=seen)

    def _refuse(self, order: str, why: str) -> None:
        self._facts.write(ev.RunOrderRefused(order=order, message=why), Durability.LAGGING)

    async def _told_first(self) -> None:
        """Before a machine's memory is let go of at the end, which keeps the cores busy: the log is
        to have what this host has to say of that end.
        """
        await self._facts.told(TOLD_S_MAX)

    def _rehearse(self, *inputs: inp.Input) -> None:
        """In the next turn of the loop, when what is waited for is under way."""
        loop = asyncio.get_running_loop()
        loop.call_soon(self._runner.rehearse, self._facts.rehearse, *inputs)

    async def _set_register(self, effect: CompareAndSet) -> inp.CasSettled | inp.CasUnclear:
        """One attempt. After an unclear one the role asks again at once: so that takes a while."""
        try:
            settled = await self._host.registers.compare_and_set(
                effect.record, effect.expected_sequence
            )
        except GodwitError as error:
            settled = inp.CasUnclear(message=error.message)
        if isinstance(settled, inp.CasUnclear):
            await asyncio.sleep(CAS_PACE_S)
        return settled

    async def _read_register(self) -> inp.Input:
        return inp.RegisterRead(standing=await self._host.registers.read(self.machine))


def failed(error: GodwitError) -> inp.Input:
    """What an operation's error is to the role."""
    return inp.OperationFailed(message=error.message)


def left(error: GodwitError) -> inp.Input:
    """The same where memory was to be freed."""
    return inp.MemoryLeft(message=error.message)


def unclear(error: GodwitError) -> inp.Input:
    """The same where the register was to be set: it may have been."""
    return inp.CasUnclear(message=error.message)


def nothing(_error: GodwitError) -> None:
    """It will be asked again."""
