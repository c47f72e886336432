"""Runs are told by their notes: what the services log would be megabytes."""

from collections.abc import Iterator

import pytest
import structlog
from calm_cluster import CalmCluster

from godwit_protocol.events import machine as mev


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@pytest.fixture
def calm() -> Iterator[CalmCluster]:
    """A calm cluster with a machine that runs."""
    cluster = CalmCluster()
    cluster.start()
    cluster.until(cluster.has_told(mev.MachineStarted))
    yield cluster
    cluster.world.bury()
