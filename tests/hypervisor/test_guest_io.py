"""Each request is answered once: paused and resumed, moved, with the log going away in between."""

import asyncio
import contextlib
import queue
import select
import threading
import uuid
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_host import Client, machine_spec

from godwit.hypervisor.native import guest_queues, vmm, wire
from godwit.hypervisor.native.execution import BATCH_MAX
from godwit.hypervisor.native.guest_io import REPLY_BYTES_MAX, REQUEST_ID_BYTES_MAX, GuestIo
from godwit.hypervisor.native.guest_queues import Inbox, IoState, Outbox, Reply, Request
from godwit.hypervisor.port import VmmState
from godwit.runtime.jetstream_api import StreamRules
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import subjects
from godwit_protocol.errors import RefusedError, UnreachableError


@pytest.fixture
def guest_io():
    """Guest I/O in this process, by the URL of its log; it ends with the test."""
    begun = []

    def begin(url, **options):
        io = GuestIo("m", lambda: NatsLog.connect(url, name="vmm-m", **options))
        begun.append(io)
        io.start()
        return io

    yield begin
    for io in begun:
        io.end(10)


async def keep_asking(client, count):
    for _ in range(count):
        await client.send("count")


async def move(source, destination):
    """Copy the memory and hand over the checkpoint; both VMMs' hosts are on this machine."""
    checkpoint = await source.pause()
    with await source.memory() as there, await destination.memory() as here:
        for region, target in zip(there.regions, here.regions, strict=True):
            for start, count in region.extents().tolist():
                target.pages[start : start + count] = region.pages[start : start + count]
    await destination.load(checkpoint.data)


