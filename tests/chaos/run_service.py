"""Runs a service, and stops it (SIGSTOP) at a step that a test has named, once.

``python -m run_service godwit.source_host``. The production code knows nothing of it: this module
wraps the runner of the hosts' roles, what the coordinator does for its core, or what the tracker
writes, and runs the service's own module. A plan is a file named after the service; it is renamed
when the step is reached, so that the service passes that step from then on, also in its next life.
What becomes of the stopped process is the test's to decide.

Where the hosts are wired (see ``wires``), a file says how: the service then makes the sockets of
the direct link in its host's network namespace.

Steps: ``do say go`` is reached before an effect is performed, ``hear peer_staged`` when an input is
told, before the core has seen it; ``did append start_decided`` when the log has acknowledged it,
and nothing has followed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from godwit.host import context, role, side
from godwit.runtime.lane import LaneWriter
from godwit.transfer import connection, listener
from godwit_protocol.errors import UnreachableError
from godwit_protocol.framing import FrameKind, Preamble, encode_preamble
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles.effects import Effect
from godwit_protocol.roles.inputs import Input


def plan_path(directory: Path, place: str, service: str) -> Path:
    """Where the plan for a service is. ``place``: its host, or the name of this replica."""
    return directory / "plans" / f"{place}-{service}.json"


def effect_step(effect: Effect, when: str = "do") -> str:
    """The name of the step before an effect, or after it."""
    name = f"{when} {_snake(type(effect).__name__)}"
    match effect:
        case fx.Append(event=event):
            return f"{name} {event.TYPE}"
        case fx.Say(message=message):
            return f"{name} {_snake(type(message).__name__)}"
        case _:
            return name


def input_step(given: Input) -> str:
    """The name of the step at which an input is heard."""
    return f"hear {_snake(type(given).__name__)}"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class SteppedRunner(role.RoleRunner[Any]):
    """A runner that tells each step before it takes it."""

    def __init__(
        self, core: role.Core[Any], perform: Callable[[Effect], None], now_ns: Callable[[], int]
    ) -> None:
        self._machine: str = perform.__self__.machine  # type: ignore[attr-defined]

        def reach_and_perform(effect: Effect) -> None:
            _reach(self._machine, effect_step(effect))
            perform(effect)

        super().__init__(core, reach_and_perform, now_ns)

    def tell(self, given: Input) -> None:
        _reach(self._machine, input_step(given))
        super().tell(given)


def _stop_at_coordinators_steps() -> None:
    from godwit.coordinator.conductor import Conductor

    plain = Conductor._do

    async def reach_and_do(
        self: Conductor, effect: Effect, lane: LaneWriter, cause: str
    ) -> Input | None:
        _reach(self._machine, effect_step(effect), self.migration)
        result = await plain(self, effect, lane, cause)
        _reach(self._machine, effect_step(effect, "did"), self.migration)
        return result

    Conductor._do = reach_and_do  # type: ignore[method-assign]


def _stop_at_trackers_steps() -> None:
    from godwit.gpu_state_tracker.answers import AnswerEvent, Answers, Asked
    from godwit.gpu_state_tracker.tracker import Tracker
    from godwit_protocol.roles.tracker import WriteLedger

    plain_write, plain_tell = Tracker._write, Answers.tell

    async def reach_and_write(self: Tracker, effect: WriteLedger) -> None:
        machine, kind = effect.entry.machine, effect.entry.kind
        _reach(machine, f"do write {kind}")
        await plain_write(self, effect)
        _reach(machine, f"did write {kind}")

    async def reach_and_tell(self: Answers, asked: Asked, event: AnswerEvent) -> None:
        _reach(asked.request.machine, f"do tell {event.TYPE}")
        await plain_tell(self, asked, event)

    Tracker._write = reach_and_write  # type: ignore[method-assign]
    Answers.tell = reach_and_tell  # type: ignore[method-assign]


def _stop_at_hosts_steps() -> None:
    side.RoleRunner = SteppedRunner  # type: ignore[misc]


def _reach(machine: str, step: str, migration: str = "") -> None:
    """``migration``, where it is known: a plan is not for the one before."""
    plan = plan_path(Path(os.environ["GODWIT_DIR"]), _place(), _service())
    try:
        wanted = json.loads(plan.read_bytes())
    except FileNotFoundError:
        return
    is_former = migration != "" and migration == wanted["former"]
    if (wanted["machine"], wanted["step"]) == (machine, step) and not is_former:
        plan.rename(plan.with_suffix(".reached"))
        os.kill(os.getpid(), signal.SIGSTOP)


def _service() -> str:
    return sys.argv[1].rpartition(".")[2]


def _place() -> str:
    match _service():
        case "coordinator":
            return os.environ["GODWIT_COORDINATOR_ID"]
        case "gpu_state_tracker":
            return os.environ["GODWIT_TRACKER_ID"]
        case _:
            return os.environ["GODWIT_HOST"]


def _wire() -> None:
    """Reach the event log and the peer by the wires of this host, if there are any."""
    host = os.environ.get("GODWIT_HOST", "")
    described = Path(os.environ["GODWIT_DIR"]) / "plans" / f"{host}.environ"
    if not host or not described.exists():
        return
    os.environ.update(line.split("=", 1) for line in described.read_text().splitlines())
    listener.LinkListener.open = _open_listener  # type: ignore[method-assign]
    connection.BulkConnection.open = classmethod(_open_bulk)  # type: ignore[method-assign,assignment]
    context.open_control = _open_control


_plain_listener = listener.LinkListener.open
_plain_bulk = connection.BulkConnection.open.__func__  # type: ignore[attr-defined]


async def _open_listener(host: str, port: int = 0) -> listener.LinkListener:
    with _in_namespace():
        opening = _plain_listener(host, port)
        return await opening  # it makes its socket before it waits for anything


def _open_bulk(cls: type[connection.BulkConnection], *args: Any, **options: Any) -> Any:
    with _in_namespace():
        return _plain_bulk(cls, *args, **options)


async def _open_control(
    host: str,
    port: int,
    session: bytes,
    token: bytes,
    *,
    timeout_s: float = connection.CONNECT_TIMEOUT_S,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with _in_namespace():
        sock = socket.socket()
    sock.setblocking(False)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except (OSError, TimeoutError) as error:
        sock.close()
        raise UnreachableError(f"no direct link to {host}:{port}: {error}") from error
    connection.tune(sock)
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(encode_preamble(Preamble(FrameKind.CONTROL_HELLO, session, token)))
    return reader, writer


@contextmanager
def _in_namespace() -> Iterator[None]:
    """What this thread opens is in the host's network namespace, and stays there."""
    with (
        Path("/proc/thread-self/ns/net").open() as home,
        Path(os.environ["CHAOS_NETWORK_NAMESPACE"]).open() as away,
    ):
        _enter(away.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")


def main() -> None:
    _wire()
    match _service():
        case "coordinator":
            _stop_at_coordinators_steps()
        case "gpu_state_tracker":
            _stop_at_trackers_steps()
        case _:
            _stop_at_hosts_steps()
    runpy.run_module(sys.argv[1], run_name="__main__")


if __name__ == "__main__":
    main()
