"""``godwit replay``: a log goes into a file and out of it, and is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Godwit

from godwit.cli.replay import import_log
from godwit.runtime.log_file import LogFile
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import subjects
from godwit_protocol.replay import lines
from godwit_protocol.stored import Stored
from recorded_logs import in_file, simulated, stories_of

SEED = 8


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as ``export --all`` writes it."""
    path = tmp_path_factory.mktemp("logs") / "log"
    messages = (
        Stored(
            subject=each.subject,
            sequence=each.sequence,
            time_ns=each.time_ns,
            data=each.data,
            headers=dict(each.headers),
        )
        for each in simulated(SEED)
    )
    path.write_bytes(lines.encode_head() + b"".join(map(lines.encode_line, messages)))
    return path


async def test_what_is_imported_is_exported_the_same_and_verifies(
    godwit: Godwit, exported: Path, tmp_path: Path, own_server: NatsServer, own_log: NatsLog
) -> None:
    first, again, one = exported, tmp_path / "again", tmp_path / "one"
    messages = in_file(first)
    assert await import_log(own_log, LogFile(first)) == len(messages)
    told = await godwit("replay", "export", "--all", str(again), url=own_server.url)
    assert told.out == f"{len(messages)} messages written to {again}\n", told.err
    assert [(m.subject, m.data, m.headers) for m in in_file(again)] == [
        (m.subject, m.data, m.headers) for m in messages
    ]
    migration = next(stories_of(messages)).migration
    assert (await godwit("replay", "export", migration, str(one), url=own_server.url)).status == 0
    assert {story.migration for story in stories_of(in_file(one))} == {migration}
    refused = await godwit("replay", "import", str(first), url=own_server.url)
    assert (refused.status, "not empty" in refused.err) == (5, True)


async def test_a_file_is_verified_without_a_cluster(
    godwit: Godwit, exported: Path, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    shutil.copy(exported, file)
    found = await godwit("replay", "verify", "--all", "--from", str(file), "--json", url="")
    assert found.status == 0, found.err
    *migrations, beside = json.loads(found.out)
    assert all(each["faults"] == [] for each in (*migrations, beside))
    assert all(each["migration"] for each in migrations)
    assert (beside["migration"], beside["events"] > 0, beside["values"]) == ("", True, 0)
    assert "each a legal step" in beside["proven"][0]
    alone = migrations[0]["migration"]
    one = await godwit("replay", "verify", alone, "--from", str(file), "--json", url="")
    assert json.loads(one.out) == migrations[:1]
    whole = file.read_bytes().splitlines(keepends=True)
    last = in_file(file)[-1].sequence
    register = Stored(subject=subjects.register("m1"), sequence=last + 1, time_ns=0, data=b"")
    file.write_bytes(b"".join((*whole, lines.encode_line(register))))
    wrong = await godwit("replay", "verify", "--all", "--from", str(file), "--json", url="")
    (fault,) = json.loads(wrong.out)[-1]["faults"]
    assert (wrong.status, fault["sequence"]) == (11, last + 1)
    place = next(at for at, line in enumerate(whole) if b"precopy_started" in line)
    file.write_bytes(b"".join(whole[:place] + whole[place + 1 :]))
    broken = await godwit("replay", "verify", "--all", "--from", str(file), url="")
    assert broken.status == 11
    assert "): number 2 comes after 0" in broken.out


async def test_a_file_that_is_no_log_is_refused_with_its_name(
    godwit: Godwit, tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    file.write_text("nothing\n")
    refused = await godwit("replay", "verify", "--all", "--from", str(file), url="")
    assert (refused.status, str(file) in refused.err) == (11, True)
    missing = await godwit("events", "--from", str(tmp_path / "nowhere"), url="")
    assert missing.status == 3


async def test_the_story_names_causes_steps_rounds_and_the_stun(
    godwit: Godwit, exported: Path
) -> None:
    stories = stories_of(in_file(exported))
    migration = next(
        story.migration
        for story in stories
        if any(message.subject.endswith("machine_activated") for message in story.messages)
    )
    told = await godwit("replay", "timeline", migration, "--from", str(exported), url="")
    assert told.status == 0, told.err
    for text in ("connecting → precopying on LinkUp", "because of", "BOUND", "stun +0.0"):
        assert text in told.out
    as_json = await godwit(
        "replay", "timeline", migration, "--from", str(exported), "--json", url=""
    )
    moments = json.loads(as_json.out)["moments"]
    assert {"PeerStaged"} in [set(moment["inputs"]) for moment in moments]
