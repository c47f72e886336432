"""What the streams are, and that the server holds to it."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from godwit.runtime import jetstream_api as api
from godwit.runtime.nats_log import LogRequestError, NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.provision import (
    StreamMismatchError,
    check_stream,
    provision,
    stream_rules,
)
from godwit_protocol import subjects

RULES = {rules.name: rules for rules in stream_rules()}
KEPT = [name for name, rules in RULES.items() if rules.keep_for_ever]


async def configuration(log: NatsLog, stream: str) -> api.StreamReply:
    return await log.ask_api(f"STREAM.INFO.{stream}", {}, api.StreamReply, 2.0)


def test_every_stream_has_rules_and_what_decides_is_kept_for_ever() -> None:
    assert set(RULES) == set(subjects.STREAM_SUBJECTS)
    assert set(KEPT) == {subjects.EVENTS, subjects.REGISTER, subjects.LEDGER}
    for name in KEPT:
        assert RULES[name].storage is api.Storage.FILE
        assert (RULES[name].max_bytes, RULES[name].max_age_s) == (-1, 0)
        assert RULES[name].max_msgs_per_subject == -1


async def test_provision_is_idempotent(own_log: NatsLog) -> None:
    before = {name: await configuration(own_log, name) for name in RULES}
    assert list(await provision(own_log)) == list(RULES)
    assert {name: await configuration(own_log, name) for name in RULES} == before


@pytest.mark.parametrize("stream", KEPT)
async def test_nobody_deletes_or_purges_what_is_kept(
    log: NatsLog, unique_name: str, stream: str
) -> None:
    subject = {
        subjects.EVENTS: subjects.inventory(unique_name),
        subjects.REGISTER: subjects.register(unique_name),
        subjects.LEDGER: subjects.ledger(unique_name),
    }[stream]
    sequence = await log.append(subject, b"kept", message_id=uuid4().hex)
    delete = {"seq": sequence}
    deleted = await log.ask_api(f"STREAM.MSG.DELETE.{stream}", delete, api.Reply, 2.0)
    purged = await log.ask_api(f"STREAM.PURGE.{stream}", {"filter": subject}, api.Reply, 2.0)
    assert deleted.error is not None
    assert purged.error is not None
    assert await log.last(subject) is not None


@pytest.mark.parametrize("stream", KEPT)
async def test_the_denials_cannot_be_taken_back(log: NatsLog, stream: str) -> None:
    altered = {**RULES[stream].configuration(), "deny_purge": False, "deny_delete": False}
    reply = await log.ask_api(f"STREAM.UPDATE.{stream}", altered, api.StreamReply, 2.0)
    assert reply.error is not None
    check_stream(RULES[stream], (await configuration(log, stream)).config)


async def test_a_stream_with_other_rules_is_named_with_the_field_and_left_alone(
    own_server: NatsServer,
) -> None:
    log = await NatsLog.connect(own_server.url, name="test")
    short_lived = replace(RULES[subjects.LEDGER], max_age_s=3600)
    await log.ensure_stream(short_lived)
    with pytest.raises(StreamMismatchError) as mismatch:
        await provision(log)
    assert (mismatch.value.stream, mismatch.value.field) == (subjects.LEDGER, "max_age")
    assert (mismatch.value.wanted, mismatch.value.found) == (0, 3600 * 10**9)
    check_stream(short_lived, (await configuration(log, subjects.LEDGER)).config)
    await log.close()


@pytest.mark.parametrize(("option", "value"), [("persist_mode", "async"), ("allow_msg_ttl", True)])
async def test_an_option_that_loses_messages_is_found(
    own_server: NatsServer, option: str, value: object
) -> None:
    log = await NatsLog.connect(own_server.url, name="test")
    unsafe = {**RULES[subjects.LEDGER].configuration(), option: value}
    create = f"STREAM.CREATE.{subjects.LEDGER}"
    assert (await log.ask_api(create, unsafe, api.StreamReply, 2.0)).error is None
    with pytest.raises(StreamMismatchError, match=option):
        await provision(log)
    await log.close()


@pytest.mark.parametrize("field", ["deny_purge", "allow_direct", "subjects", "duplicate_window"])
def test_a_field_that_the_server_did_not_take_is_found(field: str) -> None:
    rules = RULES[subjects.EVENTS]
    found = {key: value for key, value in rules.configuration().items() if key != field}
    with pytest.raises(StreamMismatchError, match=field):
        check_stream(rules, found)


async def test_a_stream_that_the_server_refuses_is_an_error_not_a_silence(
    own_server: NatsServer,
) -> None:
    log = await NatsLog.connect(own_server.url, name="test")
    with pytest.raises(LogRequestError, match="replicas"):
        await log.ensure_stream(replace(RULES[subjects.LEDGER], replicas=3))
    await log.close()


async def test_streams_and_messages_survive_a_restart_and_telemetry_does_not(
    own_server: NatsServer, own_log: NatsLog
) -> None:
    register = subjects.register("m")
    progress = subjects.telemetry("machine", "m", "progress")
    sequence = await own_log.append(register, b"S(1)", message_id="1", expected_last_sequence=0)
    await own_log.append(progress, b"50 %", message_id="2")
    await own_server.kill()
    await own_server.restart()
    last = await own_log.last(register, timeout_s=10)
    assert last is not None
    assert (last.sequence, last.data) == (sequence, b"S(1)")
    await provision(own_log)
    assert await own_log.last(progress) is None