async def test_pause_and_resume_lose_and_double_nothing(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    asking = asyncio.create_task(keep_asking(client, 400))
    pauses = 0
    while not asking.done():
        await vmm.pause()
        await vmm.resume(1)
        pauses += 1
    await asking
    assert pauses > 5
    await client.check_each_answered_once_in_order()


async def test_a_machine_moves_there_and_back_and_answers_each_request_once(hosts, client):
    vmm = await hosts[0].hypervisor.create(machine_spec())
    await vmm.start(1)
    asking = asyncio.create_task(keep_asking(client, 600))
    for epoch in range(2, 6):
        gated = await hosts[(epoch + 1) % 2].hypervisor.create(machine_spec())
        await move(vmm, gated)
        await gated.open_gate(epoch)
        await vmm.stop()
        vmm = gated
    await asking
    await client.check_each_answered_once_in_order()


async def test_an_aborted_move_leaves_the_source_to_answer(hosts, client):
    vmm = await hosts[0].hypervisor.create(machine_spec())
    await vmm.start(1)
    asking = asyncio.create_task(keep_asking(client, 200))
    gated = await hosts[1].hypervisor.create(machine_spec())
    await move(vmm, gated)
    await vmm.resume(1)
    await asking
    await client.check_each_answered_once_in_order()
    await gated.stop()


async def test_requests_from_before_the_gated_vmm_was_created_are_answered(hosts, client):
    vmm = await hosts[0].hypervisor.create(machine_spec())
    await vmm.start(1)
    await client.ask("count")
    await vmm.pause()
    await keep_asking(client, 50)
    gated = await hosts[1].hypervisor.create(machine_spec())
    await keep_asking(client, 50)
    await move(vmm, gated)
    await gated.open_gate(2)
    await client.check_each_answered_once_in_order()


async def test_a_checkpoint_from_before_what_was_buffered_rewinds(nats_server, client, guest_io):
    sequences = [(await client.send("count"))[1] for _ in range(3)]
    io = guest_io(nats_server.url)
    await asyncio.to_thread(io.begin, 10)
    io.load(IoState(sequences[0]))
    taken = []
    while len(taken) < 2:
        ready, _, _ = await asyncio.to_thread(select.select, [io.wake_fd], [], [], 10)
        assert ready, "no request came"
        io.drain_wake()
        taken += [request.sequence for request in io.take(10)]
    assert taken == sequences[1:]


async def test_a_paused_machine_publishes_nothing(host, client):
    vmm = await host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await client.ask("count")
    await vmm.pause()
    await keep_asking(client, 3)
    before = await vmm.status()
    assert len(await client.replies()) == 1
    assert (await vmm.status()).steps == before.steps
    await vmm.resume(1)
    await client.check_each_answered_once_in_order()


class WatchedIo(GuestIo):
    """Tells which replies its thread is about to publish, each time that it looks for some."""

    def __init__(self, *given):
        self.batches = queue.SimpleQueue()
        super().__init__(*given)

    async def _next_batch(self, log):
        batch = await super()._next_batch(log)
        self.batches.put([reply.request_id for reply in batch])
        return batch


@pytest.fixture
def without_a_log(nats_server, tmp_path, monkeypatch):
    """Begins a VMM in this process, which runs: its log is away until the event is set."""
    log_is_there = threading.Event()

    async def connect(url, name):
        await asyncio.to_thread(log_is_there.wait, 20)
        return await NatsLog.connect(url, name=name)

    monkeypatch.setattr(vmm, "GuestIo", WatchedIo)
    monkeypatch.setattr(vmm, "_connect", connect)
    with wire.listen(tmp_path / "vmm.sock") as listener, contextlib.ExitStack() as at_the_end:

        def begin(**changes):
            order = wire.Spawn(machine_spec(vgpus=(), **changes), nats_server.url)
            process = vmm.VmmProcess(order, listener)
            for end in (process._memory.close, partial(process._io.end, 10), log_is_there.set):
                at_the_end.callback(end)
            process._guest().boot()
            process._run(1)
            return process, log_is_there

        yield begin


async def test_what_a_paused_machine_has_answered_is_for_whoever_goes_on_to_publish(
    client, without_a_log
):
    """The log is away when the guest answers, and comes back in the stun."""
    identity, sequence = await client.send("count")
    process, log_is_there = without_a_log()
    io = process._io
    io.release()
    io.reply([Request(sequence, identity, b"count")], [b"1"])
    checkpoint = vmm._checkpoints.decode(process._pause().checkpoint)
    assert [reply.request_id for reply in checkpoint.io.unacknowledged] == [identity]
    log_is_there.set()
    assert await asyncio.to_thread(io.batches.get, timeout=10) == []
    assert await client.replies() == []
    process._run(1)
    io.release()
    assert await asyncio.to_thread(io.batches.get, timeout=10) == [identity]
    assert await asyncio.to_thread(io.flush, 10)
    assert await client.replies() == [(identity, b"1")]


BREAKING_GUEST = """
class Breaking:
    idle = False

    def boot(self, machine):
        pass

    def step(self, requests):
        raise RuntimeError("a defect of the guest")

    def load(self, machine, checkpoint):
        pass

    def save(self):
        return b""
"""


async def test_what_a_machine_that_failed_has_answered_is_not_published(client, without_a_log):
    """Another image of it may go on, and answer the same requests."""
    identity, sequence = await client.send("count")
    process, log_is_there = without_a_log(guest="breaking.py:Breaking", guest_source=BREAKING_GUEST)
    io = process._io
    io.release()
    io.reply([Request(sequence, identity, b"count")], [b"1"])
    process._step()
    assert process._state is VmmState.FAILED
    log_is_there.set()
    assert await asyncio.to_thread(io.batches.get, timeout=10) == []
    assert await client.replies() == []


async def test_a_reply_names_its_request_unless_that_has_too_long_a_name(host, client):
    await (await host.hypervisor.create(machine_spec())).start(1)
    subject = subjects.guest_request(client.machine)
    for message_id in (uuid.uuid4().hex, "x" * (REQUEST_ID_BYTES_MAX + 1)):
        await client.log.append(subject, b"count", message_id=message_id)
    await client.ask("count")
    answered = [identity for identity, _ in await client.replies()]
    assert len(answered) == 3
    assert answered[1].startswith("sequence-")


async def test_more_replies_than_a_checkpoint_may_hold_are_stored_first(
    nats_server, client, guest_io
):
    io = guest_io(nats_server.url)
    await asyncio.to_thread(io.begin, 10)
    _, sequence = await client.send("count")
    requests = [Request(sequence + each, f"r{each}", b"") for each in range(5)]
    io.reply(requests, [bytes(REPLY_BYTES_MAX)] * 5)
    with pytest.raises(RefusedError, match="wait for the event log"):
        io.save()
    io.release()
    assert await asyncio.to_thread(io.flush, 20)
    assert io.save() == IoState(sequence + 4)


async def test_a_restart_of_the_log_loses_and_doubles_nothing(own_host, own_server, own_client):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await keep_asking(own_client, 100)
    await own_server.restart()
    await own_client.check_each_answered_once_in_order()


async def test_pause_and_resume_need_no_log(own_host, own_server, own_client):
    vmm = await own_host.hypervisor.create(machine_spec())
    await vmm.start(1)
    await keep_asking(own_client, 20)
    await own_server.kill()
    await vmm.pause()
    await vmm.resume(1)
    await own_server.restart()
    await own_client.check_each_answered_once_in_order()


async def test_a_machine_of_the_same_name_begins_afresh(host, client, log):
    for _ in range(2):
        vmm = await host.hypervisor.create(machine_spec())
        await vmm.start(1)
        fresh = await Client.of(log)
        assert await fresh.ask("count") == b"1"
        assert await fresh.ask("count") == b"2"
        await vmm.stop()


async def test_a_machine_does_not_begin_without_a_log(own_server, guest_io):
    await own_server.stop()
    io = guest_io(own_server.url, timeout_s=0.1)
    with pytest.raises(UnreachableError, match="does not reach the event log"):
        io.begin(0.2)


async def test_a_reply_stored_long_ago_is_not_published_again(own_server, guest_io):
    """The log forgets message ids after its window; what it holds it does not forget."""
    log = await NatsLog.connect(own_server.url, name="test")
    rules = StreamRules(
        name=subjects.GUEST,
        subjects=subjects.STREAM_SUBJECTS[subjects.GUEST],
        duplicate_window_s=1,
        keep_for_ever=False,
    )
    await log.ensure_stream(rules)
    replies = [await stored_request(log, number) for number in range(4)]
    for reply in replies[::2]:
        await publish(log, reply)
    await until_window_passed(log)
    io = guest_io(own_server.url)
    io.load(IoState(replies[-1].sequence, tuple(replies)))
    io.release()
    assert await asyncio.to_thread(io.flush, 10)
    stored = [
        message.headers["Godwit-Request"] async for message in log.read([subjects.guest_reply("m")])
    ]
    assert sorted(stored) == [reply.request_id for reply in replies]
    await log.close()


async def stored_request(log, number):
    sequence = await log.append(subjects.guest_request("m"), b"?", message_id=f"q{number}")
    return Reply(sequence, f"q{number}", b"answer")


async def publish(log, reply):
    identity = f"reply-m-{reply.sequence}"
    headers = {"Godwit-Request": reply.request_id}
    await log.append(subjects.guest_reply("m"), reply.data, message_id=identity, headers=headers)


async def until_window_passed(log):
    subject = subjects.guest_request("probe")
    first = await log.append(subject, b"", message_id="probe")
    async with asyncio.timeout(10):
        while await log.append(subject, b"", message_id="probe") == first:
            pass


@given(st.lists(st.integers(1, 3), max_size=40), st.integers(0, 100), st.data())
def test_a_gated_inbox_keeps_the_newest_and_knows_what_it_let_go(gaps, after, data):
    inbox = Inbox(after, gated=True)
    sequences = []
    guest_queues_max = guest_queues.INBOX_MAX
    guest_queues.INBOX_MAX = 8
    try:
        for gap in gaps:
            sequences.append(inbox.end + gap)
            inbox.add(Request(sequences[-1], "", b"x"))
    finally:
        guest_queues.INBOX_MAX = guest_queues_max
    cursor = data.draw(st.integers(after, max(sequences, default=after) + 2))
    wanted = [sequence for sequence in sequences if sequence > cursor]
    if inbox.advance(cursor):
        assert [inbox.take().sequence for _ in range(len(inbox))] == wanted
    else:
        assert len(wanted) > len(inbox)


@given(st.lists(st.integers(0, REPLY_BYTES_MAX), max_size=64))
def test_a_guest_is_given_no_more_than_its_replies_have_room_for(lengths):
    """Whatever is acknowledged when: here nothing is."""
    outbox, largest, surprises = Outbox(), 0, 0
    while lengths and outbox.room:
        taken = [lengths.pop() for _ in range(min(outbox.room, BATCH_MAX, len(lengths)))]
        surprises += sum(max(length - largest, 0) for length in taken)
        for length in taken:
            outbox.add(Reply(len(outbox) + 1, "", bytes(length)))
        largest = max(largest, *taken)
    beside = 32 * len(outbox)
    assert outbox.size_bytes <= guest_queues.OUTBOX_BYTES_MAX + surprises + beside


@given(st.lists(st.sampled_from(["add", "claim", "acknowledge", "settle"]), max_size=40))
def test_an_outbox_forgets_a_reply_only_when_it_is_acknowledged(actions):
    outbox, added, claimed, acknowledged = Outbox(), 0, [], set()
    for action in actions:
        if action == "add":
            added += 1
            outbox.add(Reply(added, "", b"xy"))
        elif action == "claim":
            claimed += outbox.claim(2)
        elif action == "acknowledge" and claimed:
            acknowledged.add(claimed[0].sequence)
            outbox.acknowledge(claimed.pop(0).sequence)
        elif action == "settle":
            doubtful = outbox.doubtful()
            assert [r.sequence for r in doubtful] == sorted(r.sequence for r in claimed)
            claimed.clear()
            for reply in reversed(doubtful):
                outbox.refresh(reply.sequence)
        held = [reply.sequence for reply in outbox.unacknowledged()]
        assert held == [n for n in range(1, added + 1) if n not in acknowledged]
