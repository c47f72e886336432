"""Where the event log of an earlier local cluster was, as its file says; people edit files."""

from __future__ import annotations

from pathlib import Path

import pytest

from godwit.local_cluster.cluster import Cluster


@pytest.mark.parametrize(
    ("described", "port"),
    [
        ('{"nats_url": "nats://127.0.0.1:4333"}', 4333),
        ('{"nats_url": "nats://elsewhere:4333"}', None),
        ('{"nats_url": "nats://127.0.0.1:port"}', None),
        ('{"nats_url": 4333}', None),
        ('{"nats_url": null}', None),
        ("[4333]", None),
        ("{", None),
        ("", None),
    ],
)
def test_what_is_no_address_is_no_port(tmp_path: Path, described: str, port: int | None) -> None:
    (tmp_path / "cluster.json").write_text(described)
    cluster = Cluster(tmp_path, ["host-1"], gpus="", report=print)
    assert cluster._earlier_port() == port
