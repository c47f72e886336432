"""``godwit migrate --dry-run``: every verdict at once, by its table, its JSON and its exit code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from conftest import Godwit
from told_log import Teller

from godwit.catalogue.loading import load
from godwit.gpus.simulated import SimulatedGpus
from godwit.runtime.lane import Scope
from godwit_protocol import ledger, register, subjects
from godwit_protocol.compatibility.host_checks import NEEDED_FEATURES
from godwit_protocol.compatibility.verdict import Check
from godwit_protocol.errors import ConflictError, RefusedError
from godwit_protocol.events import Lane
from godwit_protocol.events.machine import HostAnnounced
from godwit_protocol.facts import DeclaredFacts, HostFacts, Setting
from godwit_protocol.ledger import EntryKind, HostPicture, LedgerEntry
from godwit_protocol.machine import HypervisorKind
from links import all_hosts_linked

H100 = "H100-80GB"


class Cluster:
    """Hosts ``NAME-a`` and ``NAME-b``, and machine ``NAME`` on the first, as the log tells them."""

    def __init__(self, teller: Teller, name: str) -> None:
        self.teller = teller
        self.name = name
        self.here, self.there = f"{name}-a", f"{name}-b"

    async def announce(self, host: str, declared: DeclaredFacts, free: int = 2**33) -> None:
        seen = await SimulatedGpus(host, [H100], load(), declared).look()
        announced = HostAnnounced(
            hypervisors=(HypervisorKind.NATIVE,),
            missing=(),
            memory_bytes=2**34,
            kernel="6.8",
            gpus=seen.gpus,
            facts=HostFacts(
                free_memory_bytes=free,
                kernel_features=NEEDED_FEATURES[HypervisorKind.NATIVE],
                hypervisor_versions={HypervisorKind.NATIVE: "0.1.0"},
                link_address="127.0.0.1",
                link_version=1,
                driver=seen.driver,
            ),
        )
        await self.teller.tell(Lane.SOURCE, host, Scope.of_host(host), announced)

    async def start(self) -> None:
        """The machine runs, with its vGPU where the tracker puts the first."""
        spec = await self.teller.start(self.name, self.here)
        seen = await SimulatedGpus(self.here, [H100], load(), DeclaredFacts()).look()
        picture = HostPicture(host=self.here, announced=True, gpus=seen.gpus)
        wanted = ledger.wanted(
            tuple(vgpu.profile for vgpu in spec.vgpus),
            tuple(vgpu.framebuffer_bytes for vgpu in spec.vgpus),
            load(),
        )
        assert isinstance(wanted, tuple)
        seats = ledger.decide(picture, self.here, wanted, load())
        assert isinstance(seats, tuple)
        await self.hold(self.here, LedgerEntry(
            kind=EntryKind.HELD,
            reservation=self.name,
            machine=self.name,
            host=self.here,
            placements=seats,
        ))  # fmt: skip

    async def hold(self, host: str, entry: LedgerEntry) -> None:
        await self.teller.log.append(
            subjects.ledger(host), ledger.encode_entry(entry), message_id=entry.reservation
        )

    async def messages(self) -> int:
        """How much stands in the log of the machine, its migrations and its hosts."""
        log = self.teller.log
        filters = (
            [*subjects.whole_machine(self.name), *subjects.whole_migration("*")],
            [subjects.register(self.name), subjects.claim(self.name)],
            [subjects.ledger(self.here), subjects.ledger(self.there)],
        )
        return sum([len([1 async for _ in log.read(one)]) for one in filters])


@pytest_asyncio.fixture
async def cluster(teller: Teller, unique_name: str) -> AsyncIterator[Cluster]:
    made = Cluster(teller, unique_name)
    await made.announce(made.here, DeclaredFacts())
    await made.announce(made.there, DeclaredFacts())
    await made.start()
    async with all_hosts_linked(teller.log):
        yield made


async def test_hosts_that_go_together_and_nothing_is_written(
    godwit: Godwit, cluster: Cluster
) -> None:
    before = await cluster.messages()
    words = ("migrate", cluster.name, "--to", cluster.there, "--dry-run")
    shown = await godwit(*words)
    assert shown.status == 0, shown.err
    assert f"can move from {cluster.here} to {cluster.there}; nothing has been moved" in shown.out
    assert "SIMULATED" in shown.out
    told = json.loads((await godwit(*words, "--json")).out)
    assert told["movable"] is True
    assert {verdict["status"] for verdict in told["verdicts"]} == {"ok"}
    assert [verdict["check"] for verdict in told["verdicts"]] == [
        check.value for check in Check if check is not Check.NVLINK_GROUP
    ]
    assert await cluster.messages() == before


async def test_all_that_refuses_is_shown_at_once(godwit: Godwit, cluster: Cluster) -> None:
    facts = DeclaredFacts(ecc=Setting.OFF, driver="535.1")
    await cluster.announce(cluster.there, facts, free=2**20)
    words = ("migrate", cluster.name, "--to", cluster.there, "--dry-run")
    told = await godwit(*words, "--json")
    assert told.status == RefusedError.exit_code
    verdicts = {verdict["check"]: verdict for verdict in json.loads(told.out)["verdicts"]}
    refusing = [name for name, verdict in verdicts.items() if verdict["status"] != "ok"]
    assert refusing == ["ecc_mode", "driver", "free_ram"]
    assert verdicts["ecc_mode"]["about"] == "vgpu0"
    shown = await godwit(*words)
    assert shown.status == RefusedError.exit_code
    assert shown.out.count("REFUSED") == 3
    assert "535.1" in shown.out
    assert "3 of 15 checks refuse" in shown.err


async def test_a_place_that_is_taken_is_shown_with_who_would_have_to_move(
    godwit: Godwit, cluster: Cluster
) -> None:
    picture = HostPicture(
        host=cluster.there,
        announced=True,
        gpus=(await SimulatedGpus(cluster.there, [H100], load(), DeclaredFacts()).look()).gpus,
    )
    whole = ledger.wanted(("7g.80gb",), (4096,), load())
    assert isinstance(whole, tuple)
    seats = ledger.decide(picture, cluster.there, whole, load())
    assert isinstance(seats, tuple)
    await cluster.hold(
        cluster.there,
        LedgerEntry(
            kind=EntryKind.HELD,
            reservation=f"{cluster.name}-big",
            machine="big",
            host=cluster.there,
            placements=seats,
        ),
    )
    shown = await godwit("migrate", cluster.name, "--to", cluster.there, "--dry-run")
    assert shown.status == RefusedError.exit_code
    assert "7g.80gb of big" in shown.out
    assert "1 of 15 checks refuses" in shown.err


async def test_what_is_there_already_or_being_moved_is_said(
    godwit: Godwit, cluster: Cluster
) -> None:
    there = await godwit("migrate", cluster.name, "--to", cluster.here, "--dry-run")
    assert there.status == ConflictError.exit_code
    assert "already" in there.err
    claim = register.encode_claim(register.Claim(machine=cluster.name, migration="another"))
    await cluster.teller.log.append(
        subjects.claim(cluster.name), claim, message_id=f"{cluster.name}-claim"
    )
    moving = await godwit("migrate", cluster.name, "--to", cluster.there, "--dry-run")
    assert moving.status == ConflictError.exit_code
    assert "another is moving" in moving.err


@pytest.mark.parametrize(("machine", "host"), [("nobody", None), (None, "nowhere")])
async def test_what_does_not_exist_is_not_found(
    godwit: Godwit, cluster: Cluster, machine: str | None, host: str | None
) -> None:
    words = ("migrate", machine or cluster.name, "--to", host or cluster.there, "--dry-run")
    assert (await godwit(*words)).status == 3
