"""A real Prometheus, Debian's own, that scrapes real services as deploy/observability says."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from nats_cluster import free_port

FOLDER = Path(__file__).parents[2] / "deploy/observability"
MISSING = "there is no Prometheus: apt-get install --no-install-recommends prometheus"
READY_S_MAX = 30.0
SCRAPE_S = 0.2
Targets = dict[tuple[str, str], str]
"""Addresses by service and host. What is shipped and not among them is left out."""


def find(program: str) -> str:
    """Fails where there is none: what was not tried is not proven."""
    found = shutil.which(program)
    assert found, MISSING
    return found


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def ask(self, path: str, **asked: str) -> Any:
        """What its API answers. Raises ``OSError`` if it refuses."""
        url = f"{self.url}/api/v1/{path}?{urlencode(asked)}"
        return (await asyncio.to_thread(_json, url))["data"]

    async def until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it is so."""
        async with asyncio.timeout(READY_S_MAX):
            while True:
                with suppress(OSError):
                    if await is_so():
                        return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(directory: Path, targets: Targets) -> AsyncIterator[Prometheus]:
    """One with the rules and labels that are shipped, which often scrapes ``targets``."""
    port = free_port()
    config = configured(directory, targets)
    process = await asyncio.create_subprocess_exec(
        find("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()


def configured(directory: Path, targets: Targets) -> Path:
    shutil.copy(FOLDER / "alerts.yml", directory)
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_S * 1000:.0f}ms", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [
        {"targets": [targets[key]], "labels": each["labels"]}
        for each in job["static_configs"]
        if (key := (each["labels"]["service"], each["labels"].get("host", ""))) in targets
    ]
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)
