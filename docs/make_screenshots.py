"""Makes the pictures in docs/images from a cluster that really runs.

Moves one machine and keeps another moving; looks at the page and a report in Chromium (Debian's
``chromium``, by playwright), and draws ``godwit watch`` as it would be on a terminal.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.async_api import Browser, async_playwright
from rich.console import Console, Group

from godwit.cli.connection import open_url
from godwit.cli.migration import request_migration
from godwit.cli.watch import Watching
from godwit.cli.watch_drawing import drawn
from godwit.cli.watch_keys import Mode, Screen
from godwit.local_cluster.cluster import Cluster
from godwit.runtime.watching_log import INBOX_PREFIX, WatchingLog
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.events.migration import Limits, Verify

IMAGES = Path(__file__).parent / "images"
MEMHOG = "godwit.guests.memhog:Memhog"
OVER, RUNNING = "search", "trainer"
COLUMNS, LINES = 110, 20


async def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="godwit-pictures-") as directory:
        async with await Cluster.start(Path(directory), monitor=True) as cluster:
            await move_machines(cluster)
            async with async_playwright() as playwright:
                program = shutil.which("chromium")
                arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
                browser = await playwright.chromium.launch(executable_path=program, args=arguments)
                await draw_page(browser, cluster.page_url, IMAGES)
                await browser.close()
            await draw_watch(cluster.nats_url, IMAGES)


async def move_machines(cluster: Cluster) -> None:
    """One migration that is over, and one that goes on."""
    for name, profile, rate in (
        (OVER, "H100XM-4C", 5_000_000),
        (RUNNING, "H100XM-20C", 50_000_000),
    ):
        start = ("machine", "start", name, "--guest", MEMHOG, "--host", "host-1")
        await godwit(cluster, *start, "--vgpu", profile, "--env", f"GODWIT_MEMHOG_RATE={rate}")
    await godwit(cluster, "migrate", OVER, "--to", "host-2", "--admission", "warn")
    endless = Limits(stun_limit_ns=1_000, rounds_max=4_000, stalled_rounds_max=4_000)
    warn = AdmissionPolicy.WARN
    async with open_url(cluster.nats_url) as log:
        await request_migration(log, RUNNING, "host-2", endless, Verify.WIRE, warn)


async def draw_watch(nats_url: str, images: Path) -> None:
    """The list, and the newest migration in detail."""
    async with open_url(nats_url, inbox_prefix=INBOX_PREFIX) as log:
        watching = Watching(WatchingLog(log), "")
        await watching.read()
    rows = watching.board.rows()
    for name, screen in (
        ("watch", Screen()),
        ("watch-detail", Screen(mode=Mode.DETAIL, chosen=rows[0].summary.id)),
    ):
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        console.print(Group(*drawn(screen, rows, COLUMNS, LINES, time.time_ns())))
        # Its fonts would be fetched from elsewhere; any other of fixed width will do.
        svg = re.sub(r"@font-face {.*?}", "", console.export_svg(title="godwit watch"), flags=re.S)
        (images / f"{name}.svg").write_text(svg, encoding="utf-8")


async def draw_page(
    browser: Browser, url: str, images: Path, over: str = OVER, running: str = RUNNING
) -> None:
    """The page, light and dark, and the whole report of a migration that is over."""
    for scheme, name in (("light", "page"), ("dark", "page-dark")):
        page = await browser.new_page(
            viewport={"width": 1000, "height": 600},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        await page.goto(url)
        await page.get_by_role("link", name=running).wait_for()
        await page.screenshot(path=images / f"{name}.png")
        await page.get_by_role("link", name=over).click()
        link = await page.get_by_role("link", name="Postmortem").get_attribute("href")
        await page.goto(url.rstrip("/") + str(link))
        if scheme == "light":
            await page.screenshot(path=images / "report.png", full_page=True)
        await page.close()


async def godwit(cluster: Cluster, *words: str) -> None:
    program = str(Path(sys.executable).with_name("godwit"))
    process = await asyncio.create_subprocess_exec(program, *words, env=cluster.environ())
    assert await process.wait() == 0, words


if __name__ == "__main__":
    asyncio.run(main())
