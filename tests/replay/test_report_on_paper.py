"""``godwit replay report`` in a real browser, from the file that it wrote: on paper, too."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from browser import chromium
from godwit.runtime.log_file import LogFile
from godwit_protocol import subjects
from godwit_protocol.events.migration import PrecopyStarted
from godwit_protocol.replay import lines
from godwit_protocol.replay.timeline import timeline
from godwit_protocol.stored import Stored

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

LOGS: Final = Path(__file__).parents[1] / "golden" / "logs"
GODWIT: Final = Path(sys.executable).with_name("godwit")
OUTCOMES: Final = {
    "v1-completed": "completed",
    "v1-aborted": "aborted",
    "v1-rolled-back": "aborted",
    "v1-in-doubt": "in doubt",
}
A4_PIXELS: Final = {"width": 718, "height": 1047}
"""Within margins of a centimetre."""
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
  .map((element) => element.outerHTML.slice(0, 80))"""
PALER_IN_PRINT = """() => [...document.querySelectorAll("body, body *")]
  .filter((element) => getComputedStyle(element).printColorAdjust !== "exact")
  .map((element) => element.outerHTML.slice(0, 80))"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


def with_replies(name: str, path: Path) -> tuple[str, str]:
    """Writes the log of a real run, with two replies of its machine, 7 ms apart. Says what the
    migration and the machine are called.
    """
    file = LogFile(LOGS / f"{name}.ndjson")
    migration, messages = file.head().of, list(file.messages())
    machine = timeline(migration, messages).summary.machine
    copying = next(each for each in messages if each.subject.endswith(PrecopyStarted.TYPE))
    begun, subject = copying.time_ns, subjects.guest_reply(machine)
    replies = [
        Stored(subject=subject, sequence=number, time_ns=begun + number * 7_000_000, data=b"")
        for number in (1, 2)
    ]
    written = map(lines.encode_line, (*messages, *replies))
    path.write_bytes(lines.encode_head() + b"".join(written))
    return migration, machine


@pytest.mark.parametrize("name", OUTCOMES)
async def test_it_needs_nothing_else_and_reads_well_on_paper(
    browser: Browser, tmp_path: Path, name: str
) -> None:
    log, page_file = tmp_path / "log.ndjson", tmp_path / "report.html"
    migration, machine = with_replies(name, log)
    words = ("replay", "report", migration, "--html", str(page_file), "--from", str(log))
    process = await asyncio.create_subprocess_exec(GODWIT, *words)
    assert await process.wait() == 0

    page = await browser.new_page(viewport=A4_PIXELS)
    asked, complaints = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(page_file.as_uri())
    heading = page.get_by_role("heading", level=1)
    await expect(heading).to_have_text(f"Migration of {machine}: {OUTCOMES[name]}")
    await expect(page.locator(".wrong")).to_have_count(0)
    await expect(page.locator(".bar").first).to_be_visible()
    replies = page.get_by_text("at most 7.0 ms without one, of 2 replies")
    await expect(replies).to_have_count(0 if name == "v1-in-doubt" else 1)

    await page.emulate_media(media="print")
    assert await page.evaluate(TOO_WIDE) == []
    assert await page.evaluate(PALER_IN_PRINT) == []
    assert (await page.pdf(format="A4")).startswith(b"%PDF")
    assert (asked, complaints) == ([page_file.as_uri()], [])
    await page.close()
