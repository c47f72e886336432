"""Fencing: proof that another host is powered off, so that nothing runs there any more.

The port has two adapters. ``NoFencing`` asks the operator: nobody else's word is proof.
``CommandFencing`` asks a program of the site's, and takes only its exact word. Neither assumes
anything from silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from godwit_protocol.errors import InDoubtError

FENCE_S_MAX: Final = 60.0
ANSWER_BYTES_MAX: Final = 64 * 1024
"""Of what a program prints; one that says more is not listened to."""

_log = structlog.get_logger(__name__)


class NotFencedError(InDoubtError):
    """Nothing proves that the host is powered off."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Why a host is known to be off: a program and its answer, or the operator who vouches."""

    program: str = ""
    answer: str = ""
    vouched_by: str = ""


class Fencing(Protocol):
    """How it is proven that a host is off."""

    @property
    def needs_operator(self) -> bool:
        """Whether there is no proof without an operator: then nobody else need ask."""

    async def prove_off(self, host: str, vouched_by: str = "") -> Proof:
        """Return the proof that ``host`` is powered off and will not run again what ran there.

        ``vouched_by``: an operator who says so, or nothing. Raises ``NotFencedError``.
        """


class NoFencing:
    """There is nothing to ask but the operator."""

    needs_operator: Final = True

    async def prove_off(self, host: str, vouched_by: str = "") -> Proof:
        """As ``Fencing.prove_off``: the operator's word is the proof."""
        if not vouched_by:
            raise NotFencedError(
                f"nothing proves that {host} is powered off",
                hint=f"power it off, then say so with --other-is-off; or let {host} come back",
            )
        return Proof(vouched_by=vouched_by)


class CommandFencing:
    """A program, called with the host's name as its last argument.

    Proof is an exit status of 0 and the line ``powered-off HOST`` on its standard output, within
    the deadline; nothing else is, neither an operator's word.
    """

    needs_operator: Final = False

    def __init__(self, command: Sequence[str], timeout_s: float = FENCE_S_MAX) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s

    async def prove_off(self, host: str, vouched_by: str = "") -> Proof:
        """As ``Fencing.prove_off``. The program, and what it started, are killed at the deadline,
        and when nobody waits for the answer any more.
        """
        program, wanted = self._command[0], f"powered-off {host}"
        status, lines = await self._run(host)
        if status != 0 or wanted not in lines:
            raise NotFencedError(
                f"{program} does not confirm that {host} is powered off: exit status {status}, "
                f"{'no output' if not lines else f'last line {lines[-1]!r}'}",
                hint=f"it must exit with 0 and print the line {wanted!r}",
            )
        return Proof(program=program, answer=wanted)

    async def _run(self, host: str) -> tuple[int, list[str]]:
        program = self._command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                host,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise NotFencedError(
                f"{program} cannot be run: {error.strerror}", hint="see GODWIT_FENCE_COMMAND"
            ) from error
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _answer_of(process)
        except TimeoutError as error:
            raise NotFencedError(
                f"{program} did not answer for {host} within {self._timeout_s:g} s"
            ) from error
        finally:
            await _end(process)


async def _answer_of(process: asyncio.subprocess.Process) -> tuple[int, list[str]]:
    """The exit status and the lines that it printed; none if it printed too much."""
    assert process.stdout is not None
    printed = bytearray()
    while chunk := await process.stdout.read(ANSWER_BYTES_MAX):
        printed += chunk
        if len(printed) > ANSWER_BYTES_MAX:
            return -1, []
    return await process.wait(), printed.decode(errors="replace").splitlines()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the program's session, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def fencing_of(command: Sequence[str]) -> Fencing:
    """The adapter that a configured command asks for; without one, the operator is asked."""
    return CommandFencing(command) if command else NoFencing()
