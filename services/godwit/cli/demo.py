"""``godwit demo``: the main job, shown. Starts a cluster, moves a machine, prints the findings."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from godwit.local_cluster.cluster import Cluster
from godwit.pictures import reading
from godwit.pictures.figures import duration, size
from godwit.pictures.narrative import Narrator
from godwit_protocol import subjects

from . import output
from .connection import JsonOption, open_url, run
from .demonstration import Findings, demonstrate
from .events import line
from .progress import display_for

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog

REALITY: Final = (
    "Simulated: the GPUs. Real: the memory, the processes, the sockets, the event log, the model."
)


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the cluster up afterwards, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Move a machine that runs a real model between two hosts while it answers queries.

    Starts a cluster of real processes in a temporary directory and ends it again. Fails if a query
    was lost, answered twice, or answered differently from a machine that was never moved.
    """
    with tempfile.TemporaryDirectory(prefix="godwit-demo-", ignore_cleanup_errors=True) as place:
        findings = run(_show(Path(place), keep=keep, as_json=as_json))
    findings.check()


async def _show(directory: Path, *, keep: bool, as_json: bool) -> Findings:
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    say = _silent if as_json else _say
    say(REALITY)
    say("starting an event log, a coordinator, a tracker and two hosts")
    async with await Cluster.start(directory, report=_say) as cluster:
        async with open_url(cluster.nats_url) as log:
            findings = await demonstrate(
                log, say, lambda migration: display_for(migration, silent=as_json)
            )
            if as_json:
                output.print_json(findings.as_json())
            else:
                await _print_story(log, findings.summary.id)
                _print_findings(findings)
        if keep:
            _say(f"the cluster stays up until Ctrl-C; export GODWIT_DIR={directory}")
            await _told_to_stop()
    return findings


async def _told_to_stop() -> None:
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


def _say(text: str) -> None:
    output.stderr().print(f"• {text}", soft_wrap=True)


def _silent(_text: str) -> None:
    pass


async def _print_story(log: EventLog, migration: str) -> None:
    output.print_line("\nWhat the log says of it:\n")
    narrator = Narrator()
    async for entry in reading.entries(log, subjects.whole_migration(migration)):
        output.print_line(line(entry, narrator, named=False))
    output.print_line(
        "\nIn a cluster that runs ('godwit up', or 'godwit demo --keep'):"
        f" godwit events --migration {migration}\n"
    )


def _print_findings(findings: Findings) -> None:
    summary = findings.summary
    parts = summary.marks.components_ns().items()
    stun = "unknown" if summary.stun_ns is None else duration(summary.stun_ns)
    output.print_facts(
        [
            ("rounds", str(len(summary.rounds))),
            ("bytes sent", f"{size(summary.sent_bytes)} ({summary.sent_bytes:,} bytes)"),
            ("throughput", f"{findings.throughput_gbps:.1f} Gbit/s"),
            ("stun", stun),
            *((f"  {part}", duration(part_ns)) for part, part_ns in parts),
            ("longest gap a client saw", _gap(findings)),
            ("queries asked", f"{findings.asked:,}"),
            ("queries answered", f"{findings.answered:,}"),
            ("queries lost", str(findings.lost)),
            ("queries answered twice", str(findings.doubled)),
            ("answers equal to the other machine's", _equality(findings)),
        ]
    )
    output.print_line(f"\n{REALITY}")


def _gap(findings: Findings) -> str:
    return f"{duration(findings.gap_ns)} (before the migration: {duration(findings.usual_gap_ns)})"


def _equality(findings: Findings) -> str:
    return f"no: {findings.different} differ" if findings.different else "yes, byte for byte"
