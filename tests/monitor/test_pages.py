"""What the monitor answers, to whom, and under which policy: over a golden log, without NATS."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import hdrs
from aiohttp.test_utils import TestClient, TestServer

from godwit.catalogue import loading
from godwit.monitor import guard, pages
from godwit.monitor import picture as pictures
from godwit.monitor.audience import WATCHERS_MAX, Audience
from godwit.monitor.guard import is_ours
from godwit.monitor.pages import Pages
from godwit.monitor.picture import PAGE_ROWS, Picture
from godwit.pictures import board as boards
from godwit.pictures import report
from godwit.pictures.hosts import TELEMETRY_S_MAX
from godwit.runtime.log_file import LogFile
from godwit_protocol import subjects
from godwit_protocol.facts import GpuTelemetry, HostTelemetry
from made_up_moves import migration_id, move
from recorded_logs import in_file

LOG = Path(__file__).parents[1] / "golden" / "logs" / "v1-completed.ndjson"
NAMES = frozenset({"godwit.example"})
Client = TestClient[Any, Any]


def picture_of(*, ended: int = 0, running: int = 0) -> Picture:
    picture = Picture(loading.load(None))
    for number in range(1, ended + running + 1):
        for recorded in move(number, ends=number <= ended):
            picture.learn_event(recorded)
    return picture


def recorded_id() -> str:
    return next(each.subject.split(".")[3] for each in in_file(LOG) if ".operator." in each.subject)


@asynccontextmanager
async def served(picture: Picture, audience: Audience | None = None) -> AsyncIterator[Client]:
    site = Pages(picture, audience or Audience(), LogFile(LOG), NAMES)
    async with TestClient(TestServer(site.application())) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1:8090", True),
        ("[::1]:8090", True),
        ("192.0.2.7", True),
        ("LOCALHOST:8090", True),
        ("godwit.example", True),
        ("evil.example:8090", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_only_names_that_are_this_monitor_s_are_answered(host: str, answered: bool) -> None:
    assert is_ours(host, NAMES) is answered


async def test_a_page_whose_name_was_led_here_reads_nothing() -> None:
    async with served(picture_of()) as client:
        for path in ("/", "/api/migrations", "/api/stream", "/nowhere"):
            async with client.get(path, headers={hdrs.HOST: "evil.example"}) as answer:
                assert answer.status == 421
                assert "GODWIT_MONITOR_NAMES" in await answer.text()


async def test_every_answer_is_hardened_and_nothing_but_reading_is_answered() -> None:
    async with served(picture_of()) as client:
        for path in ("/", "/page.js", "/page.css", "/api/cluster", "/nowhere", "/api/stream"):
            async with client.get(path) as answer:
                assert answer.headers["Content-Security-Policy"] == guard.PAGE_POLICY
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        for method in ("post", "put", "patch", "delete", "options"):
            async with client.request(method, "/api/migrations") as answer:
                assert answer.status == 405
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await client.head("/api/migrations")).status == 200
        assert (await client.head("/api/stream")).status == 405, "it would never end"
    assert "unsafe" not in guard.PAGE_POLICY + guard.REPORT_POLICY


async def test_a_report_has_a_policy_for_its_own_style_and_no_other() -> None:
    async with (
        served(picture_of()) as client,
        client.get(f"/migrations/{recorded_id()}/report") as answer,
    ):
        assert answer.headers["Content-Security-Policy"] == guard.REPORT_POLICY
        text = await answer.text()
    assert text.count(f"<style>{report.STYLE}</style>") == 1
    assert "style=" not in text


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_health_that_gets_old_is_news(monkeypatch: pytest.MonkeyPatch, ahead_s: int) -> None:
    """Nothing comes from a host that is gone: it must not look well for ever. Its clock may differ
    from the watcher's.
    """
    picture = picture_of()
    now_ns = time.time_ns()
    monkeypatch.setattr(pictures, "time", SimpleNamespace(time_ns=lambda: now_ns))
    told = HostTelemetry(wall_ns=now_ns + ahead_s * 10**9, gpus=(GpuTelemetry(gpu=0, xids=()),))
    picture.take_news()
    picture.hear(subjects.telemetry("host", "host-1", "gpus"), msgspec.msgpack.encode(told))
    assert picture.take_news() is not None
    assert picture.take_news() is None
    now_ns += TELEMETRY_S_MAX * 10**9
    assert picture.take_news() is None
    now_ns += 1
    news = picture.take_news()
    assert news is not None
    assert news.cluster is not None
    assert picture.take_news() is None


def test_whether_the_log_answers_is_news_when_it_changes() -> None:
    picture = picture_of()
    picture.take_news()
    for connected in (True, False, False, True):
        was = picture.whole().connected
        picture.note_connection(connected)
        news = picture.take_news()
        assert (news is not None) is (connected is not was)
        assert picture.whole().connected is connected


async def test_no_more_look_than_there_is_room_for() -> None:
    audience = Audience()
    async with served(picture_of(), audience) as client:
        with ExitStack() as there:
            for _ in range(WATCHERS_MAX):
                there.enter_context(audience.joined())
            assert (await client.get("/api/stream")).status == 503
        async with client.get("/api/stream") as answer:
            assert answer.status == 200


async def test_no_more_stories_are_told_at_once_than_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "STORY_WAIT_S_MAX", 0.01)
    monkeypatch.setattr(pages, "STORIES_MAX", 0)
    async with (
        served(picture_of()) as client,
        client.get(f"/api/migrations/{recorded_id()}") as answer,
    ):
        assert answer.status == 503
        assert "at once" in (await answer.json())["error"]


async def test_a_long_story_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(picture_of()) as client:
        path = f"/api/migrations/{recorded_id()}"
        whole = await (await client.get(path)).json()
        assert (whole["is_whole"], whole["migration"]["phase"]) == (True, "completed")
        monkeypatch.setattr(pages, "EVENTS_TOLD_MAX", 5)
        cut = await (await client.get(path)).json()
        assert (cut["is_whole"], len(cut["events"])) == (False, 5)


async def test_the_list_is_told_in_pages_each_migration_once() -> None:
    picture = picture_of(ended=PAGE_ROWS + 30, running=2)
    async with served(picture) as client:
        first = await (await client.get("/api/migrations")).json()
        assert [each["running"] for each in first["migrations"]].count(True) == 2
        assert (len(first["migrations"]), first["more"]) == (PAGE_ROWS + 2, 30)
        asked = {"before": first["migrations"][-1]["id"], "count": "20"}
        second = await (await client.get("/api/migrations", params=asked)).json()
        assert (len(second["migrations"]), second["more"]) == (20, 10)
        told = [each["id"] for page in (first, second) for each in page["migrations"]]
        assert len(set(told)) == len(told) == PAGE_ROWS + 22
        found = await (await client.get("/api/migrations?filter=trainer-7%20completed")).json()
        assert {each["machine"][:9] for each in found["migrations"]} == {"trainer-7"}
        assert (await client.get("/api/migrations?before=no-such")).status == 404


def test_a_browser_that_comes_back_is_told_what_changed_or_all_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = picture_of(ended=PAGE_ROWS + 30)
    picture.begin(500, left_out=7)
    whole = picture.whole()
    assert (whole.fresh, len(whole.migrations)) == (True, PAGE_ROWS)
    assert (whole.known, whole.left_out) == (PAGE_ROWS + 30, 7)
    missed = picture.whole(500)
    assert (missed.fresh, missed.migrations) == (False, [])
    assert picture.whole(499).fresh, "it was told by a monitor of before"
    assert picture.whole(501).fresh, "of another log"
    monkeypatch.setattr(boards, "MIGRATIONS_KEPT_MAX", PAGE_ROWS + 30)
    for recorded in move(999):
        picture.learn_event(recorded)
    assert picture.whole().left_out == 8, "one was forgotten for it"
    assert picture.board.row(migration_id(1)) is None
