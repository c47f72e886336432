"""``godwit up``: a local cluster of real processes in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from godwit.local_cluster.cluster import DEFAULT_GPUS, HOSTS_MAX, Cluster
from godwit.runtime.values import without_credentials

from . import output
from .connection import URL_VARIABLE, DirectoryOption, cluster_directory, run


def up(
    hosts: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=HOSTS_MAX, help="How many hosts: host-1 to host-N."),
    ] = 2,
    gpus: Annotated[
        str,
        typer.Option(
            envvar="GODWIT_GPUS", metavar="MODEL:COUNT,…", help="SIMULATED GPUs of each host."
        ),
    ] = DEFAULT_GPUS,
    directory: DirectoryOption = None,
) -> None:
    """Run a local cluster until Ctrl-C: an event log, all services, and hosts.

    Everything is a real process on this machine, but for the GPUs, which are simulated. Other
    commands find the cluster by its directory. With GODWIT_NATS_URL, that event log is used.
    """
    run(_serve(cluster_directory(directory), hosts, gpus))


async def _serve(directory: Path, hosts: int, gpus: str) -> None:
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)
    waiting = asyncio.create_task(told_to_stop.wait())
    starting = asyncio.create_task(
        Cluster.start(
            directory,
            hosts=hosts,
            gpus=gpus,
            nats_url=os.environ.get(URL_VARIABLE) or None,
            report=_report,
            monitor=True,
        )
    )
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if told_to_stop.is_set() and not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    waiting.cancel() if starting.exception() else None
    async with starting.result() as cluster:
        output.print_line(_ready_line(cluster))
        await told_to_stop.wait()
        _report("stopping the cluster and its machines")


def _ready_line(cluster: Cluster) -> str:
    names = ", ".join(cluster.hosts)
    watch = f"; to watch {cluster.watch_url}" if cluster.watch_url else ""
    return (
        f"ready: {without_credentials(cluster.nats_url)} (hosts {names}; GPUs SIMULATED;"
        f" directory {cluster.directory}; page {cluster.page_url}{watch});"
        f" Ctrl-C ends all of it"
    )


def _report(text: str) -> None:
    output.stderr().print(text, soft_wrap=True)
