"""What connects the hosts, so that it can be cut: the direct link, each host's log, each disk.

The direct link runs between two network namespaces with one pair of virtual interfaces; a host's
services reach the event log through a relay; their journals lie on a disk of 64 KiB in memory. The
namespaces and the disks need root. Nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from relay import Relay

ADDRESSES: Final = ("10.77.0.1", "10.77.0.2")
LINK: Final = "godwit0"
NOBODY: Final = "02:00:00:00:00:99"
"""A link address that nobody has: what is sent there is lost, and no error says so."""
DISK_BYTES: Final = 64 * 1024


def is_possible() -> bool:
    """Whether this user may make namespaces and mount disks."""
    return os.geteuid() == 0


class Wires:
    """The wires of two hosts. All that is cut can be mended."""

    def __init__(self, hosts: tuple[str, ...], directory: Path, relays: dict[str, Relay]) -> None:
        self._hosts = hosts
        self._directory = directory
        self._relays = relays
        self._filler: dict[str, Path] = {}
        self._tag = uuid4().hex[:8]

    @classmethod
    @asynccontextmanager
    async def lay(
        cls, hosts: tuple[str, ...], directory: Path, nats_url: str
    ) -> AsyncIterator[Wires]:
        """Lay them for the cluster in ``directory``, whose services ``run_service`` wires."""
        async with AsyncExitStack() as stack:
            relays = {host: await stack.enter_async_context(Relay(nats_url)) for host in hosts}
            wires = cls(hosts, directory, relays)
            await wires._lay_link(stack)
            for host, address in zip(hosts, ADDRESSES, strict=True):
                await wires._mount_disk(stack, host)
                namespace = f"/run/netns/{wires._namespace(host)}"
                environ = {
                    "GODWIT_NATS_URL": relays[host].url,
                    "GODWIT_LINK_HOST": address,
                    "CHAOS_NETWORK_NAMESPACE": namespace,
                }
                described = "\n".join(f"{name}={value}" for name, value in environ.items())
                (directory / "plans" / f"{host}.environ").write_text(described)
            yield wires

    # The direct link.

    async def cut_link(self) -> None:
        """Nothing passes, in either direction."""
        await self._ip("-n", self._namespace(self._hosts[0]), "link", "set", LINK, "down")

    async def lose_what_is_sent_by(self, host: str) -> None:
        """Only the other direction passes."""
        await self._neighbour(host, NOBODY)

    async def mend_link(self) -> None:
        """Everything passes again."""
        for host in self._hosts:
            await self._ip("-n", self._namespace(host), "link", "set", LINK, "up")
        for host in self._hosts:
            await self._neighbour(host, self._link_address(self._other(host)))

    # The event log and the disks.

    async def cut_log(self, host: str) -> None:
        """The host's services and new VMMs do not reach the event log."""
        await self._relays[host].cut_until_mended()

    def mend_log(self, host: str) -> None:
        """They do again."""
        self._relays[host].mend()

    def fill_disk(self, host: str) -> None:
        """The journals' disk takes not one byte more."""
        filler = self._journals(host) / "filler"
        self._filler[host] = filler
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(512)):
                pass

    def free_disk(self, host: str) -> None:
        """It does again."""
        self._filler.pop(host).unlink()

    def _journals(self, host: str) -> Path:
        return self._directory / "hosts" / host / "journals"

    def _namespace(self, host: str) -> str:
        return f"godwit-{self._tag}-{self._hosts.index(host) + 1}"

    def _link_address(self, host: str) -> str:
        return f"02:00:00:00:00:0{self._hosts.index(host) + 1}"

    def _other(self, host: str) -> str:
        return next(each for each in self._hosts if each != host)

    async def _lay_link(self, stack: AsyncExitStack) -> None:
        names = [self._namespace(host) for host in self._hosts]
        for name in names:
            await self._ip("netns", "add", name)
            stack.push_async_callback(self._ip, "netns", "del", name)
        pair = ("type", "veth", "peer", "name", LINK, "netns", names[1])
        await self._ip("link", "add", "name", LINK, "netns", names[0], *pair)
        for host, name, address in zip(self._hosts, names, ADDRESSES, strict=True):
            await self._ip("-n", name, "addr", "add", f"{address}/24", "dev", LINK)
            own = self._link_address(host)
            await self._ip("-n", name, "link", "set", LINK, "address", own)
        await self.mend_link()

    async def _neighbour(self, host: str, link_address: str) -> None:
        """Where the host sends what is for the other."""
        there = ADDRESSES[self._hosts.index(self._other(host))]
        entry = (there, "lladdr", link_address, "dev", LINK, "nud", "permanent")
        await self._ip("-n", self._namespace(host), "neigh", "replace", *entry)

    async def _mount_disk(self, stack: AsyncExitStack, host: str) -> None:
        place = self._journals(host)
        place.mkdir(parents=True)
        size = f"size={DISK_BYTES}"
        await _run("mount", "-t", "tmpfs", "-o", size, "godwit-chaos", str(place))
        stack.push_async_callback(_run, "umount", str(place))

    async def _ip(self, *arguments: str) -> None:
        await _run("ip", *arguments)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, complaint = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)}: {complaint.decode()}"
