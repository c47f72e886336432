"""Over a link that the kernel makes slow, pages go out compressed, and are there sooner."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "slow_link.py"

PLAIN_S = 64 * 2**20 / (200e6 / 8)
"""What the link needs for the machine as it is."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]


def test_compression_is_chosen_on_a_slow_link_and_pays(tmp_path: Path) -> None:
    """Two clusters, in a network of their own: one as it is, and one that compresses nothing."""
    found = tmp_path / "slow_link.json"
    words = [sys.executable, str(BENCH), "--quick", "--json", str(found)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(found.read_text())
    (row,), (rounds,) = record["rows"], record["notes"]
    assert row["theirs"][0] > PLAIN_S
    assert row["ratios"][0] < 0.8
    assert re.search(r"rounds: .* with (lz4|zstd)", rounds)
