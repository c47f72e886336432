"""``godwit machine``: start, stop, list, show and ask machines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.pictures import reading
from godwit.pictures.estimates import estimates_of, forecast_json, forecast_lines
from godwit.pictures.figures import day_and_clock, milliseconds
from godwit.pictures.machines import (
    GONE,
    MachinePicture,
    MachineState,
    all_machines,
    find_live_machine,
    find_machine,
)
from godwit_protocol import subjects
from godwit_protocol.errors import (
    ConflictError,
    DeadlineError,
    GodwitError,
    GuestError,
    InvalidInputError,
    RefusedError,
)
from godwit_protocol.events import Event, Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.machine import DEFAULT_TENANT, MachineSpec, VGpuSpec
from godwit_protocol.placement.policy import DeviceGroup, Policy
from godwit_protocol.quantities import format_size, parse_duration_ns, parse_size

from . import completion, output
from .connection import (
    DirectoryOption,
    JsonOption,
    append_as_operator,
    find_catalogue,
    open_log,
    requested_by,
    run,
)
from .guest_client import GuestClient

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog
    from godwit_protocol.estimation.forecast import Forecast
    from godwit_protocol.roles.effects import Address

ANSWER_S_MAX: Final = 60.0
"""How long a host may take to start or stop a machine before the command gives up waiting."""

app = typer.Typer(no_args_is_help=True, help="Start, stop, list, show and ask machines.")

NameArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The machine's name.", autocompletion=completion.machines),
]


@app.command()
def start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the new machine.")],
    guest: Annotated[
        str,
        typer.Option(
            metavar="MODULE:CLASS",
            help="The guest: a class of an installed module, or FILE.py:CLASS.",
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            metavar="HOST", help="The host to start it on.", autocompletion=completion.hosts
        ),
    ],
    ram: Annotated[str, typer.Option(metavar="SIZE", help="Its RAM, such as 256MiB.")] = "64MiB",
    vgpu: Annotated[
        list[str] | None,
        typer.Option(metavar="PROFILE", help="A vGPU, such as H100XM-4C. May be repeated."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="A variable for the guest. May be repeated."),
    ] = None,
    placement_policy: Annotated[
        Policy,
        typer.Option(
            help="Which places its vGPUs take: those that keep large profiles placeable, the least"
            " used GPU, or the most multiprocessors. It goes for every host that it moves to."
        ),
    ] = Policy.CONSOLIDATE,
    device_group: Annotated[
        DeviceGroup,
        typer.Option(help="Its vGPUs all on one GPU, or each on a GPU of one NVLink group."),
    ] = DeviceGroup.NONE,
    tenant: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Whose machine it is. What it contains is never used for another tenant's.",
        ),
    ] = DEFAULT_TENANT,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a machine on a host, and wait until it runs."""
    spec = make_spec(
        name,
        guest,
        ram=ram,
        vgpus=vgpu or (),
        env=env or (),
        policy=placement_policy,
        group=device_group,
        tenant=tenant,
    )

    async def work() -> MachinePicture:
        async with open_log(directory) as log:
            return await start_machine(log, spec, host)

    picture = run(work())
    if as_json:
        output.print_json(picture.as_json())
    else:
        output.print_line(f"machine {name} runs on {picture.host} (epoch {picture.epoch})")


@app.command()
def stop(name: NameArgument, directory: DirectoryOption = None) -> None:
    """Stop a machine for good: its memory is freed."""

    async def work() -> str:
        async with open_log(directory) as log:
            return await stop_machine(log, name)

    output.print_line(f"machine {name} on {run(work())} is stopped")


@app.command()
def pause(name: NameArgument, directory: DirectoryOption = None) -> None:
    """Let a machine stand still, until it is resumed: also if it is moved meanwhile."""
    _change_pause(name, directory, paused=True)


@app.command()
def resume(name: NameArgument, directory: DirectoryOption = None) -> None:
    """Let a paused machine go on."""
    _change_pause(name, directory, paused=False)


def _change_pause(name: str, directory: Path | None, *, paused: bool) -> None:
    async def work() -> str:
        async with open_log(directory) as log:
            return await pause_machine(log, name, paused=paused)

    output.print_line(f"machine {name} on {run(work())} {'is paused' if paused else 'goes on'}")


