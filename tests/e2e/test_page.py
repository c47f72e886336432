"""The monitor's page and a report in a real browser, with real migrations behind them."""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, expect

from browser import chromium
from godwit.catalogue import loading
from godwit.cli.migration import cancel_migration
from godwit.local_cluster.cluster import Cluster
from godwit.monitor.audience import Audience
from godwit.monitor.pages import Pages as Site
from godwit.monitor.picture import Picture
from godwit.runtime.log_file import LogFile
from godwit.runtime.nats_log import NatsLog
from godwit_protocol.events.migration import Outcome, RoundCompleted
from made_up_moves import move
from operations import NO_CONVERGENCE, Operations

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]

BUSY = ("GODWIT_MEMHOG_RATE=50000000",)
CONTRAST_MIN = 4.5
DOCS = Path(__file__).parents[2] / "docs"
LOG = Path(__file__).parents[1] / "golden" / "logs" / "v1-completed.ndjson"
MEMHOG = "godwit.guests.memhog:Memhog"
TOO_FAINT = """(least) => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = parts(text).map((each) => each / 255)
      .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = getComputedStyle(at).backgroundColor;
      if ((parts(found)[3] ?? 1) > 0) return found;
    }
  };
  const hasText = (element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const seen = [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && hasText(element));
  return seen.map((element) => {
    const both = [light(getComputedStyle(element).color), light(back(element))];
    both.sort((a, b) => b - a);
    return [(both[0] + 0.05) / (both[1] + 0.05), element.textContent.slice(0, 40)];
  }).filter(([ratio]) => ratio < least);
}"""
UNNAMED = """() => [...document.querySelectorAll("a[href], button, input, section, table")]
  .filter((element) =>
  element.checkVisibility() && !element.textContent.trim() && !element.labels?.length
  || element.matches("section, table") && !element.getAttribute("aria-labelledby"))
  .map((element) => element.outerHTML.slice(0, 80))"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pages(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Browser, Cluster, Operations]]:
    """A cluster with one migration that has completed, and one that runs on until the end."""
    directory = tmp_path_factory.mktemp("watched")
    async with await Cluster.start(directory, gpus="H100-80GB:1", monitor=True) as cluster:
        log = await NatsLog.connect(cluster.nats_url, name="page")
        operations = Operations(cluster, log)
        await operations.start("done", MEMHOG, vgpus=["H100XM-4C"])
        assert (await operations.migrate("done", "host-2")).outcome is Outcome.COMPLETED
        await operations.start("busy", MEMHOG, vgpus=["H100XM-20C"], env=BUSY)
        running = await operations.request("busy", "host-2", NO_CONVERGENCE)
        await operations.event(running, RoundCompleted)
        async with chromium() as browser:
            yield browser, cluster, operations
        await log.close()


@asynccontextmanager
async def looking(
    browser: Browser,
    url: str,
    width: int = 1200,
    scheme: Literal["light", "dark"] = "light",
) -> AsyncIterator[Page]:
    """A page that must ask nobody else for anything, and must not complain."""
    page = await browser.new_page(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    asked, complaints = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(url)
    yield page
    origin = "/".join(url.split("/")[:3]) + "/"
    assert [each for each in asked if not each.startswith((origin, "data:"))] == []
    assert complaints == []
    await page.close()


Pages = tuple[Browser, Cluster, Operations]


async def test_it_is_used_by_keys_alone(pages: Pages) -> None:
    browser, cluster, _ = pages
    async with looking(browser, cluster.page_url) as page:
        await expect(page.get_by_role("link", name="busy")).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the migrations")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("searchbox", name="Filter")).to_be_focused()
        await page.keyboard.type("completed")
        await expect(page.get_by_role("row")).to_have_count(2)
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        heading = page.get_by_role("heading", name="Migration of done")
        await expect(heading).to_be_focused()
        await expect(page.get_by_text("owns the machine and runs it").first).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("heading", name="Migrations")).to_be_visible()


async def test_what_happens_is_seen_as_it_happens(pages: Pages) -> None:
    browser, cluster, operations = pages
    async with looking(browser, cluster.page_url) as page:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="busy"))
        await expect(row).to_contain_text("copying")
        before = await row.inner_text()
        await expect(row).not_to_have_text(before)  # rounds go on
        gpu = page.get_by_role("listitem").filter(
            has=page.get_by_role("heading", name="host-2 GPU 0")
        )
        await expect(gpu).to_contain_text("done: H100XM-4C, 4.0 GiB, in use")
        await expect(gpu).to_contain_text("busy: H100XM-20C, 20.0 GiB, held")
        await operations.start("later", MEMHOG)
        migration = await operations.request("later", "host-2", NO_CONVERGENCE)
        await expect(page.get_by_role("link", name="later")).to_be_visible()
        await cancel_migration(operations.log, migration)
        ended = page.get_by_role("row").filter(has=page.get_by_role("link", name="later"))
        await expect(ended).to_contain_text("aborted")


async def test_a_long_list_comes_in_pages_and_says_what_is_left_out(pages: Pages) -> None:
    browser, _, _ = pages
    picture = Picture(loading.load(None))
    for number in range(1, 232):
        for recorded in move(number, ends=number > 1):
            picture.learn_event(recorded)
    picture.begin(1, left_out=7)
    served = Site(picture, Audience(), LogFile(LOG)).application()
    async with TestServer(served) as server, looking(browser, str(server.make_url("/"))) as page:
        count, rows = page.locator("#count"), page.locator("#migrations tr:visible")
        await expect(count).to_have_text("101 of 231 shown, 1 running")
        await expect(page.get_by_text("7 older ones are only in the log")).to_be_visible()
        await assert_reads_well(page)
        older = page.get_by_role("button", name="Show older ones")
        await older.press("Enter")
        await expect(rows).to_have_count(201)
        await expect(rows.nth(101).get_by_role("link")).to_be_focused()
        await older.press("Enter")
        await expect(rows).to_have_count(231)
        await expect(older).to_be_hidden()
        await page.reload()
        await page.get_by_role("searchbox", name="Filter").fill("trainer-2 completed")
        await expect(page.get_by_role("link", name="trainer-2", exact=True)).to_be_visible()
        await expect(count).to_have_text("43 of 231 shown, 1 running")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
async def test_it_reads_well_in_light_and_dark_wide_and_narrow(
    pages: Pages, scheme: Literal["light", "dark"], width: int
) -> None:
    browser, cluster, _ = pages
    async with looking(browser, cluster.page_url, width, scheme) as page:
        await page.get_by_role("link", name="done").wait_for()
        await assert_reads_well(page)
        await page.get_by_role("link", name="done").click()
        await expect(page.locator("#timeline li").first).to_be_visible()
        await assert_reads_well(page)


async def assert_reads_well(page: Page) -> None:
    faint: Sequence[Any] = await page.evaluate(TOO_FAINT, CONTRAST_MIN)
    assert faint == []
    assert await page.evaluate(UNNAMED) == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for landmark in ("header", "main", "footer"):
        await expect(page.locator(f"body > {landmark}")).to_have_count(1)
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)


async def test_the_script_still_takes_every_picture_of_the_docs(
    pages: Pages, tmp_path: Path
) -> None:
    browser, cluster, _ = pages
    script = runpy.run_path(str(DOCS / "make_screenshots.py"))
    await script["draw_page"](browser, cluster.page_url, tmp_path, over="done", running="busy")
    await script["draw_watch"](cluster.nats_url, tmp_path)
    shown = re.findall(r"\(images/([^)]+)\)", (DOCS / "watching.md").read_text("utf-8"))
    assert set(os.listdir(tmp_path)) == set(shown)  # noqa: PTH208
    assert "busy" in (tmp_path / "watch.svg").read_text("utf-8")


async def test_the_report_needs_nothing_else_and_prints(pages: Pages) -> None:
    browser, cluster, _ = pages
    listed = await browser.new_page()
    await listed.goto(cluster.page_url)
    await listed.get_by_role("link", name="done").click()
    link = await listed.get_by_role("link", name="Postmortem").get_attribute("href")
    await listed.close()
    assert link is not None
    async with looking(browser, cluster.page_url.rstrip("/") + link) as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text(
            "Migration of done: completed"
        )
        for part in ("What happened", "Rounds", "The stun, taken apart", "What if", "Verification"):
            await expect(page.get_by_role("heading", name=part)).to_be_visible()
        await expect(page.locator(".wrong")).to_have_count(0)
        await expect(page.locator(".bar").first).to_be_visible()
        printed = await page.pdf(format="A4")
        assert printed.startswith(b"%PDF")
