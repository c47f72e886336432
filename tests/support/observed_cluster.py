"""A cluster that is looked at from outside: what its services export."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from span_collector import SpanCollector

COUNTED_S_MAX = 20.0


@dataclass(frozen=True)
class Observed:
    """What has happened, and where it can be seen."""

    cluster: Cluster
    log: NatsLog
    collector: SpanCollector
    completed: str
    aborted: str

    async def scrape(self, service: str) -> list[Sample]:
        """All samples of one service, such as ``coordinator`` or ``host-1-source_host``."""
        text = await asyncio.to_thread(_text, f"http://{self.address(service)}/metrics")
        families = text_string_to_metric_families(text)
        return [sample for family in families for sample in family.samples]

    def address(self, service: str) -> str:
        """Where a service answers."""
        host, _, role = service.rpartition("-")
        place = f"hosts/{host}/{role}" if host else f"services/{service}"
        (file,) = self.cluster.directory.glob(f"{place}/**/health.json")
        told = json.loads(file.read_text())
        return f"{told['host']}:{told['port']}"

    async def until(self, service: str, name: str, value: float, **labels: str) -> None:
        """Wait until a sample has a value: facts are counted a little after they are stored."""
        async with asyncio.timeout(COUNTED_S_MAX):
            while True:
                for sample in await self.scrape(service):
                    if (sample.name, sample.labels, sample.value) == (name, labels, value):
                        return


def _text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())
