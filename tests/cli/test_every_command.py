"""Each command of a postmortem on a migration of each kind: the story is right in all of them.

The logs are those of real runs; the commands read them from a server, as an operator would.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import pytest_asyncio
import structlog
from conftest import Ended, Here

from godwit.cli.replay import import_log
from godwit.cli.replay_otherwise import BAR_CHARACTERS
from godwit.pictures.courses import BARS_MAX
from godwit.runtime.log_file import LogFile
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.provision import provision
from godwit_protocol.replay import lines
from pseudo_terminal import on_terminal
from recorded_logs import in_file

LOGS: Final = Path(__file__).parents[1] / "golden" / "logs"
GODWIT: Final = str(Path(sys.executable).with_name("godwit"))
KEYS: Final = "q back"
"""Is drawn last."""
WATCH_S_MAX: Final = 30.0


class Told(NamedTuple):
    """What must be said of a migration, and what must not."""

    outcome: str
    last: str
    """Of its story."""
    phase: str
    """Of the whole, as watch tells it."""
    source: str
    """The phase of its source in the end."""
    stun: str
    """As it is shown; nothing where it was never stunned."""
    watched: str
    """The stun, as watch tells it."""
    stands: str
    """Where the machine is in the end, and what is to be done."""
    otherwise: str
    """How what-if ends with the recorded settings."""
    never: Sequence[str]

    @property
    def end(self) -> tuple[str, str]:
        """How it ended, and why."""
        end, _, because = self.outcome.partition(": ")[2].partition(" (")
        return end, because.removesuffix(")")


STORIES: Final = {
    "v1-completed": Told(
        outcome="host-1 → host-2: completed",
        last="the migration ended: completed",
        phase="completed",
        source="source is releasing",
        stun="16.440 ms",
        watched="stun 16.4 ms of 2.0 s",
        stands="The machine is on host-2 now. Nothing is left to be done.",
        otherwise="completed",
        never=("ALARM", "aborted", "in doubt"),
    ),
    "v1-aborted": Told(
        outcome="host-2 → host-1: aborted (cancelled: cancelled by an operator)",
        last="the migration ended: aborted",
        phase="aborted",
        source="source is abandoned",
        stun="",
        watched="stun - of 1.0 µs",
        stands="The machine stays on host-2, as it was. Nothing of it is lost.",
        otherwise="aborted (cancelled)",
        never=("ALARM", "completed", "in doubt", "GO"),
    ),
    "v1-rolled-back": Told(
        outcome="host-2 → host-1: aborted (destination lost: the peer closed the link)",
        last="freed what it had received",
        phase="aborted",
        source="source is abandoned",
        stun="38.049 ms",
        watched="stun 38.0 ms of 2.0 s",
        stands="The machine stays on host-2, as it was. Nothing of it is lost.",
        otherwise="aborted (destination lost)",
        never=("ALARM", "in doubt", "gave GO"),
    ),
    "v1-in-doubt": Told(
        outcome="host-2 → host-1: in doubt (no answer in phase awaiting_quarantine)",
        last="ALARM: cannot prove who may run the machine",
        phase="in doubt",
        source="source is awaiting_quarantine",
        stun="it was stunned; whether it runs on host-1 cannot be proven",
        watched="stun ~5.1 ms of 2.0 s",
        stands="Neither host-2 nor host-1 has the proof that the other does not run the machine",
        otherwise="in doubt",
        never=("the migration ended", "owns the machine and runs it"),
    ),
}


def id_of(name: str) -> str:
    return LogFile(LOGS / f"{name}.ndjson").head().of


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(
    nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The URL of a server into which all four were imported from one file."""
    path = tmp_path_factory.mktemp("recorded") / "all.ndjson"
    messages = [message for name in STORIES for message in in_file(LOGS / f"{name}.ndjson")]
    path.write_bytes(lines.encode_head() + b"".join(map(lines.encode_line, messages)))
    log = await NatsLog.connect(nats_server.url, name="test")
    await provision(log)
    assert await import_log(log, LogFile(path)) == len(messages)
    await log.close()
    yield nats_server.url


