"""A host with a launcher process, and a client that asks guests and counts their replies."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from godwit.guests.loader import read_guest_file
from godwit.hypervisor.native import wire
from godwit.hypervisor.native.driver import NativeHypervisor
from godwit.hypervisor.native.paths import LAUNCHER_SOCKET
from godwit_protocol import subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.machine import MachineSpec, VGpuSpec

GUEST, SOURCE = read_guest_file(f"{Path(__file__).with_name('counting_guest.py')}:CountingGuest")
MIB = 2**20


def machine_spec(name="m", **changes):
    settings = {"guest": GUEST, "guest_source": SOURCE, "ram_bytes": 8 * MIB}
    settings["vgpus"] = (VGpuSpec("H100XM-4C", 4096 * MIB),)
    return MachineSpec(name=name, **(settings | changes))


class Host:
    """A host directory with a launcher process."""

    def __init__(self, directory, nats_url):
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.hypervisor = NativeHypervisor(directory, nats_url)
        self.launcher = None

    def launch(self, *command):
        """``command``: another launcher than the usual one."""
        environment = {**os.environ, "GODWIT_HOST_DIR": str(self.directory)}
        command = command or (sys.executable, "-m", "godwit.hypervisor.native")
        with (self.directory / "launcher.log").open("ab") as log:
            self.launcher = subprocess.Popen(command, env=environment, stderr=log)
        give_up_s = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < give_up_s, "the launcher does not answer"

    def _answers(self):
        try:
            wire.connect(self.directory / LAUNCHER_SOCKET).close()
        except UnreachableError:
            return False
        return True

    def end_launcher(self, number=signal.SIGTERM):
        self.launcher.send_signal(number)
        return self.launcher.wait(10)

    async def stop_machines(self):
        for vmm in await self.hypervisor.find_all():
            await vmm.stop()


class Client:
    """Asks a machine, and collects what the log holds of its replies."""

    def __init__(self, log, since):
        self.log = log
        self.machine = "m"
        self.since = since
        self.asked = []

    @classmethod
    async def of(cls, log):
        """One that knows nothing of what the log holds by now."""
        last = await log.last(subjects.guest_reply("m"))
        return cls(log, last.sequence if last else 0)

    async def send(self, text):
        identity = uuid.uuid4().hex
        subject = subjects.guest_request(self.machine)
        sequence = await self.log.append(subject, text.encode(), message_id=identity)
        self.asked.append(identity)
        return identity, sequence

    async def ask(self, text):
        identity, sequence = await self.send(text)
        async with asyncio.timeout(20):
            tail = self.log.tail([subjects.guest_reply(self.machine)], after_sequence=sequence)
            async for stored in tail:
                if stored.headers["Godwit-Request"] == identity:
                    return stored.data
        raise AssertionError("a tail ended")

    async def replies(self):
        subject = subjects.guest_reply(self.machine)
        return [
            (stored.headers["Godwit-Request"], stored.data)
            async for stored in self.log.read([subject], after_sequence=self.since)
        ]

    async def check_each_answered_once_in_order(self):
        """A last request has been answered when its reply is there: so have all before it."""
        await self.ask("count")
        replies = await self.replies()
        assert sorted(identity for identity, _ in replies) == sorted(self.asked)
        counted = {identity: int(data) for identity, data in replies}
        assert [counted[identity] for identity in self.asked] == list(range(1, len(self.asked) + 1))
