"""Many requests at once, many replicas, many GPUs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest

from godwit.runtime.nats_server import NatsServer
from godwit_protocol import codec, ledger, subjects
from godwit_protocol.events import reservation as rev
from godwit_protocol.ledger import EntryKind, HostPicture

from .service_processes import StartService
from .world import World

pytestmark = pytest.mark.e2e

H100 = "H100-80GB"
REPLICAS = 3
REQUESTS = 1_000
APPENDS_IN_FLIGHT = 64
"""Requests are written sooner than they are answered: nearly all of them are open at once."""
ANSWERED_S_MAX = 120.0
COMMAND_S_MAX = 60.0
ANSWERS = (rev.ReservationGranted, rev.ReservationRefused)
PROFILES = ("1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "H100XM-20C", "H100XM-4C")


async def pictures(world: World, hosts: list[str]) -> dict[str, HostPicture]:
    """The hosts' ledgers, folded; each line is checked against those before it."""
    found = {host: HostPicture(host=host) for host in hosts}
    async for stored in world.log.read([subjects.ledger("*")]):
        entry = ledger.decode_entry(stored.data)
        found[entry.host] = ledger.apply(found[entry.host], entry, stored.sequence)
        check_nothing_overlaps(found[entry.host])
    return found


def check_nothing_overlaps(picture: HostPicture) -> None:
    placed = [item for held in picture.holdings.values() for item in held.placements]
    for gpu in {item.gpu for item in placed}:
        here = [item for item in placed if item.gpu == gpu]
        slots = [at for item in here for at in range(item.start, item.start + item.slots)]
        assert len(slots) == len(set(slots)), (picture.host, here)
        assert len({item.mode for item in here}) == 1, (picture.host, here)


async def answered(world: World, reservations: set[str]) -> None:
    """Wait until each has been told something."""
    source = cast("Any", world.log.tail(subjects.whole_machine("*")))
    async with asyncio.timeout(ANSWERED_S_MAX), aclosing(source):
        waiting = set(reservations)
        async for stored in source:
            event = codec.decode(stored.data, stored.sequence).event
            if isinstance(event, ANSWERS):
                waiting.discard(event.reservation)
            if not waiting:
                return


async def answers(world: World) -> dict[str, list[type]]:
    """What each was told: all of it."""
    told: dict[str, list[type]] = {}
    async for stored in world.log.read(subjects.whole_machine("*")):
        event = codec.decode(stored.data, stored.sequence).event
        if isinstance(event, ANSWERS):
            told.setdefault(event.reservation, []).append(type(event))
    return told


async def test_a_thousand_requests_at_once_to_three_replicas_overbook_nothing(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    hosts = [await world.host(*[H100] * 8) for _ in range(4)]
    names = [f"tracker-{number}" for number in range(REPLICAS)]
    trackers = [start_service("gpu_state_tracker", GODWIT_TRACKER_ID=name) for name in names]
    in_flight = asyncio.Semaphore(APPENDS_IN_FLIGHT)

    async def ask(number: int) -> str:
        async with in_flight:
            profile = PROFILES[number % len(PROFILES)]
            return await world.ask_capacity(hosts[number % len(hosts)], f"m-{number}", profile)

    asked = await asyncio.gather(*map(ask, range(REQUESTS)))
    await answered(world, set(asked))
    assert [tracker.stop() for tracker in trackers] == [0] * REPLICAS
    told = await answers(world)
    assert Counter(len(kinds) for kinds in told.values()) == {1: REQUESTS}
    found = await pictures(world, hosts)
    granted = {name for name, kinds in told.items() if kinds == [rev.ReservationGranted]}
    assert granted == {name for picture in found.values() for name in picture.holdings}
    refused = {name for picture in found.values() for name in picture.settled}
    assert granted | refused == set(asked)
    assert len(granted) >= 32
    assert len(refused) >= 500


async def test_a_cluster_of_a_thousand_gpus_is_placed_on_and_shown(
    own_world: World, own_server: NatsServer, start_service: StartService, tmp_path: Path
) -> None:
    world = own_world
    hosts = await asyncio.gather(*(world.host(*[H100] * 8) for _ in range(128)))
    start_service("gpu_state_tracker")
    wanted = [("4g.40gb", "3g.40gb"), ("1g.10gb",) * 3, ("H100XM-20C",) * 2]
    asked = await asyncio.gather(
        *(
            world.ask_capacity(host, f"m-{number}", *wanted[number % 3])
            for number, host in enumerate(hosts)
        )
    )
    await answered(world, set(asked))
    assert set(map(tuple, (await answers(world)).values())) == {(rev.ReservationGranted,)}
    running = await world.machine(hosts[0], "1g.10gb")
    command = Command(own_server.url, tmp_path)

    table, data, one, dry = await asyncio.gather(
        command.run("gpus"),
        command.run("capacity", "--json"),
        command.run("gpus", "--host", hosts[0], "--json"),
        command.run("migrate", running, "--to", hosts[1], "--dry-run", "--json"),
    )
    assert sum(line.startswith("h-") for line in table.splitlines()) == 128
    assert "1,024 GPUs of 1,024 SIMULATED" in table
    check_capacity(json.loads(data))
    assert len(json.loads(one)) == 8
    states = {item["state"] for gpu in json.loads(one) for item in gpu["holds"]}
    assert states == {EntryKind.HELD, EntryKind.CONFIRMED}
    fits = {item["check"]: item["status"] for item in json.loads(dry)["verdicts"]}
    assert fits["profile_available"] == "ok"
    assert await command.watch("gpus", until="1,024 GPUs of 1,024")
    assert await command.watch("capacity", until="1g.10gb")


def check_capacity(whole: dict[str, Any]) -> None:
    assert (whole["hosts"], whole["gpus"]) == (128, 1024)
    by_name = {item["profile"]: item for item in whole["profiles"]}
    assert (by_name["1g.10gb"]["reserved"], by_name["1g.10gb"]["consumed"]) == (3 * 43, 1)
    assert by_name["1g.10gb"]["maximum"] == 7 * 1024
    assert by_name["7g.80gb"]["remaining"] == 1024 - 128 - 1
    assert by_name["7g.80gb"]["repacked"]["at_least"] > 1024 - 128


class Command:
    """``godwit`` as an operator calls it."""

    def __init__(self, url: str, directory: Path) -> None:
        self._environment = {**os.environ, "GODWIT_NATS_URL": url, "GODWIT_DIR": str(directory)}

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "godwit",
            *arguments,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            limit=2**22,
        )

    async def run(self, *arguments: str) -> str:
        """What it prints."""
        process = await self._start(*arguments)
        async with asyncio.timeout(COMMAND_S_MAX):
            out, _ = await process.communicate()
        return out.decode()

    async def watch(self, *arguments: str, until: str) -> bool:
        """Whether it shows ``until`` with ``--watch``; it is then ended."""
        process = await self._start(*arguments, "--watch")
        assert process.stdout is not None
        async with asyncio.timeout(COMMAND_S_MAX):
            async for line in process.stdout:
                if until in line.decode():
                    process.terminate()
                    break
            await process.communicate()
        return until in line.decode()