@pytest.fixture(params=STORIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def asked(
    here: Here, recorded: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Runs a command on the migration; what it prints."""
    monkeypatch.setenv("GODWIT_NATS_URL", recorded)

    def ask(*words: str, options: Sequence[str] = ()) -> str:
        ended: Ended = here(*words, id_of(name), *options)
        assert ended.status == 0, ended.err
        return ended.out

    before = structlog.get_config()
    yield ask
    structlog.configure(**before)  # a command that connects has its own


def test_the_timeline(asked: Callable[..., str], name: str) -> None:
    told = asked("replay", "timeline")
    expected = STORIES[name]
    assert expected.outcome in told
    story, _, figures = told.partition("rounds, and what was decided")
    happened = [line for line in story.splitlines() if "@" in line[:60]]
    assert expected.last in happened[-1]
    assert "asked to move machine" in happened[0]
    assert re.match(r"migration \S+, asked for \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", told)
    assert told.splitlines()[2].startswith(expected.stands)
    order = f"godwit migration resolve {id_of(name)} --run-on host-2|host-1"
    assert (order in told) is (expected.phase == "in doubt")
    into = re.findall(r"stun \+([\d.]+) (..)", told)
    assert {unit for _, unit in into} <= {"ms"}
    assert len(into) == told.count("stun +")
    assert "BECAUSE" in figures
    assert not [word for word in expected.never if word in told]


def test_the_last_instant_and_one_while_it_was_prepared(
    asked: Callable[..., str], name: str
) -> None:
    told = asked("replay", "at", options=("--time", "1h"))
    assert STORIES[name].source in told
    copying = asked("replay", "at", options=("--time", "300ms"))
    assert copying != told
    assert "destination is" in copying
    moments = json.loads(asked("replay", "timeline", options=("--json",)))["moments"]
    sequences = sorted(moment["sequence"] for moment in moments)
    assert asked("replay", "at", options=("--seq", str(sequences[-1]))) == told
    for sequence in sequences[:2]:
        then = asked("replay", "at", options=("--seq", str(sequence)))
        assert then.startswith(f"after {sequence}, ")


def test_the_verification(asked: Callable[..., str], name: str) -> None:
    told = asked("replay", "verify")
    assert "nothing is wrong, and not all is proven" in told
    assert ("it has not ended" in told) == (name == "v1-in-doubt")
    assert "no signature" in told


def test_what_if_and_diff(asked: Callable[..., str], name: str, tmp_path: Path) -> None:
    told = asked("replay", "what-if")
    assert "nothing differs" in told
    assert "and so is what was decided" in told
    drawn = [re.findall("█+", line) for line in told.splitlines() if re.match(r" *\d+ ", line)]
    assert all(bars[:1] == bars[1:] for bars in drawn), "the same on both sides"
    assert max(len(bar) for bars in drawn for bar in bars) == BAR_CHARACTERS
    in_the_end = next(line for line in told.splitlines() if line.startswith("in the end"))
    assert in_the_end.count(STORIES[name].otherwise) == 2, "by the recorded settings it ends so too"
    config = tmp_path / "other.toml"
    config.write_text(
        'link = "10Mbit"\nstun_limit = "1ms"\npolicy = ["godwit", "qemu"]\nslow_max = 80\n'
    )
    other = asked("replay", "diff", options=("--with", str(config)))
    assert "link: as recorded → 10.0 Mbit/s" in other
    assert "slow max: 0 → 80" in other
    capped = asked("replay", "what-if", options=("--bandwidth", "1Gbit"))
    assert "bandwidth: none → 1Gbit" in capped
    rows = [line for line in other.splitlines() if line.startswith(("Godwit's", "QEMU's"))]
    assert len(rows) == 2
    drawn = re.findall(r"rule +(\d+) .* ([▁-█]+) *$", other, re.MULTILINE)
    assert [len(bars) for _, bars in drawn] == [min(int(rounds), BARS_MAX) for rounds, _ in drawn]
    assert len(drawn) == len(rows)
    assert any("█" in bars for _, bars in drawn)
    assert all("given up" in row or "still copying" in row for row in rows)
    as_json = json.loads(asked("replay", "what-if", options=("--policy", "all", "--json")))
    assert as_json["otherwise"]["godwit"] == as_json["recorded"]


def test_the_report(asked: Callable[..., str], name: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    asked("replay", "report", options=("--html", str(page)))
    told = page.read_text()
    expected = STORIES[name]
    outcome, because = expected.end
    assert f": {outcome}</h1>" in told
    assert f"<dt>outcome</dt><dd>{outcome}{f' ({because})' if because else ''}</dd>" in told
    assert expected.last in told
    assert "QEMU&#x27;s rule" in told
    assert not [word for word in expected.never if f" {word} " in told]


def test_what_is_exported_is_what_was_imported(
    asked: Callable[..., str], name: str, tmp_path: Path
) -> None:
    file = tmp_path / "one.ndjson"
    here_lies = asked("replay", "export", options=(str(file),))
    golden = in_file(LOGS / f"{name}.ndjson")
    assert [(m.subject, m.data, m.for_another_log("")) for m in in_file(file)] == [
        (m.subject, m.data, m.for_another_log("")) for m in golden
    ]
    assert "digest" in here_lies
    assert asked("replay", "timeline", options=("--from", str(file))) == asked("replay", "timeline")


def test_migration_show(asked: Callable[..., str], name: str) -> None:
    told = asked("migration", "show")
    words = (line.split(maxsplit=1) for line in told.splitlines() if line)
    shown = {name: value.strip() for name, value in words}
    expected = STORIES[name]
    assert (shown["outcome"], shown.get("reason", "")) == expected.end
    assert shown.get("stun", "") == expected.stun
    assert re.search(r"^asked for +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", told, re.MULTILINE)
    ended = re.search(r"^ended +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", told, re.MULTILINE)
    assert (ended is None) == (name == "v1-in-doubt")
    assert ("godwit migration resolve" in told) == (name == "v1-in-doubt")
    assert asked("migration", "show", options=("--from", str(LOGS / f"{name}.ndjson"))) == told


def test_watch(recorded: str, tmp_path: Path) -> None:
    command = (GODWIT, "watch", "--json")
    environ = {"GODWIT_DIR": str(tmp_path), "GODWIT_NATS_URL": recorded}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline()) for _ in STORIES]
        process.terminate()
        process.wait(WATCH_S_MAX)
    phases = {id_of(name): expected.phase for name, expected in STORIES.items()}
    assert {each["id"]: each["phase"] for each in told} == phases


async def test_watch_in_detail(recorded: str, name: str, tmp_path: Path) -> None:
    environ = {"GODWIT_DIR": str(tmp_path), "GODWIT_NATS_URL": recorded}
    async with on_terminal(GODWIT, "watch", id_of(name), environ=environ) as terminal:
        told = await terminal.shows(KEYS)
    expected = STORIES[name]
    end, because = expected.end
    lines = [line.strip() for line in told.partition(KEYS)[0].splitlines()]
    assert any(line.startswith(f"{end} · round ") for line in lines)
    assert expected.watched in told
    assert not because or because in lines
    assert any(line.startswith("vgpu0.framebuffer") for line in lines)
    happened = [line for line in lines if re.match(r"\d\d:\d\d:\d\d\.", line)]
    assert expected.last in happened[-1]
    assert not [word for word in expected.never if word in told]
