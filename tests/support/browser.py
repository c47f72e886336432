"""A headless Chromium, Debian's own: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

MISSING = "there is no Chromium: apt-get install --no-install-recommends chromium"


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Fails where there is none: what was not looked at is not proven."""
    program = shutil.which("chromium")
    assert program, MISSING
    # Its sandbox does not work for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()
