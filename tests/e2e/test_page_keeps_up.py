"""The page in a real browser while things happen: nothing is missed, nobody loses their place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, expect

from browser import chromium
from godwit.catalogue import loading
from godwit.monitor.audience import Audience
from godwit.monitor.pages import Pages
from godwit.monitor.picture import Picture
from godwit.runtime.log_file import LogFile
from godwit_protocol import codec
from godwit_protocol.events import Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.replay import lines
from made_up_moves import move

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]

LOG = LogFile(Path(__file__).parents[1] / "golden" / "logs" / "v1-completed.ndjson")
SEEN_MS_MAX = 20_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


class Site:
    """A monitor whose log is written by the test."""

    def __init__(self, log: Path) -> None:
        self._file = log
        self._file.write_bytes(lines.encode_head(LOG.head().of))
        self._picture, self._audience = Picture(loading.load(None)), Audience()
        self.served = Pages(self._picture, self._audience, LogFile(log)).application()

    def happens(self, *events: Recorded) -> None:
        """Tell all who look."""
        for recorded in events:
            self._picture.learn_event(recorded)
        if (news := self._picture.take_news()) is not None:
            self._audience.tell(news)

    def goes_on_to(self, kind: type, seen: int = 0) -> int:
        """The golden migration's next events, to one of a kind; return how many there were."""
        for number, stored in enumerate(LOG.messages(), start=1):
            if number <= seen:
                continue
            with self._file.open("ab") as opened:
                opened.write(lines.encode_line(stored))
            recorded = codec.decode(stored.data, stored.sequence)
            self.happens(recorded)
            if isinstance(recorded.event, kind):
                return number
        return number


@asynccontextmanager
async def looking(browser: Browser, site: Site, at: str = "") -> AsyncIterator[Page]:
    async with TestServer(site.served) as server:
        page = await browser.new_page()
        await page.goto(f"{server.make_url('/')}{at}")
        await expect(page.locator("#connection")).to_have_text("live", timeout=SEEN_MS_MAX)
        try:
            yield page
        finally:
            await page.close()


async def test_a_timeline_is_told_to_its_end_also_when_nothing_more_happens(
    browser: Browser, tmp_path: Path
) -> None:
    site = Site(tmp_path / "log.ndjson")
    seen = site.goes_on_to(ev.RoundCompleted)
    async with looking(browser, site, f"#migration/{LOG.head().of}") as page:
        moments = page.locator("#timeline li")
        await expect(moments).to_have_count(seen, timeout=SEEN_MS_MAX)
        for kind in (ev.MachineStunned, ev.MigrationEnded, type(None)):
            seen = site.goes_on_to(kind, seen)
            await expect(moments).to_have_count(seen, timeout=SEEN_MS_MAX)
    assert seen == len(list(LOG.messages()))


async def test_who_reads_a_row_stays_there_when_the_rows_move(
    browser: Browser, tmp_path: Path
) -> None:
    site = Site(tmp_path / "log.ndjson")
    for number in (1, 2, 3):
        site.happens(*move(number))
    async with looking(browser, site) as page:
        machines = page.locator("#migrations a")
        await expect(machines).to_have_text(["trainer-1", "trainer-2", "trainer-3"])
        second = page.get_by_role("link", name="trainer-2")
        await second.focus()
        site.happens(*list(move(1, ends=True))[len(list(move(1))) :])
        await expect(machines).to_have_text(["trainer-2", "trainer-3", "trainer-1"])
        await expect(second).to_be_focused()


async def test_who_comes_back_from_a_migration_is_where_it_was_opened(
    browser: Browser, tmp_path: Path
) -> None:
    site = Site(tmp_path / "log.ndjson")
    site.happens(*move(1), *move(2))
    async with looking(browser, site) as page:
        opened = page.get_by_role("link", name="trainer-1")
        await opened.press("Enter")
        await expect(page.locator("#detail-title")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(opened).to_be_focused()
