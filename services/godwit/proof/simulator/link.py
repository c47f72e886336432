"""The simulated direct link: control connections byte by byte, bulk connections page by page.

A connection is like TCP: in order, without loss or doubles, until it breaks. Between two hosts a
direction can be cut: what is sent waits, and the connection breaks if that takes too long. The
processes at both ends see each other's death.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from godwit.transfer.connection import CONNECT_TIMEOUT_S, STALL_S
from godwit.transfer.port import BulkSession, OnControl
from godwit_protocol.errors import LocalProtocolError, UnreachableError
from godwit_protocol.framing import FrameKind, Preamble

from .faults import Fault
from .process import Process, World

TRIP_S: Final = 0.0001
LATE_S_MAX: Final = 2.0
HEARD_S: Final = (0.0, 0.0, 0.05, 2.0)
"""Within such times an end hears that its connection is broken."""


class Breakable(Protocol):
    """A connection, of one kind or the other."""

    @property
    def is_open(self) -> bool:
        """Whether anybody still has it open."""

    def reset(self) -> None:
        """Break it: what is on its way is lost, and each end hears of it in its own time."""


class Network:
    """Hosts, the cuts between them, and who listens where."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._connections: list[Breakable] = []
        self._cuts_s: dict[tuple[str, str], float] = {}
        self._isolated_s: dict[str, float] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._ports = 10_000

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Let nothing pass from one host to another for a while."""
        until_s = self.world.loop.time() + seconds
        self._cuts_s[source, target] = max(until_s, self._cuts_s.get((source, target), 0.0))

    def isolate(self, host: str, seconds: float) -> None:
        """Let nothing pass to or from a host for a while."""
        until_s = self.world.loop.time() + seconds
        self._isolated_s[host] = max(until_s, self._isolated_s.get(host, 0.0))

    def opened(self, connection: Breakable) -> None:
        """From now on it can be broken."""
        self._connections = [one for one in self._connections if one.is_open]
        self._connections.append(connection)

    def reset_one(self) -> bool:
        """Break any connection; return whether one was open."""
        connections = [one for one in self._connections if one.is_open]
        if connections:
            self.world.dice.choice(connections).reset()
        return bool(connections)

    def heard_s(self) -> float:
        """After what time an end hears that its connection is broken."""
        dice = self.world.dice
        return self.world.latency_s(TRIP_S) + dice.choice(HEARD_S) * dice.random()

    def heal(self) -> None:
        """End all cuts."""
        self._cuts_s.clear()
        self._isolated_s.clear()

    def open_s(self, source: str, target: str) -> float:
        """From when on something passes."""
        now_s = self.world.loop.time()
        if not self._cuts_s and not self._isolated_s:
            return now_s
        alone_s = max(self._isolated_s.get(source, 0.0), self._isolated_s.get(target, 0.0))
        return max(self._cuts_s.get((source, target), 0.0), alone_s, now_s)

    def listen(self, process: Process) -> Listener:
        """A new port of the process's host."""
        self._ports += 1
        listener = Listener(process, self._ports)
        self._listeners[process.host, self._ports] = listener
        return listener

    async def reach(self, process: Process, host: str, port: int) -> Listener:
        """Find a listener, one round trip away. Raises ``UnreachableError``."""
        process.step("dial the destination")
        now_s = self.world.loop.time()
        wait_s = max(self.open_s(process.host, host), self.open_s(host, process.host)) - now_s
        if wait_s > CONNECT_TIMEOUT_S:
            await asyncio.sleep(CONNECT_TIMEOUT_S)
            raise UnreachableError(f"no direct link to {host}:{port}: no answer in time")
        await asyncio.sleep(wait_s + self.world.latency_s(2 * TRIP_S))
        listener = self._listeners.get((host, port))
        if listener is None or not listener.process.alive:
            raise UnreachableError(f"no direct link to {host}:{port}: connection refused")
        return listener

    def dialer(self, process: Process) -> Callable[..., Any]:
        """``transfer.port.Dial`` of one process."""

        async def dial(
            host: str, port: int, session: bytes, token: bytes
        ) -> tuple[asyncio.StreamReader, Writer]:
            listener = await self.reach(process, host, port)
            connection = Connection(self, process, listener.process)
            self.opened(connection)
            near, far = connection.ends
            expected = listener.expected.get(session)
            if expected is None or expected.token != token:
                far.writer.close()
            else:
                listener.process.call(expected.on_control, far.reader, far.writer)
            return near.reader, near.writer

        return dial


@dataclass
class _Expected:
    token: bytes
    on_control: OnControl
    bulk: BulkSession | None = None