@app.command("list")
def list_machines(
    everything: Annotated[
        bool, typer.Option("--all", help="Show machines too that have been stopped.")
    ] = False,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the machines: where each runs and what it is."""

    async def work() -> list[MachinePicture]:
        async with open_log(directory) as log:
            return await all_machines(log)

    shown = [m for m in run(work()) if everything or m.state not in GONE]
    if as_json:
        output.print_json([machine.as_json() for machine in shown])
        return
    columns = ("NAME", "HOST", "STATE", ">EPOCH", ">RAM", "vGPUs", "GUEST")
    rows = [_row(machine) for machine in shown]
    output.print_table(columns, rows, "no machine runs; start one with 'godwit machine start'")


@app.command()
def show(
    name: NameArgument, directory: DirectoryOption = None, as_json: JsonOption = False
) -> None:
    """Show one machine: host, state, epoch, regions, and what moves of it would take."""

    async def work() -> tuple[MachinePicture, Mapping[str, Forecast]]:
        async with open_log(directory) as log:
            picture = await find_machine(log, name)
            return picture, await estimates_of(log, picture)

    picture, forecasts = run(work())
    if as_json:
        told = [forecast_json(host, found) for host, found in forecasts.items()]
        output.print_json(picture.as_json() | {"estimates": told})
    else:
        output.print_facts(_facts(picture) + forecast_lines(forecasts))


@app.command()
def ask(
    name: NameArgument,
    payload: Annotated[
        str,
        typer.Argument(metavar="PAYLOAD", help="The request, as text; '-' reads standard input."),
    ],
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait for the reply.")
    ] = "30s",
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one request to the machine's guest and print its reply."""
    timeout_s = parse_duration_ns(deadline) / 1e9
    request = sys.stdin.buffer.read() if payload == "-" else payload.encode()

    async def work() -> tuple[bytes, int]:
        async with open_log(directory) as log:
            return await ask_machine(log, name, request, timeout_s)

    reply, latency_ns = run(work())
    text = reply.decode("utf-8", "backslashreplace")
    if as_json:
        told = {"machine": name, "reply": text, "latency_ms": milliseconds(latency_ns)}
        output.print_json(told)
    else:
        output.print_line(text)


def make_spec(
    name: str,
    guest: str,
    *,
    ram: str,
    vgpus: Sequence[str] = (),
    env: Sequence[str] = (),
    policy: Policy = Policy.CONSOLIDATE,
    group: DeviceGroup = DeviceGroup.NONE,
    tenant: str = DEFAULT_TENANT,
) -> MachineSpec:
    """The specification that the options of ``machine start`` say. Raises ``InvalidInputError``."""
    from godwit.guests.loader import read_guest_file

    guest_name, source = read_guest_file(guest)
    catalogue = find_catalogue()
    profiles = [catalogue.profile(profile) for profile in vgpus]
    return MachineSpec(
        name=subjects.checked_name(name, "machine"),
        guest=guest_name,
        guest_source=source,
        ram_bytes=parse_size(ram),
        vgpus=tuple(VGpuSpec(found.name, found.framebuffer_bytes) for found in profiles),
        env=dict(_variable(item) for item in env),
        placement_policy=policy,
        device_group=group,
        tenant=tenant,
    ).checked()


async def start_machine(log: EventLog, spec: MachineSpec, host: str) -> MachinePicture:
    """Ask ``host`` to start the machine and wait for its word.

    Raises ``NotFoundError`` (no such host), ``DeadlineError``, ``UnreachableError``, and whatever
    error the host refused with.
    """
    from godwit.runtime.clock import SystemClock
    from godwit.runtime.lane import Scope

    await reading.require_host(log, host)
    attempt = SystemClock().new_id()
    request = mev.MachineStartRequested(start=attempt, spec=spec, requested_by=requested_by())
    scope = Scope.of_machine(spec.name)
    sequence = await append_as_operator(log, scope, request, to=_source_host(host))

    def settles(event: Event) -> bool:
        answers = mev.MachineStarted | mev.MachineStartRefused
        return isinstance(event, answers) and event.start == attempt

    answer = await _wait_for(log, spec.name, sequence, settles, host)
    if isinstance(answer.event, mev.MachineStartRefused):
        refused = answer.event
        told = f"{host} did not start machine {spec.name}: {refused.message}"
        raise _refusal(refused.code, told, refused.hint)
    return await find_machine(log, spec.name)


async def stop_machine(log: EventLog, name: str) -> str:
    """Ask the machine's host to stop it and wait for its word; return the host.

    Raises ``NotFoundError``, ``DeadlineError``, ``UnreachableError``, and whatever error the host
    refused with.
    """
    from godwit.runtime.clock import SystemClock
    from godwit.runtime.lane import Scope

    host = (await find_live_machine(log, name)).host
    attempt = SystemClock().new_id()
    request = mev.MachineStopRequested(stop=attempt, requested_by=requested_by())
    scope = Scope.of_machine(name)
    sequence = await append_as_operator(log, scope, request, to=_source_host(host))

    def settles(event: Event) -> bool:
        answers = mev.MachineStopped | mev.MachineStopRefused
        return isinstance(event, answers) and event.stop == attempt

    answer = await _wait_for(log, name, sequence, settles, host)
    if isinstance(answer.event, mev.MachineStopRefused):
        told = f"{host} did not stop machine {name}: {answer.event.message}"
        raise _refusal(answer.event.code, told)
    return host


async def pause_machine(log: EventLog, name: str, *, paused: bool) -> str:
    """Ask the machine's host to pause or resume it and wait for its word; return the host.

    Raises as ``stop_machine``.
    """
    from godwit.runtime.clock import SystemClock
    from godwit.runtime.lane import Scope

    host = (await find_live_machine(log, name)).host
    asked = mev.MachinePauseRequested if paused else mev.MachineResumeRequested
    attempt = SystemClock().new_id()
    request = asked(request=attempt, requested_by=requested_by())
    scope = Scope.of_machine(name)
    sequence = await append_as_operator(log, scope, request, to=_source_host(host))

    def settles(event: Event) -> bool:
        answers = mev.MachinePaused | mev.MachineResumed | mev.MachinePauseRefused
        return isinstance(event, answers) and event.request == attempt

    answer = await _wait_for(log, name, sequence, settles, host)
    if isinstance(answer.event, mev.MachinePauseRefused):
        told = f"{host} did not {'pause' if paused else 'resume'} machine {name}"
        raise _refusal(answer.event.code, f"{told}: {answer.event.message}")
    return host


async def ask_machine(
    log: EventLog, name: str, payload: bytes, timeout_s: float
) -> tuple[bytes, int]:
    """One request; return the reply and how long it took in ns.

    Raises ``NotFoundError``, ``GuestError`` if the guest has failed, ``DeadlineError``,
    ``UnreachableError``.
    """
    picture = await find_live_machine(log, name)
    if picture.state is MachineState.FAILED:
        raise GuestError(
            f"machine {name} has failed: {picture.failure}",
            hint=f"see 'godwit events --machine {name}'",
        )
    if picture.state is MachineState.PAUSED:
        raise ConflictError(
            f"machine {name} is paused: it answers nobody",
            hint=f"'godwit machine resume {name}' lets it go on",
        )
    async with GuestClient(log, name) as client:
        exchange = await client.exchange(payload, timeout_s=timeout_s)
    return exchange.reply, exchange.latency_ns


async def _wait_for(
    log: EventLog, name: str, after: int, settles: Callable[[Event], bool], host: str
) -> Recorded:
    source = reading.events(log, subjects.whole_machine(name), after_sequence=after, follow=True)
    try:
        async with asyncio.timeout(ANSWER_S_MAX), aclosing(source):
            async for recorded in source:
                if settles(recorded.event):
                    return recorded
    except TimeoutError:
        pass
    raise DeadlineError(
        f"{host} did not answer within {ANSWER_S_MAX:g} s",
        hint="what was asked waits for it, and will be done when its services are up again",
    )


def _source_host(host: str) -> Address:
    from godwit_protocol.roles.effects import Address, Service

    return Address(host, Service.SOURCE_HOST)


def _refusal(code: str, message: str, hint: str = "") -> GodwitError:
    """The error that a host refused with, of the kind that its code names."""
    kinds = {kind.code: kind for kind in GodwitError.__subclasses__()}
    return kinds.get(code, RefusedError)(message, hint=hint)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidInputError(f"{text!r} is no variable", hint="give it as NAME=VALUE")
    return name, value


def _row(machine: MachinePicture) -> Sequence[str]:
    spec = machine.spec
    return (
        machine.name,
        machine.host,
        machine.state.value,
        str(machine.epoch),
        format_size(spec.ram_bytes) if spec else "",
        ", ".join(vgpu.profile for vgpu in spec.vgpus) if spec else "",
        spec.guest if spec else "",
    )


def _facts(machine: MachinePicture) -> list[tuple[str, str]]:
    facts = [
        ("machine", machine.name),
        ("host", machine.host),
        ("state", machine.state.value),
        ("epoch", str(machine.epoch)),
    ]
    if machine.migration:
        facts.append(("migration", machine.migration))
    if machine.failure:
        facts.append(("failure", machine.failure))
    if machine.spec is not None:
        facts.append(("guest", machine.spec.guest))
        facts.append(("tenant", machine.spec.tenant))
        facts.append(("started", day_and_clock(machine.started_wall_ns)))
        facts += [
            (f"region {region.name}", format_size(region.size_bytes))
            for region in machine.spec.regions()
        ]
        facts += [(f"vgpu{index}", vgpu.profile) for index, vgpu in enumerate(machine.spec.vgpus)]
        facts += _placement_facts(machine.spec)
    return facts


def _placement_facts(spec: MachineSpec) -> list[tuple[str, str]]:
    if not spec.vgpus:
        return []
    return [("placement policy", spec.placement_policy), ("device group", spec.device_group)]
