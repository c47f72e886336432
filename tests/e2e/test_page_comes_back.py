"""The page in a real browser, over an event stream that is not always to be had."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, expect

from browser import chromium
from godwit.catalogue import loading
from godwit.monitor.audience import Audience, Watcher
from godwit.monitor.pages import Pages
from godwit.monitor.picture import Picture
from godwit.runtime.log_file import LogFile
from made_up_moves import move

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]

LOG = Path(__file__).parents[1] / "golden" / "logs" / "v1-completed.ndjson"
RETRY_MS = 3000
SEEN_MS_MAX = 20_000


class Counting(Audience):
    """May be full, and counts who has joined."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.joined_ever = 0

    @property
    def is_full(self) -> bool:
        return self.full

    @contextmanager
    def joined(self) -> Iterator[Watcher]:
        self.joined_ever += 1
        with super().joined() as watcher:
            yield watcher


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


async def test_a_browser_for_which_there_was_no_room_comes_back_and_once(browser: Browser) -> None:
    picture, audience = Picture(loading.load(None)), Counting()
    for recorded in move(1):
        picture.learn_event(recorded)
    audience.full = True
    served = Pages(picture, audience, LogFile(LOG)).application()
    async with TestServer(served) as server:
        page = await browser.new_page()
        await page.goto(str(server.make_url("/")))
        told = page.locator("#connection")
        await expect(told).to_have_text("not connected; trying again")
        await page.wait_for_timeout(2 * RETRY_MS)
        assert audience.joined_ever == 0
        audience.full = False
        await expect(told).to_have_text("live", timeout=SEEN_MS_MAX)
        await expect(page.get_by_role("link", name="trainer-1")).to_be_visible()
        await page.wait_for_timeout(2 * RETRY_MS)
        assert audience.joined_ever == 1, "and no second stream beside it"
        await page.close()


async def test_it_says_when_the_log_does_not_answer(browser: Browser) -> None:
    picture, audience = Picture(loading.load(None)), Audience()
    served = Pages(picture, audience, LogFile(LOG)).application()
    async with TestServer(served) as server:
        page = await browser.new_page()
        await page.goto(str(server.make_url("/")))
        told = page.locator("#connection")
        for connected, text in (
            (True, "live"),
            (False, "the event log does not answer; this is what it said last"),
            (True, "live"),
        ):
            picture.note_connection(connected)
            if (news := picture.take_news()) is not None:
                audience.tell(news)
            await expect(told).to_have_text(text)
            await expect(told).to_have_class("" if connected else "lost")
        await page.close()
