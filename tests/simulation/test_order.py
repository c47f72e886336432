"""What the simulated transports promise: order within a tail, and within a connection."""

from random import Random

from godwit.proof.simulator.faults import Weather
from godwit.proof.simulator.log import LogServer, ProcessLog, Tail
from godwit.proof.simulator.process import Process, World
from godwit_protocol import subjects

MESSAGES = 300


def test_a_tail_that_stalls_gives_everything_in_the_log_s_order() -> None:
    world = World(Weather(Random(7)))
    server = LogServer(world, lambda _stored: None, lambda _stored, _before: None)
    process = Process(world, "reader", "host")
    log = ProcessLog(server, process)
    subject = subjects.inventory("host")
    got: list[int] = []

    async def read() -> None:
        async for stored in Tail(log, server, [subjects.inventory("*")], 0):
            got.append(stored.sequence)

    process.spawn(read())
    log.cut_until_s = 1.0 + 1 / 3
    for index in range(MESSAGES):
        due_s = world.dice.random()
        world.loop.after(due_s, server.append, subject, b"", str(index), None)
    world.loop.run_until(lambda: False, 3.0)
    world.bury()
    assert got == list(range(1, MESSAGES + 1))
