"""What a host's variables say of the data plane is what the data plane is told."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from calm_cluster import CalmCluster

from godwit.content.shelf import Shelf
from godwit.hypervisor.port import DirtyPages, LinkTarget, SentPages
from godwit.proof.simulator.transfer import ProcessIncoming, ProcessOutgoing, ProcessSession
from godwit_protocol.compression import Compression
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev

BOTH = (Compression.LZ4, Compression.ZSTD)
ON = {"GODWIT_CONTENT_STORE": "on"}
MBIT = 125_000


class Told:
    """What both ends of a simulated data plane were told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.target: LinkTarget | None = None
        self.waits: list[int] = []
        self.taken: tuple[Compression, ...] | None = None
        self.has_shelf = False
        connect, send_round = ProcessOutgoing.connect, ProcessOutgoing.send_round
        receive, dirty = ProcessIncoming.receive, ProcessOutgoing.dirty

        async def connect_noted(outgoing: ProcessOutgoing, target: LinkTarget) -> None:
            self.target = target
            await connect(outgoing, target)

        async def send_noted(
            outgoing: ProcessOutgoing,
            number: int,
            *,
            wait_bytes_max: int = 0,
            in_stun: bool = False,
        ) -> SentPages:
            self.waits.append(wait_bytes_max)
            return await send_round(outgoing, number, in_stun=in_stun)

        async def hot_once(outgoing: ProcessOutgoing) -> DirtyPages:
            return await dirty(outgoing) if len(self.waits) > 1 else DirtyPages(1 << 30, 1 << 30)

        def receive_noted(incoming: ProcessIncoming, *given: Any, **named: Any) -> ProcessSession:
            self.taken, self.has_shelf = named["compressions"], named["content"] is not None
            return receive(incoming, *given, **named)

        async def stocked(_shelf: Shelf, _machine_bytes: int) -> bool:
            return True

        monkeypatch.setattr(ProcessOutgoing, "connect", connect_noted)
        monkeypatch.setattr(ProcessOutgoing, "send_round", send_noted)
        monkeypatch.setattr(ProcessOutgoing, "dirty", hot_once)
        monkeypatch.setattr(ProcessIncoming, "receive", receive_noted)
        monkeypatch.setattr(Shelf, "stocked", stocked)


@contextmanager
def running(variables: Mapping[str, Mapping[str, str]], *machines: str) -> Iterator[CalmCluster]:
    """A calm cluster with machines on its first host."""
    calm = CalmCluster(variables=variables)
    for machine in machines:
        calm.start(machine=machine)
    calm.until(calm.has_told(mev.MachineStarted, len(machines)))
    yield calm
    assert calm.judge.violations == []
    calm.world.bury()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def moved(
    told: Told,
    source: Mapping[str, str] | None = None,
    destination: Mapping[str, str] | None = None,
) -> LinkTarget:
    """Move a machine between hosts with such variables; return what its source was told."""
    with running(
        {"host-1": {**ON, **(source or {})}, "host-2": {**ON, **(destination or {})}}, "m"
    ) as calm:
        calm.migrate()
        calm.until(calm.has_told(ev.MigrationEnded))
        assert calm.told(ev.MachineActivated)
    assert told.target is not None
    return told.target


def test_all_that_need_not_travel_is_left_out_unless_a_variable_says_otherwise(told: Told) -> None:
    target = moved(told)
    assert (target.omit_zeros, target.omit_rewritten, target.offer_content) == (True, True, True)
    assert target.compressions == told.taken == BOTH
    assert told.has_shelf
    assert told.waits[1] > 0


def test_zeros_are_sent_if_the_source_says_so(told: Told) -> None:
    target = moved(told, {"GODWIT_OMIT_ZEROS": "off"})
    assert (target.omit_zeros, target.omit_rewritten) == (False, True)


def test_what_was_rewritten_is_sent_if_the_source_says_so(told: Told) -> None:
    target = moved(told, {"GODWIT_OMIT_REWRITTEN": "off"})
    assert (target.omit_zeros, target.omit_rewritten) == (True, False)


def test_nothing_hot_waits_if_the_source_says_so(told: Told) -> None:
    moved(told, {"GODWIT_LET_HOT_WAIT": "off"})
    assert len(told.waits) > 1
    assert not any(told.waits)


def test_either_host_switches_the_content_store_off(told: Told) -> None:
    off = {"GODWIT_CONTENT_STORE": "off"}
    assert not moved(told, off).offer_content
    assert told.has_shelf, "the destination's is another's to switch off"
    assert not moved(told, None, off).offer_content
    assert not told.has_shelf


@pytest.mark.parametrize(
    ("source", "destination", "agreed", "taken"),
    [
        ("off", "auto", (), BOTH),
        ("auto", "off", (), ()),
        ("lz4", "auto", (Compression.LZ4,), BOTH),
        ("auto", "zstd", (Compression.ZSTD,), (Compression.ZSTD,)),
        ("lz4", "zstd", (), (Compression.ZSTD,)),
    ],
)
def test_pages_are_compressed_only_as_both_hosts_say(
    told: Told,
    source: str,
    destination: str,
    agreed: tuple[Compression, ...],
    taken: tuple[Compression, ...],
) -> None:
    name = "GODWIT_COMPRESSION"
    target = moved(told, {name: source}, {name: destination})
    assert (target.compressions, told.taken) == (agreed, taken)


@pytest.mark.parametrize("number", [1, 3])
def test_a_number_of_connections_that_is_given_is_kept(told: Told, number: int) -> None:
    target = moved(told, {"GODWIT_BULK_CONNECTIONS": str(number)})
    assert (target.connections, target.spread) == (number, 0)
    chosen = moved(told, {"GODWIT_BULK_CONNECTIONS": "auto"})
    assert chosen.spread >= 1


@pytest.mark.parametrize(
    ("link", "own", "rate"),
    [("none", 0, 0), ("800Mbit", 0, 800), ("800Mbit", 80, 80), ("80Mbit", 800, 80)],
)
def test_a_hosts_link_and_a_migrations_own_cap_hold_its_pages_back(
    monkeypatch: pytest.MonkeyPatch, link: str, own: int, rate: int
) -> None:
    rates = paced(monkeypatch, 1)
    with running({"host-1": {"GODWIT_LINK_BANDWIDTH": link}}, "m") as calm:
        calm.migrate(bandwidth=own * MBIT)
        calm.until(calm.has_told(ev.MigrationEnded))
    assert rates == [rate * MBIT]


def test_what_leaves_a_host_at_the_same_time_shares_its_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = paced(monkeypatch, 2)
    with running({"host-1": {"GODWIT_LINK_BANDWIDTH": "800Mbit"}}, "m", "n") as calm:
        for machine in ("m", "n"):
            calm.migrate(machine=machine)
        calm.until(calm.has_told(ev.MigrationEnded, 2))
    assert rates == [400 * MBIT] * 2


def paced(monkeypatch: pytest.MonkeyPatch, departures: int) -> list[int]:
    """What each of so many departures may send a second, once all of them have joined."""
    rates: list[int] = []
    together = asyncio.Barrier(departures)
    connect = ProcessOutgoing.connect

    async def connect_together(outgoing: ProcessOutgoing, target: LinkTarget) -> None:
        assert target.pace is not None
        await together.wait()
        rates.append(target.pace.bytes_per_second)
        await together.wait()  # nobody leaves before all have been asked
        await connect(outgoing, target)

    monkeypatch.setattr(ProcessOutgoing, "connect", connect_together)
    return rates
