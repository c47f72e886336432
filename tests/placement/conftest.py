"""The catalogue that comes with Godwit, and ways to say what sits on a GPU."""

from __future__ import annotations

import pytest

from godwit.catalogue.loading import load
from godwit_protocol.catalogue import Catalogue, GpuModel
from godwit_protocol.placement.shapes import Solver, Tables, solver

H100 = "H100-80GB"


@pytest.fixture(scope="session")
def shipped() -> Catalogue:
    return load()


@pytest.fixture(scope="session")
def solving(shipped: Catalogue) -> Solver:
    return solver(shipped)


@pytest.fixture(scope="session")
def h100(shipped: Catalogue) -> GpuModel:
    return shipped.model(H100)


@pytest.fixture(scope="session")
def h100_tables(solving: Solver) -> Tables:
    return solving.tables(H100)