class Listener:
    """``transfer.port.Acceptor`` of one process."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.expected: dict[bytes, _Expected] = {}
        self._port = port

    @property
    def port(self) -> int:
        """As ``Acceptor.port``."""
        return self._port

    def expect(self, session: bytes, token: bytes, on_control: OnControl) -> None:
        """As ``Acceptor.expect``."""
        self.expected[session] = _Expected(token, on_control)

    def admit_bulk(self, session: BulkSession) -> None:
        """As ``Acceptor.admit_bulk``."""
        expected = self.expected.get(session.link.session)
        if expected is None:
            raise LocalProtocolError("the session is not expected")
        expected.bulk = session

    def forget(self, session: bytes) -> None:
        """As ``Acceptor.forget``."""
        self.expected.pop(session, None)

    def take_bulk(self, session: bytes, token: bytes, connection: object) -> bool:
        """Bring a bulk connection to the session that waits for it, if one does."""
        expected = self.expected.get(session)
        if expected is None or expected.token != token or expected.bulk is None:
            return False
        preamble = Preamble(FrameKind.BULK_HELLO, session, token)
        expected.bulk.admit(preamble, cast(socket.socket, connection))
        return True


class Connection:
    """One control connection."""

    def __init__(self, network: Network, dialer: Process, acceptor: Process) -> None:
        self.network = network
        self.broken = False
        near, far = End(self, dialer), End(self, acceptor)
        near.other, far.other = far, near
        self.ends = (near, far)
        for end in self.ends:
            end.process.on_death.append(end.vanish)

    @property
    def is_open(self) -> bool:
        """As ``Breakable.is_open``."""
        return not self.broken and any(
            end.process.alive and not end.writer.closed for end in self.ends
        )

    def reset(self) -> None:
        """As ``Breakable.reset``."""
        self.broken = True
        for end in self.ends:
            heard_s = self.network.heard_s()
            self.network.world.loop.after(heard_s, end.fail, "connection reset by peer")


class End:
    """One end of a connection: its reader, and its writer to the other end's reader."""

    other: End

    def __init__(self, connection: Connection, process: Process) -> None:
        self.connection = connection
        self.process = process
        self.reader = asyncio.StreamReader(loop=process.world.loop)
        self.writer = Writer(self)
        self._arrives_s = 0.0

    def vanish(self) -> None:
        """The process died: its kernel closes what it had open."""
        self.send(None)

    def send(self, data: bytes | None) -> None:
        """Send bytes to the other end, or the end of the stream (None)."""
        network, world = self.connection.network, self.process.world
        if self.connection.broken:
            return
        now_s = world.loop.time()
        ready_s = network.open_s(self.process.host, self.other.process.host)
        if ready_s - now_s > STALL_S:
            world.loop.after(STALL_S, self.connection.reset)
            return
        late_s = 0.0
        if world.weather.strikes(Fault.LINK_SLOW):
            late_s = world.dice.random() * LATE_S_MAX
        arrives_s = ready_s + world.latency_s(TRIP_S) + late_s + self.process.lag_s()
        self._arrives_s = max(arrives_s, self._arrives_s)
        world.loop.at(self._arrives_s, self.other.receive, data)

    def receive(self, data: bytes | None) -> None:
        """Bytes, or the end of the stream, have come."""
        if self.connection.broken:
            return
        if not self.process.alive:
            if data is not None:
                self.connection.reset()
        elif data is None:
            self.reader.feed_eof()
        elif not self.reader.at_eof() and self.reader.exception() is None:
            self.reader.feed_data(data)

    def fail(self, reason: str) -> None:
        """The connection is gone."""
        self.writer.closed = True
        if self.process.alive and self.reader.exception() is None:
            self.reader.set_exception(ConnectionResetError(reason))


class Writer:
    """``transfer.port.ByteWriter``."""

    def __init__(self, end: End) -> None:
        self.closed = False
        self._end = end

    @property
    def transport(self) -> Writer:
        """As ``ByteWriter.transport``."""
        return self

    def write(self, data: bytes) -> None:
        """As ``ByteWriter.write``."""
        self._end.process.check()
        if not self.closed:
            self._end.send(data)

    def is_closing(self) -> bool:
        """As ``ByteWriter.is_closing``."""
        return self.closed

    def close(self) -> None:
        """As ``ByteWriter.close``."""
        if not self.closed:
            self.closed = True
            self._end.send(None)

    async def wait_closed(self) -> None:
        """As ``ByteWriter.wait_closed``."""
        self._end.process.check()

    def abort(self) -> None:
        """As ``Abortable.abort``."""
        self.close()
